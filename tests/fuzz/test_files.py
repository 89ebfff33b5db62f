"""Mutants of every file that a party reads: settings, tables, ledgers, weights, images, uploads, reports."""

import gzip
import json

import numpy as np
import pytest
from mutants import JSON_WEIRD, flipped, hold, mutant

from wardround.aggregation.secagg_state import SecAggState
from wardround.core.errors import Refusal
from wardround.data.description import read_description
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column
from wardround.data.ehr_table import read_ehr
from wardround.data.nifti import read_scan
from wardround.data.site_config import read_site_config, read_sites
from wardround.dp import ledger_file
from wardround.dp.budget import read_budget
from wardround.dp.releases import GaussianRelease
from wardround.flare.kit import read_object
from wardround.flare.secagg_messages import Revealed
from wardround.messages.statements import Moment
from wardround.models import checkpoint
from wardround.reports import schema
from wardround.secagg import encryption_key
from wardround.serving.limits import Limits
from wardround.serving.upload import case_of
from wardround.synthetic import phantoms
from wardround.synthetic.hospitals import hospital


def json_mutant(rng, content):
    """Return the bytes of a JSON file with its content, its text or its bytes changed."""
    kind = int(rng.integers(3))
    text = json.dumps(mutant(rng, content, JSON_WEIRD) if kind else content)
    data = text.encode("utf-8", "surrogatepass")
    return flipped(rng, data) if kind != 1 and data else data


def through(path, read):
    """Return a door that writes the bytes to a file, reads it, and reads it again: the same."""

    def door(data):
        path.write_bytes(data)
        assert repr(read(path)) == repr(read(path))

    return door


@pytest.fixture
def folder(tmp_path):
    """A folder with data that settings can name: images, a table."""
    (tmp_path / "images").mkdir()
    (tmp_path / "cases.csv").write_text("case,patient,label\n", encoding="utf-8")
    (tmp_path / "record.csv").write_text("patient,age [years]\n", encoding="utf-8")
    return tmp_path


SITE = {"data": "images", "cache": "cache", "name": "north", "record": "record.csv", "units": {"age": "years"}}
BUDGET = {"patient": {"epsilon": 8, "delta": 1e-5}, "hospital": {"epsilon": 4.0, "delta": 1e-6}}
DATASET = {
    "kind": "classification",
    "classes": ["a", "b"],
    "modalities": ["t1", "t2"],
    "columns": [],
    "size": 64,
    "depth": 1,
    "span": 0.5,
    "images": "images",
    "table": "cases.csv",
    "units": {},
}
SETTINGS = {
    "a site's file": ("wardround.json", SITE, read_site_config),
    "sites": ("sites.json", {"site-1": SITE, "site-2": {"data": "images"}}, read_sites),
    "budget": ("wardround_budget.json", BUDGET, read_budget),
    "description": ("dataset.json", DATASET, lambda path: read_description(path.parent)),
    "kit": ("fed_client.json", {"format_version": 2, "client": {"name": "site-1"}}, read_object),
}


@pytest.mark.parametrize("which", SETTINGS)
def test_settings_in_json(folder, which):
    name, content, read = SETTINGS[which]
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    try:
        read(folder / name)
    except Refusal as refusal:
        raise AssertionError(f"the file that the mutants start from is refused: {refusal}") from refusal
    hold(600, 20, lambda rng: json_mutant(rng, content), through(folder / name, read))


def test_the_sum_key(tmp_path):
    seed = encryption_key.new_seed()
    path = encryption_key.write_site(tmp_path, seed)
    content = json.loads(path.read_text())
    hold(
        300,
        21,
        lambda rng: json_mutant(rng, content),
        through(path, lambda file: encryption_key.read_site(file.parent)),
    )


def test_a_ledger(tmp_path):
    with ledger_file.writing(tmp_path) as writer:
        for number in range(3):
            writer.append(f"job-{number}", "brats", "0.1.0", "spend", "key", GaussianRelease("hospital", 2.0, 1))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    whole = ledger_file.read(tmp_path)
    assert len(whole.entries) == 3

    def make(rng):
        name = sorted(files)[int(rng.integers(len(files)))]
        return files | {name: flipped(rng, files[name]) if files[name] else b"x"}

    def door(content):
        for name, data in content.items():
            (tmp_path / name).write_bytes(data)
        found = ledger_file.read(tmp_path)
        assert found.entries == whole.entries[: len(found.entries)]

    hold(700, 22, make, door)


def test_the_state_of_a_server(tmp_path):
    state = SecAggState.open(tmp_path, {"job": "a"})
    revealed = Revealed(Moment("ab" * 16, 0, 0), ("site-1", "site-2", "site-3"), 3, 0.5, b"12345678", "ab" * 32)
    state.add(revealed, {"round": 0, "trained": ["site-1"]}, 0)
    path = tmp_path / "secagg-round.json"
    content = json.loads(path.read_text())
    hold(
        400,
        23,
        lambda rng: json_mutant(rng, content),
        through(path, lambda file: vars(SecAggState.open(file.parent, {"job": "a"}))),
    )


def test_weights(tmp_path):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a.weight": np.ones((4, 4), np.float32), "b": np.zeros(3, np.float32)}, "ab", {"round": 1})
    data = path.read_bytes()

    def door(content):
        path.write_bytes(content)
        arrays, meta = checkpoint.load(path)
        checkpoint.save(path, arrays, "ab", meta)
        again, _ = checkpoint.load(path)
        assert all(np.array_equal(arrays[name], again[name]) for name in arrays)

    door(data)
    hold(700, 24, lambda rng: flipped(rng, data), door)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The bytes of one small NIfTI file of a phantom, plain."""
    import gzip

    case = phantoms.write_cohort(tmp_path_factory.mktemp("cases"), hospital(0), 0, (16, 16, 16), 1)[0]
    return gzip.decompress(next(case.glob("*_t1.nii.gz")).read_bytes())


def in_header(rng, data):
    """Return a NIfTI file of which one to four bytes of the header are others."""
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        made[int(rng.integers(348))] = int(rng.integers(256))
    return bytes(made)


def test_images(tmp_path, image):
    path = tmp_path / "scan.nii"

    def door(content):
        path.write_bytes(content)
        scan = read_scan("a case", path, None, np.float32)
        assert scan.data.ndim == 3
        assert scan.data.size <= len(content)

    door(image)
    assert hold(700, 25, lambda rng: in_header(rng, image) if rng.integers(4) else flipped(rng, image), door) > 0


def test_uploads(image):
    limits = Limits(upload=2**20, unpacked=2**20, voxels=10**5, waiting=1, upload_s=5, work_s=60)
    data = gzip.compress(image)

    def door(body):
        uploaded = case_of({"t1": body, "t2": data}, limits)
        assert sum(len(one) for one in uploaded.content.values()) <= limits.unpacked

    door(data)
    hold(600, 26, lambda rng: flipped(rng, data), door)


def test_records(tmp_path):
    table = Table((Column("age", "numeric", "years", 18, 90), Column("sex", "categorical", categories=("f", "m"))))
    text = "patient,age [years],sex\nA-1,61,f\nA-2,,m\nA-3,44,\n"
    path = tmp_path / "record.csv"
    path.write_text(text)
    assert len(read_ehr(table, path, {})) == 3
    hold(600, 27, lambda rng: flipped(rng, text.encode()), through(path, lambda file: read_ehr(table, file, {})))


def test_reports():
    run = {
        "job": "a",
        "simulator": True,
        "phantoms": True,
        "sites": {"site-1": {"label": "north", "cases": {"train": 3, "val": 1, "test": 2}}},
        "rounds": [{"round": 0, "aggregated": ["site-1"], "configured": ["site-1"], "trained": ["site-1"]}],
        "final": {"site-1": {"candidates": {"local": {"val": 0.5}}, "deploy": "local"}},
        "outcome": "complete",
        "problems": [],
    }

    def door(given):
        report = schema.build(given)
        assert schema.build(schema.run_of(report)) == report

    door(run)
    assert hold(1500, 28, lambda rng: mutant(rng, run, JSON_WEIRD), door) > 0
