import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.jobs.cli import main
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.specs import describe

SPEC = UNet3d(channels=(4, 8))


def weights(path: Path, spec: UNet3d | SegResNet3d = SPEC, identity: str | None = None, **meta: object) -> Path:
    arrays = {name: block.detach().numpy() for name, block in spec.build(0).named_parameters()}
    content = {"model": describe(spec), "patch": [16, 16, 16], "label_kind": "brats", **meta}
    checkpoint.save(path, arrays, identity or fingerprint(spec), content)
    return path


def a_case(hospitals: Path, site: str = "site-1") -> Path:
    return next(path for path in sorted((hospitals / site).iterdir()) if path.is_dir())


def stored_as(case: Path, axes: str, root: Path) -> Path:
    """Copy the images of a case, without its mask, stored in other axes; world coordinates stay."""
    folder = root / case.name
    folder.mkdir(parents=True)
    target = nibabel.orientations.axcodes2ornt(axes)
    for file in case.glob("*.nii.gz"):
        image = nibabel.load(file)
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), target)
        if not file.name.endswith("_seg.nii.gz"):
            nibabel.save(image.as_reoriented(turn), folder / file.name)
    return folder


def test_the_mask_lies_where_the_images_lie_however_they_are_stored(hospitals: Path, tmp_path: Path) -> None:
    model, found = weights(tmp_path / "m.npz"), {}
    for axes in ("RAS", "LPS", "SAL"):
        case = stored_as(a_case(hospitals), axes, tmp_path / axes)
        out = tmp_path / f"{axes}.nii.gz"
        assert main(["predict", str(case), "--model", str(model), "--out", str(out), "--device", "cpu"]) == 0
        mask, image = nibabel.load(out), nibabel.load(case / f"{case.name}_t1.nii.gz")
        assert nibabel.aff2axcodes(mask.affine) == tuple(axes)
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        values = np.asarray(nibabel.as_closest_canonical(mask).dataobj)
        assert set(np.unique(values)) <= {0, 1, 2, 4}
        found[axes] = values
    assert 0 < np.count_nonzero(found["RAS"]) < found["RAS"].size
    np.testing.assert_array_equal(found["LPS"], found["RAS"])
    np.testing.assert_array_equal(found["SAL"], found["RAS"])


def test_defaults_volumes_and_kinds(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = a_case(hospitals)
    model = weights(tmp_path / "m.npz", label_kind="whole_tumour", candidate="personalised", k=5)
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(case), "--model", str(model)]) == 0
    out, err = capsys.readouterr()
    mask = nibabel.load(tmp_path / f"{case.name}_mask.nii.gz")
    values = np.asarray(mask.dataobj)
    assert set(np.unique(values)) == {0, 1}
    voxel_ml = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    assert out.startswith(f"WT {np.count_nonzero(values) * voxel_ml:.1f} ml\n")
    assert "personalised, 5 fine-tuning steps" in err
    three = ["--labels", "brats", "--enhancing", "3", "--out", "three.nii"]
    assert main(["predict", str(case), "--model", str(model), *three]) == 0
    assert set(np.unique(np.asarray(nibabel.load("three.nii").dataobj))) <= {0, 1, 2, 3}
    assert "ET " in capsys.readouterr().out


def test_a_second_network_and_a_missing_modality(hospitals: Path, tmp_path: Path) -> None:
    case = tmp_path / a_case(hospitals).name
    shutil.copytree(a_case(hospitals), case)
    (case / f"{case.name}_t2.nii.gz").unlink()
    model = weights(tmp_path / "m.npz", SegResNet3d(filters=8))
    assert main(["predict", str(case), "--model", str(model), "--out", str(tmp_path / "x.nii")]) == 0


def test_one_case_out_of_a_folder(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = weights(tmp_path / "m.npz"), tmp_path / "x.nii.gz"
    assert main(["predict", str(hospitals / "site-1"), "--model", str(model), "--out", str(out)]) == 2
    assert "5 cases" in capsys.readouterr().err
    wanted = ["--case", a_case(hospitals).name]
    assert main(["predict", str(hospitals / "site-1"), "--model", str(model), "--out", str(out), *wanted]) == 0
    assert out.is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"identity": "0123456789abcdef"}, "another architecture"),
        ({"model": {"path": "os.system", "args": {}}}, "cannot be built"),
        ({"model": {"path": "UNet3d", "args": {"channels": [4]}}}, "cannot be built"),
        ({"model": {"path": "UNet3d", "args": {"channels": [4, 16]}}}, "another architecture"),
        ({"model": "UNet3d"}, "a str"),
        ({"patch": [15, 16, 16]}, "multiples of 2"),
        ({"patch": "16"}, "multiples of 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: dict[str, object], words: str, hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = weights(tmp_path / "m.npz", **change)  # type: ignore[arg-type]
    out = tmp_path / "x.nii.gz"
    assert main(["predict", str(a_case(hospitals)), "--model", str(model), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_shared_model_without_its_head_is_refused(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, out = str(a_case(hospitals)), ["--out", str(tmp_path / "x.nii.gz")]
    part = weights(tmp_path / "part.npz", round=3, settings={"job": "brats_fedrep"})
    assert main(["predict", case, "--model", str(part), *out]) == 2
    assert "deploy_model.npz" in capsys.readouterr().err
    whole = weights(tmp_path / "whole.npz", round=3, settings={"job": "brats_fedavg"})
    assert main(["predict", case, "--model", str(whole), *out]) == 0
    assert "shared model of brats_fedavg after 3 rounds" in capsys.readouterr().err


def test_wrong_arguments(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, model = a_case(hospitals), weights(tmp_path / "m.npz")
    assert main(["predict", str(case), "--model", str(model), "--out", "mask.png"]) == 2
    assert ".nii.gz" in capsys.readouterr().err
    assert main(["predict", str(case), "--model", str(case / f"{case.name}_t1.nii.gz")]) == 2
    assert "not readable" in capsys.readouterr().err
    assert main(["predict", str(case), "--model", str(model), "--device", "cuda:99"]) == 2
    assert main(["predict", str(tmp_path), "--model", str(model)]) == 2


WORDS = "age [years] 18..90; sex: f | m; crp [mg/l] 0..100; ldh [U/l] 100..500"


def with_record(path: Path, words: str = WORDS, columns: int = 5) -> Path:
    """Weights whose branch for the record says something: its last layer is not zero."""
    spec = UNet3d(channels=(4, 8), ehr_columns=columns)
    module = spec.build(0)
    arrays = {name: block.detach().numpy().copy() for name, block in module.named_parameters()}
    arrays["film.2.weight"] += 0.5
    content = {"model": describe(spec), "patch": [16, 16, 16], "label_kind": "brats", "columns": words}
    checkpoint.save(path, arrays, fingerprint(spec), content)
    return path


def test_the_record_of_a_case(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, model, table = a_case(hospitals), with_record(tmp_path / "m.npz"), tmp_path / "record.csv"
    out = tmp_path / "x.nii.gz"

    def masks(*more: str) -> tuple[int, str, bytes]:
        out.unlink(missing_ok=True)
        code = main(["predict", str(case), "--model", str(model), "--out", str(out), "--device", "cpu", *more])
        return code, capsys.readouterr().err, np.asarray(nibabel.load(out).dataobj).tobytes() if out.exists() else b""

    code, said, blind = masks()
    assert code == 0
    assert "no --record: 0 of 5 values of the record are known (all missing)" in said
    table.write_text(f"patient,age [years],sex,crp [mg/l],ldh [U/l]\n{case.name},80,m,,450\n")
    code, said, seen = masks("--record", str(table))
    assert code == 0
    assert "4 of 5 values of the record are known (age, sex=f, sex=m, ldh)" in said
    assert seen != blind
    table.write_text(f"patient,age [years],sex,crp [mg/l],ldh [U/l]\n{case.name},,,NA,\n")
    assert masks("--record", str(table))[2] == blind
    for text, words in (
        ("patient,age [years],sex,crp [mg/l],ldh [U/l]\nsomebody,80,m,,450\n", "none for the patient"),
        (f"patient,age [years],sex,crp [kPa],ldh [U/l]\n{case.name},80,m,1,450\n", "the unit 'kPa'"),
        (f"patient,age [years],sex,ldh [U/l]\n{case.name},80,m,450\n", "no such column"),
        (f"id,age [years],sex,crp [mg/l],ldh [U/l]\n{case.name},80,m,1,450\n", "no column 'patient'"),
    ):
        table.write_text(text)
        code, said, mask = masks("--record", str(table))
        assert (code, mask) == (2, b"")
        assert words in said
        assert "450" not in said


def test_a_record_and_a_network_that_do_not_fit(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, out, table = str(a_case(hospitals)), ["--out", str(tmp_path / "x.nii.gz")], tmp_path / "record.csv"
    table.write_text("patient\n")
    plain = str(weights(tmp_path / "plain.npz"))
    assert main(["predict", case, "--model", plain, "--record", str(table), *out]) == 2
    assert "reads images alone" in capsys.readouterr().err
    for words in ("", "age [years] 18..90", "nonsense"):
        assert main(["predict", case, "--model", str(with_record(tmp_path / "m.npz", words)), *out]) == 2
        assert "a network that reads 5 numbers" in capsys.readouterr().err
