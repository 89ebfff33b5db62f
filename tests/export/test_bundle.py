"""A bundle, written from a small network: MONAI runs it where wardround cannot be imported."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from bundles import drawn, mask, run_by_monai_alone

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.export.bundle import CODE, write_bundle
from wardround.export.bundle_text import Title
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.models.specs import describe
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import write_cohort
from wardround.tasks.brain_tumours import DESCRIPTION
from wardround.training import prediction

SPEC = UNet3d((4, 12), norm="group", adapter_rank=1)
TITLE = Title("wardround_test", "This hospital's model: personalised", "Three hospitals", "Copyright of theirs")
META = {"candidate": "personalised", "k": 5, "val_score": 0.5, "patch": [16, 16, 16], "label_kind": "brats"}
# A model predicts in a bundle as it was evaluated: in mirror images, and with its filter of regions.
META |= {
    "inputs": {"task": {**DESCRIPTION, "mirrored": 4}},
    "largest_component": ["ET"],
    "least_volume_mm3": {"ET": 20.0},
}
# What MONAI's schema of 2024-07-25 requires, and of which type.
REQUIRED = {
    **dict.fromkeys(("schema", "version", "monai_version", "pytorch_version", "numpy_version"), str),
    **dict.fromkeys(("task", "description", "authors", "copyright"), str),
    **dict.fromkeys(("required_packages_version", "network_data_format"), dict),
}
TENSOR = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list}
OPTIONAL = {"changelog": dict, "eval_metrics": dict, "references": list, "intended_use": str, "data_type": str}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases: one stored in other axes, one without T2."""
    root = tmp_path_factory.mktemp("cases")
    first, second, *others = write_cohort(root, hospital(0), 0, (20, 20, 20), 3)
    for folder in others:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    for file in first.glob("*.nii.gz"):
        image = nibabel.load(file)
        to = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("SAL")
        )
        nibabel.save(image.as_reoriented(to), file)
    next(second.glob("*_t2.nii.gz")).unlink()
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "deploy_model.npz"
    checkpoint.save(path, drawn(SPEC), fingerprint(SPEC), {"model": describe(SPEC), **META})
    return path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "site-1", prediction.read_weights(model), TITLE)


def masks(model: Path, cases: Path, out: Path) -> dict[str, bytes]:
    names = sorted(path.name for path in cases.iterdir() if path.is_dir())
    return {f"{name}_mask.nii.gz": mask(model, cases / name, out / f"{name}_mask.nii.gz") for name in names}


def test_monai_alone_writes_the_same_files(model: Path, bundle: Path, cases: Path, tmp_path: Path) -> None:
    assert CODE in run_by_monai_alone(bundle, cases, tmp_path / "monai")
    found = {path.name: path.read_bytes() for path in (tmp_path / "monai").iterdir()}
    assert found == masks(model, cases, tmp_path / "npz")
    values = [np.unique(np.asarray(nibabel.load(path).dataobj)) for path in (tmp_path / "monai").iterdir()]
    assert all(len(one) > 1 and set(one) <= {0, 1, 2, 4} for one in values), "masks that are not trivial"


def test_the_command_of_its_readme_runs_as_printed_and_says_what_it_is(cases: Path, tmp_path: Path) -> None:
    """A whole-tumour model of phantoms: MONAI's command line writes 0 and 1, and shouts before it does."""
    path, origin = tmp_path / "m.npz", {"data": "phantoms", "sites": {"phantoms": 3}}
    arrays = {name: p.detach().numpy() for name, p in UNet3d((4, 8)).build(3).named_parameters()}
    meta = META | {"label_kind": "whole_tumour", "trained_on": origin, "model": describe(UNet3d((4, 8)))}
    checkpoint.save(path, arrays, fingerprint(UNet3d((4, 8))), meta)
    out = write_bundle(tmp_path / "whole", prediction.read_weights(path), TITLE)
    text = (out / "docs" / "README.md").read_text()
    assert "Values: 0 background, 1 whole tumour" in text
    assert "enhancing" not in text.partition("## What it is")[0]
    (line,) = re.findall(r"^    python (-m monai\.bundle run .*)$", text, re.MULTILINE)
    words = line.replace("CASES", str(cases)).split()
    done = subprocess.run([sys.executable, *words], cwd=out, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "INVENTED PATIENTS" in done.stdout
    assert "used t1" in done.stdout
    masks_ = sorted((out / "masks").glob("*.nii.gz"))
    assert len(masks_) == 2
    assert all(set(np.unique(np.asarray(nibabel.load(path).dataobj))) <= {0, 1} for path in masks_)
    more = subprocess.run(
        [sys.executable, *words, "--label_kind", "brats"],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert more.returncode != 0
    assert "nobody trained" in more.stderr


def test_the_model_card(tmp_path: Path) -> None:
    """It says what is known; numbers over fewer than five patients are not in what is made to be given away."""
    arrays = {name: p.detach().numpy() for name, p in UNet3d((4, 8)).build(3).named_parameters()}
    known = {"hospitals": 3, "sequences": {"t1": 3, "flair": 2}, "label_kinds": {"brats": 3}, "rounds": 7}
    real = {"data": "patients", "sites": {"patients": 3}}
    for number, (val, shown) in enumerate(((6, "0.65 (n = 6)"), (4, "not reported"), (None, "not reported"))):
        patients = {"train": 40, "val": val, "test": 9}
        meta = META | {"val_score": 0.654321, "card": known | {"patients": patients}, "trained_on": real}
        meta |= {"model": describe(UNet3d((4, 8))), "settings": {"job": "x", "dp.noise": 1.1}}
        checkpoint.save(tmp_path / "m.npz", arrays, fingerprint(UNet3d((4, 8))), meta)
        out = write_bundle(tmp_path / str(number), prediction.read_weights(tmp_path / "m.npz"), TITLE)
        text = (out / "docs" / "README.md").read_text()
        assert f"| mean Dice on validation patients, which the choice was made by | {shown} |" in text
        for words in (
            "| hospitals | 3 |",
            "flair (2)",
            "train 40",
            "dp.noise 1.1",
            "trained on patients of 3 hospitals",
        ):
            assert words in text
        assert "Known limits" in text
        about = (out / "configs" / "metadata.json").read_text()
        assert "0.654" not in about
        assert ('"val": 6' in about) == (val == 6)
        assert '"val": 4' not in about
        assert ("val not reported (fewer than 5" in text) == (val != 6)
        assert ("0.65" in about) == (val == 6)


def test_wardround_reads_its_bundle_and_runs_none_of_its_code(
    model: Path, bundle: Path, cases: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(bundle), str(copy)], check=True)
    (copy / "configs" / "inference.json").write_text('{"x": "$1/0"}')
    (copy / CODE / "__init__.py").write_text("raise SystemExit(1)")
    assert masks(copy, cases, tmp_path / "bundle") == masks(model, cases, tmp_path / "npz")
    assert prediction.read_weights(copy).meta["candidate"] == "personalised"


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"label_kind": "$__import__('os').abort()"}, "kind of labels"),
        ({"label_kind": {"_target_": "os.abort"}}, "kind of labels"),
        ({"patch": ["$1", 16, 16]}, "patch"),
        ({"candidate": "$__import__('os').abort()"}, "MONAI evaluates"),
        ({"settings": {"job": ["@run", " %configs/inference.json::run"]}}, "MONAI evaluates"),
        ({"settings": {"_target_": "os.abort"}}, "MONAI evaluates"),
    ],
)
def test_a_file_of_weights_brings_no_code_into_a_bundle(tmp_path: Path, meta: dict[str, object], says: str) -> None:
    """A .npz runs nothing; MONAI would run what it says of itself, once that stands in a bundle."""
    spec, path = UNet3d((4, 8)), tmp_path / "m.npz"
    arrays = {name: p.detach().numpy() for name, p in spec.build(3).named_parameters()}
    checkpoint.save(path, arrays, fingerprint(spec), {"model": describe(spec), **META, **meta})
    with pytest.raises(ModelRefused, match=says):
        write_bundle(tmp_path / "out", prediction.read_weights(path), TITLE)
    assert not (tmp_path / "out").exists()


def test_monai_loads_a_plain_network(cases: Path, tmp_path: Path) -> None:
    """`monai.bundle.load` builds network_def and fills it, from any folder."""
    import monai.bundle

    spec, path = UNet3d((4, 8)), tmp_path / "m.npz"
    arrays = {name: p.detach().numpy() for name, p in spec.build(3).named_parameters()}
    checkpoint.save(path, arrays, fingerprint(spec), {"model": describe(spec), **META})
    write_bundle(tmp_path / "plain", prediction.read_weights(path), TITLE)
    with pytest.warns(UserWarning, match="eval"):
        net = monai.bundle.load("plain", bundle_dir=str(tmp_path), source="github", workflow_type="inference")
    assert type(net).__module__.startswith("monai.")
    x = torch.randn(2, 8, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(x), spec.build(3).eval()(x), rtol=1e-4, atol=1e-4)


def test_metadata_is_what_the_schema_asks_for(bundle: Path) -> None:
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert {key: type(meta[key]) for key in REQUIRED | OPTIONAL} == REQUIRED | OPTIONAL
    assert meta["version"] in meta["changelog"]
    assert "+" not in meta["pytorch_version"]
    tensors = [*meta["network_data_format"]["inputs"].values(), *meta["network_data_format"]["outputs"].values()]
    assert [{key: type(one[key]) for key in TENSOR} for one in tensors] == [TENSOR, TENSOR]
    assert [one["num_channels"] for one in tensors] == [SPEC.in_channels, SPEC.out_channels]
    assert all(len(one["channel_def"]) == one["num_channels"] for one in tensors)
    assert tensors[0]["spatial_shape"] == ["2*h", "2*w", "2*d"]
    assert meta["authors"] == "Three hospitals"
    assert "Not a medical device" in meta["intended_use"]
    entry = meta["wardround"]
    assert entry["fingerprint"] == fingerprint(UNet3d((4, 12), norm="group")), "adapters are folded in"
    assert (entry["meta"]["candidate"], entry["meta"]["k"]) == ("personalised", 5)


def test_what_people_read(bundle: Path) -> None:
    text = (bundle / "docs" / "README.md").read_text()
    assert "personalised" in text
    assert "reveal images" in text
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_the_code_in_it_is_closed(bundle: Path) -> None:
    """Every import of the copied modules is of another one, or of what MONAI's users have."""
    found = set()
    files = sorted((bundle / CODE).rglob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    ours = {name for name in found if name.split(".")[0] in (CODE, "wardround")}
    assert ours <= {".".join(file.relative_to(bundle).with_suffix("").parts) for file in files}
    others = {name.split(".")[0] for name in found - ours} - sys.stdlib_module_names
    assert others <= {"numpy", "torch", "monai", "nibabel", "scipy"}
    # scipy is imported where a model filters its regions, and nowhere else: then the bundle asks for it.
    asked = json.loads((bundle / "configs/metadata.json").read_text())["required_packages_version"]
    assert set(asked) == {"nibabel", "scipy"}


def test_a_folder_with_something_in_it_is_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigRefused, match="something in it"):
        write_bundle(tmp_path, prediction.read_weights(model), TITLE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_bundle_of_another_architecture_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(bundle), str(copy)], check=True)
    file = copy / "configs" / "metadata.json"
    meta = json.loads(file.read_text())
    meta["wardround"]["meta"]["model"]["args"]["norm"] = "instance"
    file.write_text(json.dumps(meta))
    with pytest.raises(ModelRefused, match="another architecture"):
        prediction.read_weights(copy)
