"""Hospitals that differ on purpose: every axis changes what it says, and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.description import read_description, read_rows
from wardround.research.skew import LabelledSet
from wardround.research.sweep_sites import Cell, Dealt, LabelledSource, MaskedPhantoms, lacking
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_types import write_types
from wardround.training.opening import Phantoms

MODALITIES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LabelledSet:
    from wardround.cli.cmd_partition_labels import opened

    root = write_types(tmp_path_factory.mktemp("pool") / "cases", hospital(0), 0, 36, (16, 16, 12))
    return opened(str(root), None, None).data


def rows_of(dealt: Dealt) -> dict[str, list[dict[str, str]]]:
    return {site: read_rows(read_description(config.data).table)[1] for site, config in dealt.configs.items()}


def test_alpha_inf_is_even_and_small_alpha_is_not(whole: LabelledSet, tmp_path: Path) -> None:
    source = LabelledSource(whole, 4, None)
    found = {}
    for alpha in (0.05, math.inf):
        rows = rows_of(source.write(Cell(3, alpha, (), False), 1, tmp_path / str(alpha)))
        assert sorted(row["patient"] for one in rows.values() for row in one) == sorted(whole.labels())
        assert min(map(len, rows.values())) >= 4
        counts = [[sum(row["label"] == name for row in one) for one in rows.values()] for name in ("ring", "halo")]
        found[alpha] = max(max(row) - min(row) for row in counts)
    assert found[math.inf] <= 1 < found[0.05]


def test_a_seed_is_a_deal_and_the_same_seed_the_same(whole: LabelledSet, tmp_path: Path) -> None:
    source, cell = LabelledSource(whole, 3, None), Cell(2, 0.5, (), False)
    a, b, c = (rows_of(source.write(cell, seed, tmp_path / str(k))) for k, seed in enumerate((0, 0, 1)))
    assert a == b != c


def test_per_site_bounds_the_patients_whatever_the_number_of_sites(whole: LabelledSet, tmp_path: Path) -> None:
    for sites in (2, 3):
        dealt = LabelledSource(whole, 3, 8).write(Cell(sites, math.inf, (), False), 0, tmp_path / str(sites))
        assert sum(map(len, rows_of(dealt).values())) == 8 * sites


def test_missing_modalities_and_scanners(whole: LabelledSet, tmp_path: Path) -> None:
    source = LabelledSource(whole, 3, None)
    cell = Cell(2, math.inf, (("site-2", ("t2", "flair")),), True)
    plain = source.write(Cell(2, math.inf, (), False), 0, tmp_path / "a")
    dealt = source.write(cell, 0, tmp_path / "b")
    before, after = rows_of(plain), rows_of(dealt)
    assert dealt.lost == {"site-2": 0}
    for site in after:
        for old, new in zip(before[site], after[site], strict=True):
            gone = {"t2", "flair"} if site == "site-2" else set()
            assert {m for m in MODALITIES if not new[m]} == gone
            assert (old["case"], old["label"]) == (new["case"], new["label"])
    images = read_description(dealt.configs["site-1"].data).images
    assert images.is_relative_to(tmp_path / "b")
    case = after["site-1"][0]
    assert (images / case["t1"]).read_bytes() != (whole.description.images / case["t1"]).read_bytes()


def test_a_site_that_loses_too_many_is_refused_before_anything_is_written(whole: LabelledSet) -> None:
    only = tuple(
        type(row)(row.case, row.patient, row.label, {"t1": row.images["t1"]}, row.record) for row in whole.rows
    )
    source = LabelledSource(LabelledSet(whole.description, only), 3, None)
    with pytest.raises(DataRefused, match="site-1 without t1"):
        source.require(Cell(2, math.inf, (("site-1", ("t1",)),), False), 0)
    with pytest.raises(ConfigRefused, match="above 0"):
        source.require(Cell(2, 0.0, (), False), 0)
    with pytest.raises(ConfigRefused, match="2 sites"):
        source.require(Cell(1, math.inf, (), False), 0)


def test_phantoms_with_masks_differ_by_scanner_only_if_asked(tmp_path: Path) -> None:
    source = MaskedPhantoms(Phantoms([16, 16, 16], 0), 3, 0)
    for scanner in (False, True):
        cell = Cell(2, None, (("site-2", ("t1",)),), scanner)
        source.require(cell, 0)
        dealt = source.write(cell, 0, tmp_path / str(scanner))
        profiles = [
            json.loads((config.data / "phantoms.json").read_text())["parameters"]["profile"]
            for config in dealt.configs.values()
        ]
        assert [one["missing"] for one in profiles] == [[], ["t1"]]
        assert (profiles[0]["noise"] == profiles[1]["noise"]) is not scanner
        assert profiles[0]["tumour_radius_mm"] == profiles[1]["tumour_radius_mm"]
        assert len(list(dealt.configs["site-2"].data.glob("*/*_t2.nii.gz"))) == 3
        assert not list(dealt.configs["site-2"].data.glob("*/*_t1.nii.gz"))
    for cell, patients in (
        (Cell(1, None, (), False), 3),
        (Cell(65, None, (), False), 3),
        (Cell(2, None, (), False), 2),
    ):
        with pytest.raises(ConfigRefused, match="phantom hospitals"):
            MaskedPhantoms(Phantoms([16, 16, 16], 0), patients, 0).require(cell, 0)


def test_lacking_counts_from_the_last_site_and_the_last_modality() -> None:
    assert lacking(0, 4, MODALITIES) == ()
    assert lacking(2, 4, MODALITIES) == (("site-3", ("flair",)), ("site-4", ("t2",)))
    assert lacking(5, 5, MODALITIES)[-1] == ("site-5", ("flair",))
    for count, modalities in ((5, MODALITIES), (-1, MODALITIES), (1, ("t1",))):
        with pytest.raises(ConfigRefused, match="lack a modality"):
            lacking(count, 4, modalities)


def test_a_cell_says_what_it_is() -> None:
    cell = Cell(4, math.inf, (("site-4", ("t2", "t1")),), True)
    assert str(cell) == "4 sites, alpha inf, site-4 lacks t2+t1, other scanners"
    assert json.loads(json.dumps(cell.as_json(), allow_nan=False))["alpha"] == "inf"
    assert str(Cell(2, None, (), False)) == "2 sites"
