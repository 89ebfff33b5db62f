import json
from pathlib import Path

import pytest

from wardround.cli.main import main
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.models.specs import describe

SPEC = UNet3d(channels=(4, 8))


def weights(path: Path, **meta: object) -> Path:
    arrays = {name: block.detach().numpy() for name, block in SPEC.build(0).named_parameters()}
    content = {"model": describe(SPEC), "patch": [16, 16, 16], "label_kind": "brats", **meta}
    checkpoint.save(path, arrays, fingerprint(SPEC), content)
    return path


def a_run(root: Path, job: str = "brats_fedavg") -> Path:
    weights(root / "server/simulate_job/wardround/final_model.npz", round=2, settings={"job": job})
    for site in ("site-1", "site-2"):
        weights(root / site / "simulate_job/wardround/deploy_model.npz", candidate="personalised", k=5)
    return root


def entry(bundle: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((bundle / "configs" / "metadata.json").read_text())["wardround"]["meta"]
    return found


def test_a_run_becomes_one_bundle_per_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundles"
    assert main(["export", str(a_run(tmp_path / "run")), "--out", str(out), "--authors", "A and B"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["global", "site-1", "site-2"]
    assert entry(out / "global")["round"] == 2
    assert entry(out / "site-2")["candidate"] == "personalised"
    said = capsys.readouterr().out
    assert "personalised, 5 fine-tuning steps" in said
    assert json.loads((out / "site-1/configs/metadata.json").read_text())["authors"] == "A and B"
    assert main(["export", str(tmp_path / "run"), "--out", str(out)]) == 2, "it is there already"


def test_one_model_and_predict_with_its_bundle(hospitals: Path, tmp_path: Path) -> None:
    model, out = weights(tmp_path / "m.npz", candidate="local", k=0), tmp_path / "bundle"
    assert main(["export", str(model), "--out", str(out)]) == 0
    case = next(path for path in sorted((hospitals / "site-1").iterdir()) if path.is_dir())
    found = []
    for name in (model, out):
        mask = tmp_path / f"{name.stem}_mask.nii.gz"
        assert main(["predict", str(case), "--model", str(name), "--out", str(mask), "--device", "cpu"]) == 0
        found.append(mask.read_bytes())
    assert found[0] == found[1]


def test_a_shared_model_that_is_not_whole_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = a_run(tmp_path / "run", job="brats_fedrep"), tmp_path / "bundles"
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["site-1", "site-2"]
    assert "left out" in capsys.readouterr().err
    assert main(["export", str(run / "server"), "--out", str(tmp_path / "none")]) == 2
    assert "not whole" in capsys.readouterr().err


def test_a_run_folder_at_a_hospital(tmp_path: Path) -> None:
    run, out = a_run(tmp_path / "run"), tmp_path / "bundles"
    assert main(["export", str(run / "site-1/simulate_job/wardround"), "--out", str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["deploy"]


def test_no_run_and_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["export", str(tmp_path / "empty"), "--out", str(tmp_path / "x")]) == 2
    assert "neither final_model.npz" in capsys.readouterr().err
    for job in ("job1", "job2"):
        weights(tmp_path / "site-1" / job / "wardround/deploy_model.npz")
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "one model for each hospital" in capsys.readouterr().err


def test_a_classifier_is_refused_and_the_user_reads_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's shared model comes first: it is refused as well, not left out as if the others could be exported."""
    run, out = a_run(tmp_path / "run"), tmp_path / "bundles"
    for file in run.rglob("*.npz"):
        weights(file, model={"path": "ViTFusion", "args": {}})
    assert main(["export", str(run), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "one that tells classes" in said
    assert "wardround predict FOLDER --model final_model.npz" in said
    assert not out.exists()
