"""A blend is deployed as one network: predict, bundle, MONAI alone and the service give the same masks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import drawn, mask, run_by_monai_alone

from wardround.cli.cmd_predict import describe as in_words
from wardround.core.errors import ModelRefused
from wardround.export.bundle import CODE, write_bundle
from wardround.export.bundle_text import Title
from wardround.models import checkpoint
from wardround.models.blend import PARTS, Blend
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.models.specs import describe
from wardround.serving.inference import Model
from wardround.serving.limits import Limits
from wardround.serving.upload import case_of
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort
from wardround.tasks.inference import predict_logits
from wardround.training import prediction

SINGLE = UNet3d((4, 12), norm="group", adapter_rank=1)
SHARE = 0.25
MIXED = {"share": SHARE, "of": "fedavg_finetuned", "k": 5}
META = {"candidate": "blend", "k": 5, "val_score": 0.5, "patch": [16, 16, 16], "label_kind": "brats", "mixed": MIXED}
TITLE = Title("wardround_blend", "This hospital's model: blend", "Three hospitals", "Copyright of theirs")


def members(spec: UNet3d = SINGLE) -> list[dict[str, np.ndarray]]:
    return [drawn(spec, seed) for seed in (0, 1)]


def saved(path: Path, spec: UNet3d = SINGLE, **meta: object) -> Path:
    blend = Blend(spec, SHARE)
    arrays = {
        f"{part}.{name}": one for part, mine in zip(PARTS, members(spec), strict=True) for name, one in mine.items()
    }
    checkpoint.save(path, arrays, fingerprint(blend), {"model": describe(blend), **META, **meta})
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "deploy_model.npz")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cases"), hospital(0), 0, (20, 20, 20), 3)[0]


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "site-1", prediction.read_weights(model), TITLE)


def test_the_mask_is_where_the_mean_probability_is_above_one_half(model: Path, case: Path, tmp_path: Path) -> None:
    """Each member alone through the same windows, the mean in float64."""
    single, (files,) = tmp_path / "single.npz", prediction.cases_in(case, None)
    volume = prediction.read_images(files)
    chances = []
    for arrays in members():
        checkpoint.save(single, arrays, fingerprint(SINGLE), {"model": describe(SINGLE), **META})
        weights = prediction.read_weights(single)
        image = np.asarray(volume.image, np.float32)
        net = prediction.ready(weights, "cpu").module
        logits = predict_logits(net, image, volume.present, (16, 16, 16), "cpu", 3)
        chances.append(1 / (1 + np.exp(-logits.astype(np.float64))))
    mean = SHARE * chances[0] + (1 - SHARE) * chances[1]
    weights = prediction.read_weights(model)
    found = prediction.regions_of(volume, weights, prediction.ready(weights, "cpu"))
    sure = np.abs(mean - 0.5) > 1e-5
    wanted = weights.task.outputs.nested(mean > 0.5)
    assert ((found == wanted) | ~sure.all(0)).all()
    assert sure.mean() > 0.999
    assert found.any()
    assert not all((found == weights.task.outputs.nested(one > 0.5)).all() for one in chances)


def test_monai_alone_writes_the_same_mask(model: Path, bundle: Path, case: Path, tmp_path: Path) -> None:
    assert f"{CODE}.models.blend" in run_by_monai_alone(bundle, case, tmp_path / "monai")
    (found,) = (tmp_path / "monai").iterdir()
    assert found.read_bytes() == mask(model, case, tmp_path / "mask.nii.gz")


def test_wardround_reads_its_bundle(model: Path, bundle: Path, case: Path, tmp_path: Path) -> None:
    assert mask(bundle, case, tmp_path / "a.nii.gz") == mask(model, case, tmp_path / "b.nii.gz")
    read = prediction.read_weights(bundle)
    assert read.spec == Blend(UNet3d((4, 12), norm="group"), SHARE), "adapters of both members are folded in"
    assert read.meta["mixed"] == MIXED


def test_the_service_gives_the_same_mask(model: Path, case: Path, tmp_path: Path) -> None:
    served = Model(prediction.read_weights(model), "brats", "cpu", 4)
    assert served.about["candidate"] == "blend"
    images = {name: (case / f"{case.name}_{name}.nii.gz").read_bytes() for name in ("t1", "t1ce", "t2", "flair")}
    answer = served.predict(case_of(images, Limits(2**20, 2**23, 10**6, 1, 5, 60)))
    assert answer.mask == mask(model, case, tmp_path / "mask.nii.gz")


def test_card_and_description_say_what_it_is_made_of(model: Path, bundle: Path) -> None:
    text = (bundle / "docs" / "README.md").read_text()
    words = "25% of the hospital's own local model, 75% of the FedAvg + fine-tuning model after 5 fine-tuning steps"
    assert f"| made of | the mean of two networks' probabilities: {words} |" in text
    assert "| network | two of UNet3d: channels" in text
    assert words in in_words(prediction.read_weights(model).meta)
    between = {"candidate": "interpolated", "k": 5, "mixed": {"share": 0.75, "of": "fedavg", "k": 5}}
    assert in_words(between).endswith(
        "interpolated, one network with weights between two: 25% of the FedAvg model, 75% of it fine-tuned"
    )


def test_a_plain_unet_blend_loads_with_monai(tmp_path: Path) -> None:
    """metadata and config name one network with all weights: MONAI fills it and runs it like any other."""
    import monai.bundle

    spec = UNet3d((4, 8))
    out = write_bundle(tmp_path / "plain", prediction.read_weights(saved(tmp_path / "m.npz", spec)), TITLE)
    network = json.loads((out / "configs" / "inference.json").read_text())["network_def"]
    assert network["_target_"] == f"{CODE}.models.blend.Blended"
    assert network["own"]["_target_"] == network["shared"]["_target_"] == "UNet"
    assert network["share"] == SHARE
    state = torch.load(out / "models" / "model.pt", weights_only=True)
    assert {name.partition(".")[0] for name in state} == set(PARTS)
    sys.path.insert(0, str(out))
    try:
        with pytest.warns(UserWarning, match="eval"):
            net = monai.bundle.load("plain", bundle_dir=str(tmp_path), source="github", workflow_type="inference")
    finally:
        sys.path.remove(str(out))
    assert type(net).__name__ == "Blended"


@pytest.mark.parametrize(
    "change",
    [
        {"share": 1.0},
        {"share": "$1/2"},
        {"exclusive": True},
        {"network": {"path": "os.system", "args": {"command": "true"}}},
    ],
)
def test_a_forged_blend_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    said = describe(Blend(SINGLE, SHARE))
    with pytest.raises(ModelRefused, match=r"m\.npz"):
        prediction.read_weights(saved(tmp_path / "m.npz", model={**said, "args": {**said["args"], **change}}))


def test_a_share_that_was_changed_afterwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="another architecture"):
        prediction.read_weights(saved(tmp_path / "m.npz", model=describe(Blend(SINGLE, 0.5))))
