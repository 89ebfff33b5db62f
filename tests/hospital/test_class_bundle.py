"""A classifier as a bundle: MONAI and `wardround predict` tell the same classes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import monai.bundle
import pytest
import torch

from wardround.data.hospitals import hospital
from wardround.data.phantom_record import CLASSES, COLUMNS
from wardround.data.phantom_types import write_types
from wardround.errors import ModelRefused
from wardround.hospital import class_prediction
from wardround.hospital.bundle_words import Title
from wardround.hospital.class_bundle import write_class_bundle
from wardround.hospital.class_inputs import read_cases
from wardround.hospital.classification import CaseSampling
from wardround.models import bundle_files, checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.specs import describe
from wardround.models.vit import ViTFusion

SEQUENCES = ("t1", "t1ce", "t2", "flair")
RECORD = [column.as_json() for column in COLUMNS.columns]
SAMPLING = CaseSampling(CLASSES, SEQUENCES, RECORD, 32, 1, 0.5, 4, 0.0, record=True, augment=False)
SPEC = ViTFusion("test_vit", 4, (32, 32), len(COLUMNS.features), 3, "shared", depth=1)
PRETRAINED = "/home/hospital/weights.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("model") / "deploy_model.npz"
    arrays = {name: (b + 0.1 * torch.randn_like(b)).detach().numpy() for name, b in SPEC.build(0).named_parameters()}
    about = describe(SPEC)
    about["args"]["weights"] = {"file": PRETRAINED, "sha256": "0" * 64}
    meta = {"model": about, "label_kind": "classes", "inputs": SAMPLING.described, "candidate": "local", "k": 0}
    checkpoint.save(
        path, arrays, fingerprint(SPEC), {**meta, "settings": {"job": "x", "model.weights.file": PRETRAINED}}
    )
    return path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    title = Title("wardround_types", "The local model", "A", "B")
    return write_class_bundle(tmp_path_factory.mktemp("out") / "b", class_prediction.read_classifier(model), title)


def test_monai_tells_the_same_classes(model: Path, bundle: Path, tmp_path: Path) -> None:
    folder = write_types(tmp_path / "west", hospital(3), 0, 7, (32, 32, 24))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai.bundle.run(
            config_file=str(bundle / "configs" / "inference.json"),
            bundle_root=str(bundle),
            dataset_dir=str(folder),
            output=str(tmp_path / "monai.json"),
            device="cpu",
        )
    found = json.loads((tmp_path / "monai.json").read_text())
    for source in (model, bundle):
        ours = class_prediction.read_classifier(source)
        cases = read_cases(folder, None, ours.sampling.spec, ours.sampling.record)
        assert class_prediction.predict_classes(cases, ours, "cpu", lambda done, total: None) == found["cases"]
    assert found["model"]["weights"] == ours.digest
    assert len({tuple(row["probabilities"].values()) for row in found["cases"]}) > 1


def test_monai_loads_the_network(model: Path, bundle: Path) -> None:
    with pytest.warns(UserWarning, match="eval"):
        net = monai.bundle.load(bundle.name, bundle_dir=str(bundle.parent), source="github", workflow_type="inference")
    arrays, _ = checkpoint.load(model)
    assert fingerprint(net) == fingerprint(SPEC)
    assert all(torch.equal(block, torch.from_numpy(arrays[name])) for name, block in net.named_parameters())


def test_metadata(bundle: Path) -> None:
    text = (bundle / "configs" / "metadata.json").read_text()
    meta = json.loads(text)
    assert set(meta["required_packages_version"]) == {"wardround", "timm"}
    assert meta["network_data_format"]["inputs"]["patient"]["num_channels"] == SAMPLING.vector.length
    assert meta["network_data_format"]["outputs"]["pred"]["num_channels"] == len(CLASSES)
    assert [meta["wardround"]["meta"]["settings"], meta["wardround"]["fingerprint"]] == [
        {"job": "x"},
        fingerprint(SPEC),
    ]
    everything = [path.read_bytes() for path in bundle.rglob("*") if path.is_file()]
    assert not [content for content in everything if PRETRAINED.encode() in content], "a path of the hospital's machine"


def test_another_architecture_is_refused(bundle: Path) -> None:
    with pytest.raises(ModelRefused, match="another architecture"):
        bundle_files.load_any(bundle, "0" * 16)
