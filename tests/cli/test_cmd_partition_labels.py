import csv
import json
import shlex
from collections import Counter
from pathlib import Path

import pytest

from wardround.cli import cmd_partition_labels
from wardround.cli.main import main
from wardround.data.description import read_description
from wardround.data.labelled import open_labelled
from wardround.data.site_config import read_sites
from wardround.research.presets import PRESETS
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_types import write_types
from wardround.training.classification import CaseSampling

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = {"cheng": "cheng_brain_tumor_types", "lgg": "lgg_tcga_multisite_nc", "mhh": "mhh_covid_cxr_ehr"}


@pytest.fixture(scope="session")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_types(tmp_path_factory.mktemp("types"), hospital(0), 0, 24, (20, 20, 16))


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def rewritten(types: Path, out: Path, header: dict[str, str], **cells: dict[str, str]) -> Path:
    """Return a folder like `types` with other column titles, and other cells (column -> case -> cell)."""
    out.mkdir()
    content = json.loads((types / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps(content | {"images": str(types / "images")}))
    rows = table(types / "cases.csv")
    for row in rows:
        row |= {column: changed[row["case"]] for column, changed in cells.items() if row["case"] in changed}
    with (out / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([header.get(name, name) for name in rows[0]])
        writer.writerows(row.values() for row in rows)
    return out


def test_every_preset_of_the_library_is_offered() -> None:
    assert set(cmd_partition_labels.PRESETS) == PRESETS.keys()


def test_a_folder_is_dealt_and_told(types: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["partition", "labels", str(types), str(out), "--sites", "3", "--alpha", "inf"]) == 0
    text = capsys.readouterr().out
    sites = read_sites(out / "sites.json")
    found = {site: open_labelled(config, tmp_path / "cache" / site) for site, config in sites.items()}
    assert sorted(case for one in found.values() for case in one.cases) == [
        r["case"] for r in table(types / "cases.csv")
    ]
    for site, one in found.items():
        assert f"{site}: {len(one.cases)} cases, {len(one.cases)} patients\n" in text
        line = next(line.split() for line in text.splitlines() if line.startswith(f"{site} "))
        assert [int(count) for count in line[1:]] == [one.class_counts()[name] for name in sorted(one.spec.classes)]
    assert "0 patients moved" in text
    assert f"--sites-file {out / 'sites.json'}" in text


def test_the_record_survives_in_its_units(types: Path, tmp_path: Path) -> None:
    crp = {row["case"]: row["crp [mg/l]"] for row in table(types / "cases.csv")}
    changed = {case: f"{float(cell) / 10!r}" for case, cell in crp.items() if cell}
    other = rewritten(types, tmp_path / "other", {"crp [mg/l]": "CRP [mg/dl]"}, **{"crp [mg/l]": changed})
    arguments = ["--sites", "2", "--alpha", "1"]
    assert main(["partition", "labels", str(other), str(tmp_path / "out"), *arguments]) == 0
    written = [row for site in ("site-1", "site-2") for row in table(tmp_path / "out" / site / "data" / "cases.csv")]
    assert {row["case"]: float(row["crp [mg/l]"]) for row in written if row["crp [mg/l]"]} == pytest.approx(
        {case: float(cell) for case, cell in crp.items() if cell}
    )


def test_patients_are_moved_and_unlabelled_ones_left_out(
    types: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = table(types / "cases.csv")[0]["case"]
    folder = rewritten(types, tmp_path / "some", {}, label={first: ""})
    arguments = ["--sites", "4", "--alpha", "0.05", "--min-patients", "5"]
    assert main(["partition", "labels", str(folder), str(tmp_path / "out"), *arguments]) == 0
    text = capsys.readouterr().out
    assert "left out: 1 patients without a label" in text
    assert "0 patients moved" not in text
    entries = json.loads((tmp_path / "out" / "sites.json").read_text())
    assert min(len(entry["cases"]) for entry in entries.values()) >= 5
    assert first not in [case for entry in entries.values() for case in entry["cases"]]


def test_dropped_modalities(types: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = {row["case"]: "" for row in table(types / "cases.csv")[:6]}
    folder = rewritten(types, tmp_path / "some", {}, t1ce=only, t2=only, flair=only)
    drop = ["--drop", "site-2:t1", "--sites", "2", "--alpha", "inf", "--min-patients", "2"]
    assert main(["partition", "labels", str(folder), str(tmp_path / "out"), *drop]) == 0
    text = capsys.readouterr().out
    rows = {site: table(tmp_path / "out" / site / "data" / "cases.csv") for site in ("site-1", "site-2")}
    lost = 24 - sum(map(len, rows.values()))
    assert 0 < lost <= 6
    assert f"lost: {lost} cases without another modality" in text
    assert all(row["t1"] for row in rows["site-1"])
    assert not any(row["t1"] for row in rows["site-2"])


def test_other_scanners_write_copies(types: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(types), str(out), "--sites", "2", "--alpha", "inf", "--scanner", "--size", "24"]
    assert main(["partition", "labels", *arguments]) == 0
    content = json.loads((out / "site-1" / "data" / "dataset.json").read_text())
    assert content["images"] == str((out / "site-1" / "scanned").resolve())
    assert content["size"] == 24
    rows = table(out / "site-1" / "data" / "cases.csv")
    before, after = (folder / rows[0]["t1"] for folder in (types / "images", out / "site-1" / "scanned"))
    assert before.read_bytes() != after.read_bytes()
    assert main(["partition", "labels", *arguments]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--drop", "site-9:t1"), "--drop"),
        (("--drop", "site-1"), "--drop"),
        (("--drop", "site-1:ct"), "the missing modalities"),
        (("--drop", "site-1:t1,t1ce,t2,flair"), "the missing modalities"),
        (("--sites", "9"), "fewer sites"),
        (("--alpha", "0"), "alpha"),
        (("--alpha", "nan"), "alpha"),
    ],
)
def test_refusals_write_nothing(
    options: tuple[str, ...], words: str, types: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["partition", "labels", str(types), str(tmp_path / "out"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_senseless_sources(types: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for source in (["cheng"], ["brats", str(types)], [str(types), str(types)]):
        assert main(["partition", "labels", *source, out]) == 2
        assert "one folder with dataset.json" in capsys.readouterr().err
    assert main(["partition", "labels", str(tmp_path), out]) == 2
    assert "the description" in capsys.readouterr().err
    assert main(["partition", "labels", "mhh", str(types), out]) == 2
    assert "the set's table" in capsys.readouterr().err
    assert main(["partition", "labels", str(types), str(types / "out")]) == 2
    assert "inside the data folder" in capsys.readouterr().err


def test_a_damaged_table(types: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (row["case"] for row in table(types / "cases.csv")[:2])
    damaged = {
        "no column 't2'": ({"t2": "t9"}, {}),
        "1 unknown labels": ({}, {"label": {one: "x"}}),
        "no number": ({}, {"crp [mg/l]": {one: "high"}}),
        "1 patients with two labels": ({}, {"patient": {two: one}, "label": {one: "ring", two: "halo"}}),
    }
    for number, (words, (header, cells)) in enumerate(damaged.items()):
        folder = rewritten(types, tmp_path / f"in-{number}", header, **cells)
        assert main(["partition", "labels", str(folder), str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", REAL)
def test_the_published_sets(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (SHARED / REAL[name]).is_dir():
        pytest.skip(f"{SHARED / REAL[name]} is not here")
    out = tmp_path / "out"
    assert main(["partition", "labels", name, str(SHARED / REAL[name]), str(out)]) == 0
    text = capsys.readouterr().out
    entries = json.loads((out / "sites.json").read_text())
    if name == "lgg":
        assert [entry["name"] for entry in entries.values()] == ["DU", "FG", "HT"]
        assert "site-1 (DU): 45 cases, 45 patients" in text
        assert main(["partition", "labels", name, str(SHARED / REAL[name]), str(out), "--sites", "3"]) == 2
        assert "own hospitals" in capsys.readouterr().err
    else:
        assert list(entries) == [f"site-{k}" for k in range(1, 5)]
    labels = Counter(row["label"] for site in entries for row in table(out / site / "data" / "cases.csv"))
    content = json.loads((out / "site-1" / "data" / "dataset.json").read_text())
    assert set(labels) - {""} == set(content["classes"])
    own = {key: content[key] for key in ("classes", "modalities", "columns", "size", "depth", "span")}
    job = CaseSampling(**own, batch=8, modality_dropout=0.0, record=True, augment=True)
    read_description(out / "site-1" / "data").spec.require(job.spec, "a job can ask for this")
    use = shlex.split(next(line for line in text.splitlines() if line.startswith("use it: wardround ")))
    options = [option for option in use[use.index("--set") :] if option != "--set"]
    assert main(["jobs", "write", use[5], "--out", str(tmp_path / "j"), *(f"--set={one}" for one in options)]) == 0
    assert not capsys.readouterr().err


def test_a_job_takes_what_a_folder_describes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_types(tmp_path / "our types", hospital(0), 0, 12, (20, 20, 16), (1, 1, 0))
    out = tmp_path / "o o"
    assert main(["partition", "labels", str(folder), str(out), "--sites", "2", "--alpha", "inf", "--size", "32"]) == 0
    text = capsys.readouterr().out
    shorter = shlex.split(next(line for line in text.splitlines() if line.startswith("shorter: wardround ")))[2:]
    assert shorter[3:6:2] == ["--sites-file", "--like"]
    job, like = shorter[2], shorter[shorter.index("--like") :]
    assert main(["jobs", "write", job, "--out", str(tmp_path / "j"), *like]) == 0
    text = (tmp_path / "j" / job / "app" / "config" / "config_fed_client.json").read_text()
    described = json.loads((folder / "dataset.json").read_text())
    assert all(f'"{name}"' in text for name in (*described["classes"], *(c["name"] for c in described["columns"])))
    assert main(["jobs", "write", job, "--out", str(tmp_path / "k"), "--set", "sampling.span=0.25", *like]) == 0
    assert '"span": 0.25' in (tmp_path / "k" / job / "app" / "config" / "config_fed_client.json").read_text()
    with pytest.raises(SystemExit):
        main(["jobs", "write", job, "--out", str(tmp_path / "l"), "--like", str(tmp_path)])
    assert "dataset.json" in capsys.readouterr().err


def test_a_site_of_two_patients_is_not_advertised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_types(tmp_path / "t", hospital(0), 0, 6, (20, 20, 16), (1, 1, 0))
    few = ["--sites", "3", "--alpha", "inf", "--min-patients", "2"]
    assert main(["partition", "labels", str(folder), str(tmp_path / "o"), *few]) == 0
    text = capsys.readouterr().out
    assert "fewer than 3 patients" in text
    assert "use it" not in text
