"""Sites made different on purpose: complete, disjoint, reproducible, and as uneven as asked."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.description import Description, Row, Spec
from wardround.data.labelled import open_labelled
from wardround.data.pictures import Grid, decode, write_picture
from wardround.data.site_config import read_sites
from wardround.research.skew import (
    LabelledSet,
    class_table,
    deal,
    label_skew,
    rescan,
    without_modalities,
    write_labelled_sites,
)
from wardround.synthetic.scanner import Scanner, scanner

ALPHAS = (0.05, 0.1, 0.5, math.inf)
LABELS = {f"p{i:03d}": "abc"[i % 3] for i in range(90)}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALPHAS), st.integers(2, 8), st.integers(0, 50), st.integers(0, 8), st.integers(1, 4))
def test_complete_disjoint_and_large_enough(alpha: float, sites: int, seed: int, least: int, classes: int) -> None:
    labels = {patient: str(i % classes) for i, patient in enumerate(LABELS)}
    skew = label_skew(labels, sites, alpha, seed, least)
    assert sorted(p for patients in skew.sites.values() for p in patients) == sorted(labels)
    assert list(skew.sites) == [f"site-{k + 1}" for k in range(sites)]
    assert min(map(len, skew.sites.values())) >= least
    assert skew.counts == class_table(labels, skew.sites)
    again = label_skew(dict(reversed(labels.items())), sites, alpha, seed, least)
    assert again == skew


def test_inf_is_even_and_small_alpha_is_not() -> None:
    even = label_skew(LABELS, 4, math.inf, 0)
    assert {n for row in even.counts.values() for n in row.values()} <= {7, 8}
    assert even.moved == 0

    def concentration(alpha: float) -> float:
        """Return the mean over seeds and classes of the largest share that one site has of a class."""
        tables = [label_skew(LABELS, 4, alpha, seed).counts for seed in range(20)]
        return float(np.mean([max(row[c] for row in table.values()) / 30 for table in tables for c in "abc"]))

    found = [concentration(alpha) for alpha in ALPHAS]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.75
    assert found[-1] < 0.28


def test_the_table_says_what_was_moved() -> None:
    skew = label_skew(LABELS, 6, 0.05, 1, 10)
    assert skew.moved > 0
    text = str(skew).splitlines()
    assert len(text) == 8
    assert text[1].split() == ["site-1", *(str(n) for n in skew.counts["site-1"].values())]
    assert text[-1] == f"{skew.moved} patients moved to reach the minimum"


def test_the_repair_keeps_the_skew() -> None:
    """What a small site gets comes from the most frequent class of the largest site: the rare ones stay."""
    labels = {f"p{i:02d}": "b" if i < 4 else "a" for i in range(40)}
    for seed in range(20):
        bare, mended = (label_skew(labels, 3, 0.05, seed, least) for least in (0, 6))
        assert {s: row["b"] for s, row in bare.counts.items()} == {s: row["b"] for s, row in mended.counts.items()}


@pytest.mark.parametrize(
    ("sites", "alpha", "least"), [(4, 0.0, 3), (4, -1, 3), (4, math.nan, 3), (1, 0.5, 3), (10, 0.5, 10)]
)
def test_what_cannot_be(sites: int, alpha: float, least: int) -> None:
    with pytest.raises(ConfigRefused):
        label_skew(LABELS, sites, alpha, 0, least)


@pytest.fixture
def whole(tmp_path: Path) -> LabelledSet:
    rows = []
    for i in range(12):
        images = {m: f"{i}/{m}.png" for m in ("t1", "flair")[: 1 + i % 2]}
        for m in images:
            image = np.zeros((20, 20), np.uint16)
            image[4:16, 4:16] = np.random.default_rng(i).integers(100, 1000, (12, 12))
            write_picture(tmp_path / "images" / images[m], image)
        rows.append(Row(f"c{i}", f"p{i // 2}", "ab"[i // 2 % 2], images))
    spec = Spec(("a", "b"), ("t1", "flair"), grid=Grid(16))
    return LabelledSet(Description(spec, tmp_path / "images", tmp_path), tuple(rows))


def test_from_a_set_to_sites_and_back(whole: LabelledSet, tmp_path: Path) -> None:
    skew = label_skew(whole.labels(), 2, math.inf, 0, 2)
    sites = deal(whole, skew.sites)
    sites["site-2"], gone = without_modalities(sites["site-2"], ["flair"])
    assert gone == 0
    file = write_labelled_sites(tmp_path / "out", sites)
    patients = set()
    for name, config in read_sites(file).items():
        cohort = open_labelled(config, tmp_path / "cache" / name)
        assert cohort.class_counts() == skew.counts[name]
        assert cohort.modalities == {"t1": 6, "flair": 0 if name == "site-2" else 3}
        assert not patients & set(cohort.patients.values())
        patients |= set(cohort.patients.values())
    assert patients == {f"p{i}" for i in range(6)}
    with pytest.raises(ConfigRefused, match="another partition"):
        write_labelled_sites(tmp_path / "out", {"site-1": whole})


def test_missing_modalities(whole: LabelledSet) -> None:
    left, gone = without_modalities(whole, ["t1"])
    assert gone == 6
    assert {m for row in left.rows for m in row.images} == {"flair"}
    for wrong in (["t1", "flair"], ["t2"]):
        with pytest.raises(ConfigRefused):
            without_modalities(whole, wrong)


def test_a_patient_at_two_sites_and_an_empty_site(whole: LabelledSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="two sites"):
        deal(whole, {"a": ["p0"], "b": ["p0", "p1"]})
    with pytest.raises(DataRefused, match="no case"):
        write_labelled_sites(tmp_path / "out", deal(whole, {"a": ["p0"], "b": []}))


def test_another_scanner(whole: LabelledSet, tmp_path: Path) -> None:
    still = Scanner("none", (1.0, 1.0), 0.0, 0.0, 0.0)
    same = rescan(whole, tmp_path / "same", still, 0)
    for before, after in zip(whole.rows, same.rows, strict=True):
        for m in before.images:
            one = decode("c", whole.description.images / before.images[m])
            two = decode("c", same.description.images / after.images[m])
            np.testing.assert_allclose(two * (one.max() / 65535), one, atol=0.02 * one.max())
            np.testing.assert_array_equal(one == 0, two == 0)
    other = rescan(whole, tmp_path / "other", scanner("old", 3), 0)
    rescan(whole, tmp_path / "again", scanner("old", 3), 0)
    path = other.rows[0].images["t1"]
    assert (tmp_path / "other" / path).read_bytes() == (tmp_path / "again" / path).read_bytes()
    assert (tmp_path / "other" / path).read_bytes() != (tmp_path / "same" / path).read_bytes()
    assert [row.record for row in other.rows] == [row.record for row in whole.rows]


def test_another_scanner_for_volumes(tmp_path: Path) -> None:
    import nibabel

    data = np.random.default_rng(0).uniform(1, 9, (10, 11, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-2.0, 2.0, 2.0, 1.0])), tmp_path / "a.nii.gz")
    spec = Spec(("a", "b"), ("t1",), grid=Grid(16, 4))
    site = LabelledSet(Description(spec, tmp_path, tmp_path), (Row("c", "p", "a", {"t1": "a.nii.gz"}),))
    copy = rescan(site, tmp_path / "out", Scanner("none", (1.0, 1.0), 0.0, 0.0, 0.0), 0)
    found = nibabel.load(copy.description.images / "a.nii.gz")
    np.testing.assert_allclose(found.get_fdata(), data[::-1], rtol=1e-4)
