"""`wardround predict` with a classifier: from the weights of a job to classes in a file, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wardround.algorithms.server_optimizers import Mean
from wardround.cli.main import main
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.jobs import folder as job_folder
from wardround.jobs import recipes
from wardround.models import checkpoint
from wardround.models.blend import Blend
from wardround.models.fingerprint import fingerprint
from wardround.models.specs import describe
from wardround.models.vit import ViTFusion
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_ehr import CLASSES, COLUMNS
from wardround.synthetic.phantom_types import write_types
from wardround.training.classification import CaseSampling
from wardround.training.global_model import GlobalModel

SEQUENCES = ("t1", "t1ce", "t2", "flair")
RECORD = [column.as_json() for column in COLUMNS.columns]
SAMPLING = CaseSampling(CLASSES, SEQUENCES, RECORD, 32, 1, 0.5, 4, 0.0, record=True, augment=False)
SPEC = ViTFusion("test_vit", 4, (32, 32), len(COLUMNS.features), 3, "shared", depth=1)
PATIENTS = 7


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Typed phantoms of the hospital that has no T2."""
    return write_types(tmp_path_factory.mktemp("types") / "west", hospital(3), 0, PATIENTS, (32, 32, 24))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("model") / "deploy_model.npz", candidate="local", k=0)


def weights(path: Path, spec: ViTFusion = SPEC, identity: str | None = None, **meta: Any) -> Path:
    """Weights as a site or the server writes them, moved so that classes differ; None leaves a key of `meta` out."""
    torch.manual_seed(1)
    arrays = {name: (b + 0.1 * torch.randn_like(b)).detach().numpy() for name, b in spec.build(0).named_parameters()}
    content = {"model": describe(spec), "label_kind": "classes", "inputs": SAMPLING.described, **meta}
    kept = {key: value for key, value in content.items() if value is not None}
    checkpoint.save(path, arrays, identity or fingerprint(spec), kept)
    return path


def edited(cases: Path, root: Path, rows: Any = None, **changed: Any) -> Path:
    """A copy of the folder with another description, and its table passed through `rows`."""
    shutil.copytree(cases, root)
    content = json.loads((root / "dataset.json").read_text())
    content = {key: value for key, value in {**content, "images": "images", **changed}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(content))
    if rows is not None:
        lines = list(csv.reader((root / "cases.csv").read_text().splitlines()))
        with (root / "cases.csv").open("w", newline="") as out:
            csv.writer(out).writerows(rows(lines))
    return root


def predicted(folder: Path, model: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    assert main(["predict", str(folder), "--model", str(model), "--out", str(out), "--device", "cpu", *more]) == 0
    found: list[dict[str, Any]] = json.loads(out.read_text())["cases"]
    return found


def chances(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([list(row["probabilities"].values()) for row in rows])


def test_probabilities_are_those_of_the_site_that_trained_it(cases: Path, model: Path, tmp_path: Path) -> None:
    """The same folder through the door of training (decoded into a cache) and through `wardround predict`."""
    rows = predicted(cases, model, tmp_path / "x.json")
    cohort = SAMPLING.cohort(SiteConfig(data=cases), tmp_path / "cache", lambda words: None)
    site = SAMPLING.open("west", cohort, split_patients(cohort.patients), SPEC, 0, "cpu")
    w = torch.from_numpy(site.layout.flatten(checkpoint.load(model)[0]))
    wanted = site.chances(w, cohort.cases)
    assert [row["case"] for row in rows] == list(cohort.cases)
    np.testing.assert_allclose(chances(rows), [wanted[row["case"]] for row in rows], atol=2e-6)
    assert all(row["class"] == max(row["probabilities"], key=row["probabilities"].get) for row in rows)
    assert len({tuple(row) for row in chances(rows)}) == PATIENTS
    known = cohort.known[:, [0, 1, 3, 4]]
    for row, has in zip(rows, known, strict=True):
        assert row["sequences"] == ["t1", "t1ce", "flair"]
        assert row["record"] == [name for name, told in zip(("age", "sex", "crp", "ldh"), has, strict=True) if told]


def test_one_case_a_table_and_what_is_said(
    cases: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = predicted(cases, model, tmp_path / "all.json")
    assert main(["predict", str(cases), "--model", str(model), "--case", whole[2]["case"]]) == 0
    out, said = capsys.readouterr()
    content = json.loads((tmp_path / "classes.json").read_text())
    assert content["cases"] == [whole[2]]
    assert content["model"]["architecture"] == fingerprint(SPEC)
    assert content["model"]["architecture"] in said
    assert "this hospital's model to deploy: local" in said
    assert whole[2]["class"] in out
    assert (tmp_path / "classes.json").stat().st_mode & 0o077 == 0
    assert main(["predict", str(cases), "--model", str(model), "--out", "all.csv"]) == 0
    lines = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [line["case"] for line in lines] == [row["case"] for row in whole]
    assert [float(line["p halo"]) for line in lines] == [row["probabilities"]["halo"] for row in whole]
    assert {line["weights"] for line in lines} == {content["model"]["weights"]}
    assert {line["trained on"] for line in lines} == {content["model"]["trained on"]}
    assert lines[0]["sequences"] == "t1 t1ce flair"


def test_what_a_folder_lacks_is_missing_and_labels_are_not_read(cases: Path, model: Path, tmp_path: Path) -> None:
    whole = predicted(cases, model, tmp_path / "whole.json")

    def unlabelled(lines: list[list[str]]) -> list[list[str]]:
        keep = [i for i, name in enumerate(lines[0]) if name not in ("label", "patient")]
        return [[line[i] for i in keep] for line in lines]

    same = predicted(edited(cases, tmp_path / "a", unlabelled), model, tmp_path / "a.json")
    assert same == whole
    bare = predicted(edited(cases, tmp_path / "b", columns=None), model, tmp_path / "b.json")
    assert all(row["record"] == [] for row in bare)
    fewer = predicted(edited(cases, tmp_path / "c", modalities=["flair", "t1"], size=64), model, tmp_path / "c.json")
    assert all(row["sequences"] == ["t1", "flair"] for row in fewer)
    for other in (bare, fewer):
        assert np.abs(chances(other) - chances(whole)).max() > 1e-4


def test_a_unit_that_can_be_converted_is(cases: Path, model: Path, tmp_path: Path) -> None:
    def tenth(lines: list[list[str]]) -> list[list[str]]:
        at = lines[0].index("crp [mg/l]")
        rows = [[f"{float(c) / 10:.6f}" if i == at and c else c for i, c in enumerate(line)] for line in lines[1:]]
        return [["crp [mg/dl]" if i == at else name for i, name in enumerate(lines[0])], *rows]

    found = predicted(edited(cases, tmp_path / "a", tenth), model, tmp_path / "a.json")
    np.testing.assert_allclose(chances(found), chances(predicted(cases, model, tmp_path / "b.json")), atol=1e-5)


def test_a_record_that_the_model_does_not_read_is_not_looked_at(cases: Path, tmp_path: Path) -> None:
    spec = ViTFusion("test_vit", 4, (32, 32), 0, 3, "shared", depth=1)
    inputs = {**SAMPLING.described, "record": False}
    model = weights(tmp_path / "m.npz", spec, inputs=inputs, round=2, settings={"job": "tumour_type_fedavg"})
    strange = [{"name": "height", "kind": "numeric", "unit": "cm", "low": 0, "high": 200}]
    rows = predicted(edited(cases, tmp_path / "a", columns=strange), model, tmp_path / "x.json")
    assert all(row["record"] == [] for row in rows)
    assert len(rows) == PATIENTS


UNIT = [{**column, "unit": "mg/dl"} if column["name"] == "crp" else column for column in RECORD]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"modalities": ["t1", "t1ce", "t2", "flair", "dwi"]}, "'dwi'"),
        ({"classes": ["ring", "halo"]}, "classes of"),
        ({"classes": ["halo", "ring", "ring_halo"]}, "classes of"),
        ({"columns": [*RECORD, {"name": "psa", "kind": "numeric", "unit": "ug/l", "low": 0, "high": 9}]}, "'psa'"),
        ({"columns": UNIT}, "mg/dl"),
        ({"units": {"crp": "mmol/l"}}, "mg/l"),
        ({"rows": lambda lines: [[c.replace("mg/l", "mmol/l") for c in lines[0]], *lines[1:]]}, "'mmol/l'"),
        ({"rows": lambda lines: [*lines, lines[1]]}, "more than once"),
        ({"rows": lambda lines: lines[:1]}, "no case"),
        ({"rows": lambda lines: [lines[0], ["x", "x", "", *[""] * (len(lines[0]) - 3)]]}, "nothing the model reads"),
        ({"rows": lambda lines: [lines[0], ["x", "x", "", "../secret.png", *[""] * (len(lines[0]) - 4)]]}, "outside"),
        ({"rows": lambda lines: [lines[0], ["x", "x", "", "gone.png", *[""] * (len(lines[0]) - 4)]]}, "gone.png"),
    ],
)
def test_a_folder_that_means_something_else_is_refused(
    cases: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], words: str
) -> None:
    folder, out = edited(cases, tmp_path / "a", **changed), tmp_path / "x.json"
    assert main(["predict", str(folder), "--model", str(model), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"identity": "0123456789abcdef"}, "another architecture"),
        ({"model": {"path": "ViTFusion", "args": {"name": "test_vit"}}}, "cannot be built"),
        ({"model": describe(ViTFusion("test_vit", 4, (32, 32), 5, 4, "shared", depth=1))}, "another architecture"),
        ({"inputs": None}, "wrote"),
        ({"inputs": {**SAMPLING.described, "classes": ["ring", "halo"]}}, "3 classes"),
        ({"inputs": {**SAMPLING.described, "classes": ["ring", "ring", "halo"]}}, "not sound"),
        ({"inputs": {**SAMPLING.described, "modalities": ["t1"]}}, "modalities=4"),
        ({"inputs": {**SAMPLING.described, "size": 64}}, "size=(32, 32)"),
        ({"inputs": {**SAMPLING.described, "record": False}}, "columns=5"),
        ({"inputs": {**SAMPLING.described, "columns": 3}}, "not sound"),
        ({"round": 3, "settings": {"job": "tumour_type_mmpfl_adp"}}, "deploy_model.npz"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], meta: dict[str, Any], words: str
) -> None:
    out = tmp_path / "x.json"
    assert main(["predict", str(cases), "--model", str(weights(tmp_path / "m.npz", **meta)), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--out", "x.nii.gz"), ".json or .csv"),
        (("--labels", "brats"), "--labels"),
        (("--enhancing", "3"), "--enhancing"),
        (("--case", "nobody"), "name one with --case: the column `case` lists them"),
    ],
)
def test_wrong_arguments(
    cases: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(cases), "--model", str(model), *more]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_servers_file_of_a_printed_job_says_what_its_inputs_are(cases: Path, tmp_path: Path) -> None:
    """The server has the job's JSON alone; what it writes is enough to predict with."""
    job = recipes.job(
        "ehr_fusion_fedavg", ["model.name=test_vit", "model.depth=1", "sampling.size=32", "model.size=[32,32]"]
    )
    args = json.loads(job_folder.job_files(job)["app/config/config_fed_server.json"])["workflows"][0]["args"]["mode"][
        "args"
    ]
    spec = ViTFusion(**args["model"]["args"])
    inputs = {key: value for key, value in args["inputs"].items() if key != "config_type"}
    server = GlobalModel.open(tmp_path / "state", spec, Mean(1.0), ["model"], 0, {"job": job.name}, inputs)
    server.finish(0.5, tmp_path / "out")
    for name in ("final_model.npz", "best_model.npz"):
        rows = predicted(
            cases, tmp_path / "state" / name if name[0] == "b" else tmp_path / "out" / name, tmp_path / "x.json"
        )
        assert len(rows) == PATIENTS


def test_a_blend_of_two_classifiers_has_the_mean_of_their_probabilities(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blend, parts = Blend(SPEC, 0.25, exclusive=True), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        parts.append({n: (b + 0.1 * torch.randn_like(b)).detach().numpy() for n, b in SPEC.build(0).named_parameters()})
    about = {"label_kind": "classes", "inputs": SAMPLING.described}
    alone = []
    for number, arrays in enumerate(parts):
        path = tmp_path / f"{number}.npz"
        checkpoint.save(path, arrays, fingerprint(SPEC), {"model": describe(SPEC), **about})
        alone.append(chances(predicted(cases, path, tmp_path / f"{number}.json")))
    both = {f"{part}.{n}": b for part, mine in zip(("own", "shared"), parts, strict=True) for n, b in mine.items()}
    mixed = {"share": 0.25, "of": "personalised", "k": 0}
    meta = {"model": describe(blend), **about, "candidate": "blend", "k": 0, "mixed": mixed}
    checkpoint.save(tmp_path / "blend.npz", both, fingerprint(blend), meta)
    found = chances(predicted(cases, tmp_path / "blend.npz", tmp_path / "blend.json"))
    np.testing.assert_allclose(found, 0.25 * alone[0] + 0.75 * alone[1], atol=2e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    assert "25% of the hospital's own local model, 75% of the personalised model" in capsys.readouterr().err
