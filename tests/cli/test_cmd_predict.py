import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from wardround.cli.main import main
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.specs import describe
from wardround.training import origin

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
    assert str(tmp_path) not in out
    picture = Image.open(tmp_path / f"{case.name}_mask.png")
    assert picture.size[0] > 600
    assert (tmp_path / f"{case.name}_mask.png").stat().st_mode & 0o077 == 0
    three = ["--enhancing", "3", "--out", "three.nii"]
    assert main(["predict", str(case), "--model", str(weights(tmp_path / "b.npz")), *three]) == 0
    assert set(np.unique(np.asarray(nibabel.load("three.nii").dataobj))) <= {0, 1, 2, 3}
    assert "ET " in capsys.readouterr().out


def test_regions_that_nobody_trained_are_not_predicted(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, out = str(a_case(hospitals)), ["--out", str(tmp_path / "x.nii.gz")]
    whole = weights(tmp_path / "whole.npz", label_kind="whole_tumour")
    assert main(["predict", case, "--model", str(whole), "--labels", "brats", *out]) == 2
    assert "nobody trained ET and TC" in capsys.readouterr().err
    silent = weights(tmp_path / "silent.npz", label_kind=None)
    assert main(["predict", case, "--model", str(silent), *out]) == 2
    assert "--labels" in capsys.readouterr().err
    assert main(["predict", case, "--model", str(silent), "--labels", "whole_tumour", *out]) == 0
    assert capsys.readouterr().out.startswith("WT ")
    assert main(["serve", str(silent), "--port", "0", "--token-file", str(token(tmp_path))]) == 2
    assert main(["export", str(silent), "--out", str(tmp_path / "bundle")]) == 2


def test_a_mask_never_takes_the_place_of_what_lies_beside_the_images(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An expert's mask or a sequence under the name of --out, through a link too, is refused before anything is computed."""
    case, model = (
        Path(shutil.copytree(a_case(hospitals), tmp_path / a_case(hospitals).name)),
        weights(tmp_path / "m.npz"),
    )
    brain = case / f"{case.name}_mask.nii.gz"
    shutil.copy(case / f"{case.name}_seg.nii.gz", brain)
    (tmp_path / "link").symlink_to(case)
    before = {file.name: file.read_bytes() for file in case.iterdir()}
    for out in (case / f"{case.name}_seg.nii.gz", tmp_path / "link" / f"{case.name}_t1.nii.gz", brain):
        assert main(["predict", str(case), "--model", str(model), "--out", str(out), "--device", "cpu"]) == 2
        assert "never overwritten" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in case.iterdir()} == before
    again = ["predict", str(case), "--model", str(model), "--device", "cpu", "--out", str(tmp_path / "x.nii.gz")]
    assert main(again) == main(again) == 0


def test_a_model_below_the_floor_says_so_wherever_it_is_used(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = weights(tmp_path / "m.npz", candidate="local", k=0, usable=False)
    out = ["--out", str(tmp_path / "x.nii.gz"), "--device", "cpu"]
    assert main(["export", str(model), "--out", str(tmp_path / "bundle")]) == 0
    assert "NOT USABLE YET" in capsys.readouterr().out
    assert "| verdict | NOT USABLE YET" in (tmp_path / "bundle" / "docs" / "README.md").read_text()
    for file in (model, tmp_path / "bundle"):
        assert main(["predict", str(a_case(hospitals)), "--model", str(file), *out]) == 0
        err = capsys.readouterr().err
        assert "NOT USABLE YET" in err
        assert "model to deploy" not in err


def token(folder: Path) -> Path:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text("t" * 32)
    return path


def a_patient(hospitals: Path, folder: Path, name: str = "TCGA-06-0133") -> Path:
    """A case whose name is not that of a phantom."""
    source = a_case(hospitals)
    (folder / name).mkdir(parents=True)
    for path in source.glob("*.nii.gz"):
        shutil.copy(path, folder / name / path.name.replace(source.name, name))
    return folder / name


@pytest.mark.parametrize("data", ["phantoms", "mixed"])
def test_a_model_of_invented_patients_is_refused_for_others(
    data: str, hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = {"phantoms": 2} if data == "phantoms" else {"phantoms": 1, "patients": 1}
    model = str(weights(tmp_path / "m.npz", trained_on={"data": data, "sites": sites}))
    case, out = a_patient(hospitals, tmp_path), tmp_path / "x.nii.gz"
    assert main(["predict", str(case), "--model", model, "--out", str(out)]) == 2
    assert "INVENTED PATIENTS" in (said := capsys.readouterr().err)
    assert "--synthetic-model-ok" in said
    assert not out.exists()
    assert main(["predict", str(case), "--model", model, "--out", str(out), "--synthetic-model-ok"]) == 0
    assert "INVENTED PATIENTS" in capsys.readouterr().err
    assert main(["predict", str(a_case(hospitals)), "--model", model, "--out", str(out)]) == 0, "phantoms for a phantom"
    assert "INVENTED PATIENTS" in capsys.readouterr().err
    assert main(["serve", model, "--port", "0", "--token-file", str(token(tmp_path))]) == 2
    assert "--synthetic-model-ok" in capsys.readouterr().err
    assert main(["export", model, "--out", str(tmp_path / "bundle")]) == 0
    bundle = tmp_path / "bundle"
    about = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert "INVENTED PATIENTS" in about["description"]
    assert about["trained_on"]["data"] == data
    assert "INVENTED PATIENTS" in (bundle / "docs" / "README.md").read_text()
    assert json.loads((bundle / "configs" / "inference.json").read_text())["postprocessing"]["notice"] == origin.NOTICE
    assert main(["predict", str(case), "--model", str(bundle), "--out", str(out)]) == 2


def test_every_output_says_that_the_model_knows_invented_patients_only(hospitals: Path, tmp_path: Path) -> None:
    """Masks, pictures and tables are passed on without the terminal's warning."""
    cases = tmp_path / "cases"
    for name in ("p1", "p2"):
        a_patient(hospitals, cases, name)
    pictures = {}
    for kind in ("phantoms", "patients"):
        model = weights(tmp_path / f"{kind}.npz", trained_on={"data": kind, "sites": {kind: 1}})
        out, said = tmp_path / kind, origin.NOTICE if kind == "phantoms" else ""
        words = ["predict", str(cases), "--model", str(model), "--out", str(out), "--device", "cpu"]
        assert main([*words, "--synthetic-model-ok"]) == 0
        assert nibabel.load(out / "p1_mask.nii.gz").header["descrip"].item().decode() == said
        pictures[kind] = Image.open(out / "p1_mask.png")
        assert pictures[kind].info.get("Description", "") == said
        rows = list(csv.DictReader((out / "volumes.csv").read_text().splitlines()))
        assert [("INVENTED PATIENTS" in row["model trained on"]) for row in rows] == [kind == "phantoms"] * 2
    # The words are drawn: their colour is nowhere in the other picture.
    red = {kind: _warning_pixels(picture) for kind, picture in pictures.items()}
    assert red["phantoms"] > 500
    assert red["patients"] == 0


def _warning_pixels(picture: Image.Image) -> int:
    """How many pixels have the colour of a warning."""
    return int((np.asarray(picture.convert("RGB")) == (0xFF, 0x8F, 0x6B)).all(axis=-1).sum())


def test_a_file_that_does_not_say_what_it_was_trained_on(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (
        {},
        {"trained_on": 5},
        {"trained_on": {"data": "gold"}},
        {"trained_on": {"sites": {"patients": "x"}}},
    ):
        model = weights(tmp_path / "m.npz", **wrong)
        out = str(tmp_path / "x.nii.gz")
        assert main(["predict", str(a_case(hospitals)), "--model", str(model), "--out", out]) == 0
        assert "not known" in capsys.readouterr().err


def test_a_folder_of_cases(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = tmp_path / "cases"
    first, second = a_patient(hospitals, cases, "p1"), a_patient(hospitals, cases, "p2")
    (second / "p2_t1ce.nii.gz").rename(second / "p2_dwi.nii.gz")
    shutil.copy(second / "p2_t1.nii.gz", second / "p2_adc.nii.gz")
    (second / "p2_seg.nii.gz").unlink()
    model, out = weights(tmp_path / "m.npz"), tmp_path / "masks"
    words = ["predict", str(cases), "--model", str(model), "--out", str(out)]
    assert main(words) == 0
    shown, said = capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"p1_mask.{end}" for end in ("nii.gz", "png")),
        *(f"p2_mask.{end}" for end in ("nii.gz", "png")),
        "volumes.csv",
    ]
    assert "case 2 of 2" in said
    assert "not a medical device" in said.lower()
    assert "WARNING: without t1ce" in said
    assert "not used: p2_adc.nii.gz, p2_dwi.nii.gz" in said
    assert "p1: ET " in shown
    rows = list(csv.DictReader((out / "volumes.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["p1", "p2"]
    assert [row["images not used"] for row in rows] == ["", "p2_adc.nii.gz; p2_dwi.nii.gz"]
    assert float(rows[0]["WT [ml]"]) >= float(rows[0]["TC [ml]"])
    (first / "p1_flair.nii.gz").write_bytes(b"broken")
    assert main([*words[:-1], str(tmp_path / "again")]) == 2
    assert "p1_flair" in capsys.readouterr().err
    assert (tmp_path / "again" / "p2_mask.nii.gz").is_file(), "one damaged case does not stop the others"


def test_dicom_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(64))
    assert main(["predict", str(tmp_path / "series"), "--model", str(weights(tmp_path / "m.npz"))]) == 2
    assert "dcm2niix" in capsys.readouterr().err


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
    said = {"job": "brats_fedavg", "sharing_class": "wardround.algorithms.sharing.Roles", "sharing.home": "head, norm"}
    part = weights(tmp_path / "part.npz", round=3, settings=said)
    assert main(["predict", case, "--model", str(part), *out]) == 2
    assert "its head and norm never left" in capsys.readouterr().err
    whole = weights(tmp_path / "whole.npz", round=3, settings={"job": "brats_fedavg"})
    assert main(["predict", case, "--model", str(whole), *out]) == 0
    assert "shared model of brats_fedavg after 3 rounds" in capsys.readouterr().err


def test_a_case_that_is_not_there_is_answered_with_a_count_and_the_command_that_lists_them(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = a_case(hospitals).parent, weights(tmp_path / "m.npz")
    assert main(["predict", str(folder), "--model", str(model), "--case", "zzz"]) == 2
    said = capsys.readouterr().err
    cases = sum(one.is_dir() for one in folder.iterdir())
    assert f"no case zzz among {cases}" in said
    assert f"`ls {folder}` lists them" in said
    assert a_case(hospitals).name not in said, "names of cases are the hospital's own"


def test_wrong_arguments(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, model = a_case(hospitals), weights(tmp_path / "m.npz")
    assert main(["predict", str(case), "--model", str(model), "--out", "mask.png"]) == 2
    assert ".nii.gz" in capsys.readouterr().err
    assert main(["predict", str(case), "--model", str(case / f"{case.name}_t1.nii.gz")]) == 2
    assert "not readable" in capsys.readouterr().err
    for device in ("cuda:99", "gpu", "cpu:9"):
        capsys.readouterr()
        assert main(["predict", str(case), "--model", str(model), "--device", device]) == 2
        assert "to do:    `--device auto` or `--device cpu`" in capsys.readouterr().err
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
    assert "states no unit is read as in age [years], crp [mg/l], ldh [U/l]" in said
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
