"""The published sets as labelled images: counts known from their tables, and no leak between blocks."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.labelled import open_labelled
from wardround.data.site_config import read_sites
from wardround.data.splits import split_patients
from wardround.research.presets import GAP, Preset, cheng, index_blocks, lgg, mhh
from wardround.research.skew import class_table, deal, label_skew, write_labelled_sites

SHARED = Path(__file__).parents[3] / "shared" / "data"


def real(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not here")
    return SHARED / name


@given(st.sets(st.integers(0, 300)), st.integers(1, 20), st.integers(0, 12))
def test_blocks(indices: set[int], block: int, gap: int) -> None:
    blocks, dropped = index_blocks(sorted(indices), block, gap)
    members = [i for one in blocks for i in one]
    assert len(members) + dropped == len(indices)
    assert members == sorted(set(members))
    assert all(len(one) == block for one in blocks[:-1])
    assert all(after[0] - before[-1] > gap for before, after in pairwise(blocks))


def test_blocks_by_hand() -> None:
    assert index_blocks([1, 2, 3, 4, 5, 9, 10], 2, 2) == ([[1, 2], [5, 9]], 3)
    assert index_blocks([], 2, 2) == ([], 0)


def places(preset: Preset, seed: int) -> dict[tuple[str, int], tuple[str, str]]:
    """Return (class, index) -> (site, part) of every slice."""
    found = {}
    sites = deal(preset.data, label_skew(preset.data.labels(), 3, math.inf, seed).sites)
    for site, data in sites.items():
        split = split_patients({row.case: row.patient for row in data.rows}, seed=seed)
        for part in ("train", "val", "test"):
            for case in getattr(split, part):
                label, index = case.rsplit("-", 1)
                found[label, int(index)] = (site, part)
    return found


def test_cheng_has_no_neighbours_in_two_parts() -> None:
    preset = cheng(real("cheng_brain_tumor_types"))
    assert Counter(row.label for row in preset.data.rows) == {"glioma": 840, "meningioma": 411, "pituitary": 540}
    assert preset.left_out == {"slices in a gap between blocks": 2375 - 1791}
    assert Counter(preset.data.labels().values()) == {"glioma": 28, "meningioma": 14, "pituitary": 18}
    for seed in range(5):
        place = places(preset, seed)
        assert len(place) == 1791
        for (label, i), where in place.items():
            near = {place.get((label, i + d), where) for d in range(1, GAP + 1)}
            assert near == {where}


def test_mhh() -> None:
    preset = mhh(real("mhh_covid_cxr_ehr"))
    labels = preset.data.labels()
    assert (len(preset.data.rows), len(labels)) == (198, 57)
    assert Counter(labels.values()) == {"icu": 23, "no_icu": 34}
    assert "projection" not in [column.name for column in preset.data.description.spec.table.columns]
    assert "projection=ap" in mhh(real("mhh_covid_cxr_ehr"), projection=True).data.description.spec.table.features
    near = sum(bool(row.record["crp"]) for row in preset.data.rows)
    every = sum(bool(row.record["crp"]) for row in mhh(real("mhh_covid_cxr_ehr"), lab_days=math.inf).data.rows)
    assert 0 < near < every == 139


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("grade", {"DU": {"G2": 20, "G3": 25}, "FG": {"G2": 10, "G3": 4}, "HT": {"G2": 15, "G3": 18}}),
        (
            "histology",
            {
                "DU": {"astrocytoma": 10, "oligoastrocytoma": 14, "oligodendroglioma": 21},
                "FG": {"astrocytoma": 3, "oligoastrocytoma": 4, "oligodendroglioma": 7},
                "HT": {"astrocytoma": 9, "oligoastrocytoma": 10, "oligodendroglioma": 14},
            },
        ),
    ],
)
def test_lgg(target: str, expected: dict[str, dict[str, int]]) -> None:
    preset = lgg(real("lgg_tcga_multisite_nc"), target)
    assert len(preset.data.rows) == 93
    assert {site: len(patients) for site, patients in preset.hospitals.items()} == {"DU": 45, "FG": 14, "HT": 34}
    assert preset.left_out == {"patients without a label": 1}
    assert class_table(preset.data.labels(), preset.hospitals) == expected
    assert Counter(tuple(row.images) for row in preset.data.rows) == {
        ("t1", "flair", "t1ce"): 83,
        ("flair",): 6,
        ("t1", "flair"): 4,
    }


def test_lgg_through_the_reader(tmp_path: Path) -> None:
    preset = lgg(real("lgg_tcga_multisite_nc"), depth=4)
    hospitals = {"FG": preset.hospitals["FG"], "HT": preset.hospitals["HT"][:5]}
    file = write_labelled_sites(tmp_path / "out", deal(preset.data, hospitals))
    assert [entry["name"] for entry in json.loads(file.read_text()).values()] == ["FG", "HT"]
    cohort = open_labelled(read_sites(file)["site-1"], tmp_path / "cache", wanted=preset.data.description.spec)
    batch = cohort.batch(cohort.cases)
    assert batch.images.shape == (14, 3, 4, 64, 64)
    assert cohort.class_counts() == {"G2": 10, "G3": 4}
    assert np.array_equal(batch.images.any(axis=(2, 3, 4)), batch.present)
    assert batch.known.all()
    assert np.abs(batch.values).max() <= 1


def test_mhh_and_cheng_through_the_reader(tmp_path: Path) -> None:
    for preset in (mhh(real("mhh_covid_cxr_ehr"), size=32), cheng(real("cheng_brain_tumor_types"), size=32)):
        patients = sorted(preset.data.labels())[:6]
        name = preset.data.description.spec.modalities[0]
        file = write_labelled_sites(tmp_path / name, deal(preset.data, {"all": patients}))
        cohort = open_labelled(read_sites(file)["site-1"], tmp_path / "cache")
        batch = cohort.batch(cohort.cases)
        assert batch.images.shape[1:] == (1, 32, 32)
        assert batch.present.all()
        assert batch.images.std(axis=(1, 2, 3)).min() > 0.3
        assert np.isfinite(batch.values).all()


def test_bad_arguments_and_folders(tmp_path: Path) -> None:
    for preset in (cheng, mhh, lgg):
        with pytest.raises(DataRefused, match="FileNotFoundError"):
            preset(tmp_path)
    (tmp_path / "manifest.csv").write_text("index;label\n1;glioma\n")
    with pytest.raises(DataRefused, match="no column 'index'"):
        cheng(tmp_path)
    with pytest.raises(ConfigRefused):
        lgg(tmp_path, "survival")
    with pytest.raises(ConfigRefused):
        cheng(tmp_path, block=0)


def test_every_pair_of_blocks_is_apart(tmp_path: Path) -> None:
    """On a table of our own, so that it runs without the real set."""
    lines = [f"{i},glioma" for i in range(1, 200) if i % 17] + [f"{i},pituitary" for i in range(150, 260)]
    (tmp_path / "manifest.csv").write_text("\n".join(["index,label", *lines]))
    rows = cheng(tmp_path, block=12, gap=5).data.rows
    for one, two in combinations(rows, 2):
        if one.label == two.label and one.patient != two.patient:
            assert abs(int(one.case[-4:]) - int(two.case[-4:])) > 5
