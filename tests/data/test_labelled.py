"""Labelled cohorts: what the description and the table say is what comes out; decoded once; mistakes are named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data import pack
from wardround.data.description import Description, Row, Spec, is_labelled, read_description, write_folder
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column
from wardround.data.labelled import LabelledCohort, open_labelled
from wardround.data.pictures import Grid, read_picture, write_picture
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients

AGE = Column("age", "numeric", "years", 20, 80)
SPEC = Spec(("benign", "malignant", "rare"), ("t1", "flair"), Table((AGE,)), Grid(16))
DATASET, CASES = "dataset.json", "cases.csv"


def picture(path: Path, seed: int) -> None:
    write_picture(path, np.random.default_rng(seed).integers(1, 60000, (20, 24)).astype(np.uint16))


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    root = tmp_path / "data"
    rows = []
    for i, (patient, label) in enumerate(
        [("p", "benign"), ("p", "benign"), ("q", "malignant"), ("r", ""), ("s", "benign")]
    ):
        images = {"t1": f"{i}_t1.png"} | ({"flair": f"{i}_flair.png"} if i != 2 else {})
        for m, name in enumerate(images.values()):
            picture(root / "images" / name, 10 * i + m)
        rows.append(Row(f"c{4 - i}", patient, label, images, {"age": str(30 + 10 * i) if i != 1 else ""}))
    write_folder(root, Description(SPEC, root / "images", root / CASES), rows)
    return SiteConfig(root)


def edit(site: SiteConfig, **changes: object) -> None:
    file = site.data / DATASET
    content = json.loads(file.read_text())
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    file.write_text(json.dumps(content))


def swap(site: SiteConfig, before: str, after: str) -> None:
    text = (site.data / CASES).read_text()
    assert before in text
    (site.data / CASES).write_text(text.replace(before, after))


def opened(site: SiteConfig, tmp_path: Path) -> LabelledCohort:
    return open_labelled(site, tmp_path / "cache")


def test_what_comes_out(site: SiteConfig, tmp_path: Path) -> None:
    told: list[str] = []
    cohort = open_labelled(site, tmp_path / "cache", told.append, SPEC)
    assert cohort.cases == ("c0", "c2", "c3", "c4")
    assert cohort.patients == {"c0": "s", "c2": "q", "c3": "p", "c4": "p"}
    assert cohort.labels == {"c0": 0, "c2": 1, "c3": 0, "c4": 0}
    assert cohort.class_counts() == {"benign": 2, "malignant": 1, "rare": 0}
    assert cohort.class_counts(["c3", "c4"]) == {"benign": 1, "malignant": 0, "rare": 0}
    assert cohort.modalities == {"t1": 4, "flair": 3}
    assert cohort.unlabelled == 1
    assert told[0] == "1 cases have no label and are left out"
    batch = cohort.batch(["c2", "c4", "c2"])
    assert batch.images.shape == (3, 2, 16, 16)
    assert (batch.images.dtype, batch.labels.tolist()) == (np.float32, [1, 0, 1])
    assert batch.present.tolist() == [[True, False], [True, True], [True, False]]
    assert not batch.images[0, 1].any()
    expected = read_picture("x", site.data / "images" / "0_flair.png", SPEC.grid)
    np.testing.assert_allclose(batch.images[1, 1], expected, atol=2e-3)
    np.testing.assert_allclose(
        cohort.batch(cohort.cases).values[:, 0], [(70 - 50) / 30, 0, 0, (30 - 50) / 30], atol=1e-6
    )
    assert cohort.known[:, 0].tolist() == [True, True, False, True]
    assert len(cohort.batch([]).labels) == 0
    with pytest.raises(KeyError):
        cohort.batch(["c1"])
    split = split_patients(cohort.patients)
    assert sorted(split.train + split.val + split.test) == list(cohort.cases)


def test_decoded_once(site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def spy(case: str, path: Path, grid: Grid) -> np.ndarray:
        read.append(path.name)
        return read_picture(case, path, grid)

    monkeypatch.setattr(pack, "read_picture", spy)
    first = opened(site, tmp_path)
    before = first.batch(first.cases).images
    assert len(read) == 7
    assert (opened(site, tmp_path).pack, len(read)) == (first.pack, 7)
    picture(site.data / "images" / "2_t1.png", 99)
    changed = opened(site, tmp_path)
    assert read[7:] == ["2_t1.png"]
    after = changed.batch(changed.cases).images
    assert [bool((a != b).any()) for a, b in zip(before, after, strict=True)] == [False, True, False, False]
    assert [path.name for path in (tmp_path / "cache" / "labelled").iterdir()] == [changed.pack.parent.name]
    with pytest.raises(DataRefused, match="gone or damaged"):
        first.batch(["c0"])
    edit(site, size=8)
    assert opened(site, tmp_path).batch(["c0"]).images.shape == (1, 2, 8, 8)


def test_other_planes_are_decoded_anew(tmp_path: Path) -> None:
    """The shape of the pack stays, so only its version can tell."""
    import nibabel

    data = np.random.default_rng(0).uniform(1, 9, (16, 16, 40)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    spec = Spec(("a", "b"), ("t1",), grid=Grid(16, 2, 0.2))
    found = []
    for span in (0.2, 0.8, 0.2):
        wanted = replace(spec, grid=Grid(16, 2, span))
        write_folder(tmp_path, Description(wanted, tmp_path, tmp_path), [Row("c", "p", "a", {"t1": "a.nii.gz"})])
        found.append(opened(SiteConfig(tmp_path), tmp_path).batch(["c"]).images)
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("damage", ["index.json", "images.npy", "short"])
def test_a_damaged_pack_is_made_again(site: SiteConfig, tmp_path: Path, damage: str) -> None:
    first = opened(site, tmp_path)
    before = first.batch(first.cases).images
    if damage == "short":
        first.pack.write_bytes(first.pack.read_bytes()[:-9])
    else:
        (first.pack.parent / damage).unlink()
    np.testing.assert_array_equal(opened(site, tmp_path).batch(first.cases).images, before)


def test_nothing_is_kept_of_a_failed_decoding_and_the_cache_is_private(site: SiteConfig, tmp_path: Path) -> None:
    (site.data / "images" / "4_t1.png").write_text("no picture")
    (site.data / "images" / "0_t1.png").write_text("no picture")
    with pytest.raises(DataRefused, match=r"2 cases under"):
        opened(site, tmp_path)
    assert list((tmp_path / "cache" / "labelled").iterdir()) == []
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert (site.data / CASES).stat().st_mode & 0o077 == 0


def test_only_some_cases(site: SiteConfig, tmp_path: Path) -> None:
    assert opened(replace(site, cases=("c0", "c1")), tmp_path).cases == ("c0",)
    with pytest.raises(DataRefused, match="no row for 1 cases"):
        opened(replace(site, cases=("c0", "elsewhere")), tmp_path)


def test_images_may_lie_elsewhere(site: SiteConfig, tmp_path: Path) -> None:
    shutil.move(site.data / "images", tmp_path / "pictures")
    edit(site, images="../pictures")
    assert len(opened(site, tmp_path).cases) == 4


def test_a_site_with_one_class(site: SiteConfig, tmp_path: Path) -> None:
    assert opened(replace(site, cases=("c0", "c3")), tmp_path).class_counts() == {
        "benign": 2,
        "malignant": 0,
        "rare": 0,
    }


def test_units_of_the_file(site: SiteConfig, tmp_path: Path) -> None:
    expected = opened(site, tmp_path).values
    swap(site, "age [years]", "age")
    edit(site, units={"age": "years"})
    np.testing.assert_array_equal(opened(site, tmp_path).values, expected)
    edit(site, units={"age": "mg/l"})
    with pytest.raises(DataRefused, match=r"'mg/l'\n.*'years'"):
        opened(site, tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("age [years]", "weight", "'age'.*\n.*no such column"),
        ("age [years]", "age [kg]", "'kg'"),
        ("patient", "person", "no column 'patient'"),
        ("flair,", "t2,", "no column 'flair'"),
        ("c0,s", "c2,s", "1 cases more than once"),
        ("c0,s", ",s", "1 rows without case or patient"),
        ("c0,s", "c0,", "1 rows without case or patient"),
        ("s,benign", "s,BENIGN", "1 labels that are no class"),
        ("c3,p,benign", "c3,p,malignant", "1 patients with two labels"),
        ("2_t1.png", "", "no image in any modality"),
        ("2_t1.png", "../images/2_t1.png", "outside the folder"),
        ("2_t1.png", "/etc/2_t1.png", "outside the folder"),
        ("0_flair.png", "../images/0_flair.png", "outside the folder"),
        ("2_t1.png", "C:/2_t1.png", "outside the folder"),
        ("2_t1.png", "3_t9.png", "No such file"),
        ("2_t1.png", "2_t1.bmp", "No such file"),
        (",70", ",70,1", "1 rows with another number of cells"),
        (",70", ",840", "probably another unit"),
    ],
)
def test_mistakes_in_the_table(site: SiteConfig, tmp_path: Path, before: str, after: str, message: str) -> None:
    swap(site, before, after)
    with pytest.raises(DataRefused, match=message):
        opened(site, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "segmentation"},
        {"kind": None},
        {"classes": None},
        {"classes": ["one"]},
        {"classes": ["a", "A"]},
        {"classes": "ab"},
        {"modalities": []},
        {"modalities": ["t1", "label"]},
        {"modalities": ["t1", "Age"]},
        {"size": 7},
        {"size": 16.0},
        {"size": True},
        {"depth": 0},
        {"span": 0},
        {"span": "0.5"},
        {"images": "nowhere"},
        {"images": ""},
        {"table": "nowhere.csv"},
        {"units": ["mg/l"]},
        {"units": {"age": ""}},
        {"columns": {"age": 1}},
        {"columns": [{"name": "age"}]},
        {"sizes": 16},
    ],
)
def test_mistakes_in_the_description(site: SiteConfig, tmp_path: Path, changes: dict[str, object]) -> None:
    edit(site, **changes)
    with pytest.raises(ConfigRefused):
        opened(site, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": "classification", "kind": "classification"}'])
def test_no_description(site: SiteConfig, text: str) -> None:
    (site.data / DATASET).write_text(text)
    with pytest.raises(ConfigRefused):
        read_description(site.data)


def test_what_is_a_labelled_folder(site: SiteConfig, tmp_path: Path) -> None:
    assert is_labelled(site.data)
    assert not is_labelled(tmp_path)
    edit(site, kind="something")
    assert not is_labelled(site.data)


@pytest.mark.parametrize(
    "wanted",
    [
        replace(SPEC, classes=("malignant", "benign", "rare")),
        replace(SPEC, modalities=("flair", "t1")),
        replace(SPEC, table=Table()),
        replace(SPEC, table=Table((replace(AGE, high=90),))),
        replace(SPEC, grid=Grid(32)),
    ],
)
def test_a_job_that_wants_something_else(site: SiteConfig, tmp_path: Path, wanted: Spec) -> None:
    with pytest.raises(ConfigRefused, match="numbers must mean the same"):
        open_labelled(site, tmp_path / "cache", wanted=wanted)


def test_aliases_are_a_sites_own_matter(site: SiteConfig, tmp_path: Path) -> None:
    swap(site, "age [years]", "Alter")
    edit(site, columns=[replace(AGE, aliases=("alter",)).as_json()])
    assert len(open_labelled(site, tmp_path / "cache", wanted=SPEC).cases) == 4


@pytest.mark.parametrize("key", [{"patient_pattern": "(.)"}, {"labels": "brats"}, {"record": Path("record.csv")}])
def test_keys_for_masks_are_refused(site: SiteConfig, tmp_path: Path, key: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused, match="none of them"):
        opened(replace(site, **key), tmp_path)


def test_no_labels_at_all(site: SiteConfig, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"no case with a label \(1 without\)"):
        opened(replace(site, cases=("c1",)), tmp_path)


def test_a_cache_that_cannot_be_written(site: SiteConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigRefused, match="cannot be written"):
        open_labelled(site, tmp_path / "file")
