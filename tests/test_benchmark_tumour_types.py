"""Numbers of the tumour types benchmark: classes weigh the same, differences are paired, incomplete seeds are left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import class_scores
import tumour_types
import tumour_types_scores as numbers
from common import Part

FOLDS = 5
SETTINGS = {"rounds": 1, "folds": FOLDS}
# site -> class of each of its blocks
BLOCKS = {"site-1": [0, 0, 0, 1, 1, 1, 1, 1, 1], "site-2": [0, 0, 0, 0, 0, 2, 2, 2]}


def numbers_of(right: float, fold: int, *, site_2: float | None = None) -> dict[str, Any]:
    """Blocks of ten slices; of class 0 this share is right, of all others every slice."""
    sites = {}
    for name, labels in BLOCKS.items():
        share = right if name == "site-1" or site_2 is None else site_2
        rows = [
            [index, label, 10, round(10 * (share if label == 0 else 1.0)), int(label != 0)]
            for index, label in enumerate(labels)
            if index % FOLDS == fold
        ]
        per_class = [[10, 5], [10, 10], [0, 0]]
        sites[name] = {key: {"val": 0.5, "rows": rows, "everywhere": per_class} for key in ("0", "best")} | {"k": 0}
    counts = {part: [labels.count(k) if part == "train" else 0 for k in range(3)] for part in ("train", "val", "test")
              for labels in BLOCKS.values()}  # fmt: skip
    about = {"curve": [0.4, 0.8], "values": 100, "noise": {}, "personal_values": {}}
    return {"sites": sites, "support": {name: counts for name in BLOCKS}, **about}


def parts_of(method: str, right: float, seed: int, folds: Any = range(FOLDS), **more: Any) -> list[Part]:
    return [
        Part({"alpha": 0.5, "method": method, "seed": seed, "fold": fold}, "abc", SETTINGS, 1.0,
             numbers_of(right, fold, **more))
        for fold in folds
    ]  # fmt: skip


def both(seeds: tuple[int, ...] = (0, 1)) -> list[Part]:
    made = [part for seed in seeds for part in parts_of("local", 0.4, seed)]
    return made + [part for seed in seeds for part in parts_of("fedavg", 0.9, seed, site_2=0.4)]


def test_a_score_is_the_mean_over_classes_of_the_mean_over_blocks() -> None:
    found = tumour_types.summarise(both())["0.5"]
    assert found["local"]["plain_sites"]["site-1"][0] == pytest.approx((0.4 + 1.0) / 2)
    assert found["fedavg"]["plain_sites"]["site-1"][0] == pytest.approx((0.9 + 1.0) / 2)
    assert found["fedavg"]["plain_test"][0] == pytest.approx((0.95 + 0.7) / 2)
    assert found["local"]["plain_blocks"][0] == pytest.approx(0.5)
    assert found["local"]["plain_everywhere"][0] == pytest.approx(0.75), "of the classes that are there"


def test_a_gain_is_paired_and_says_where_it_is() -> None:
    row = tumour_types.summarise(both())["0.5"]["fedavg"]
    assert row["plain_over_local"][0] == pytest.approx(0.125)
    assert row["plain_sites_over_local"]["site-1"][0] == pytest.approx(0.25)
    assert class_scores.above(row["plain_sites_over_local"]["site-1"])
    assert row["plain_sites_over_local"]["site-2"] == pytest.approx((0, 0, 0))
    assert not class_scores.above(row["plain_sites_over_local"]["site-2"])


def test_goals_are_met_or_not() -> None:
    lines = tumour_types.tables(both())["goals"].lines[2:]
    assert [line.rstrip(" |").rpartition("| ")[2] for line in lines] == ["not met", "met", "not met"]
    assert "| 1 of 4 |" in lines[2]


def test_a_seed_without_every_fold_and_a_method_without_every_seed_are_left_out() -> None:
    parts = both() + parts_of("local", 0.0, 7, range(4)) + parts_of("fedavg", 0.0, 7)
    parts += parts_of("norms", 0.5, 0)
    found = numbers.by_alpha(parts, tumour_types.NAMES)["0.5"]
    assert {name: list(seeds) for name, seeds in found.items()} == {"local": [0, 1], "fedavg": [0, 1]}
    assert numbers.by_alpha(parts_of("fedavg", 0.5, 0), tumour_types.NAMES) == {}


def test_rounds_to_the_score_are_none_where_a_fold_never_gets_there() -> None:
    base = numbers.by_alpha(both((0,)), tumour_types.NAMES)["0.5"]["fedavg"]
    assert numbers.traffic(base, base)["rounds"] == [2.0]
    slow = {0: {fold: part | {"curve": [0.1, 0.8 if fold else 0.2]} for fold, part in base[0].items()}}
    found = numbers.traffic(slow, base)
    assert found["rounds"] == [None]
    assert found["ratio"][0] == pytest.approx(1.0)
    assert found["bytes"] == [None]


def test_an_interval_over_blocks_holds_the_scores_of_most_draws() -> None:
    """Blocks of two classes, right with probability .7 and .5: the interval is that of the mean of both means."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        rows = {("one", k): {0: (rng.random(40) < chance).astype(float)} for k, chance in ((0, 0.7), (1, 0.5))}
        _, low, high = class_scores.mean(rows)
        assert low is not None
        assert high is not None
        inside += low <= 0.6 <= high
    assert 88 <= inside <= 99


def test_a_site_of_one_class_weighs_as_much_as_a_site_of_two() -> None:
    rows = {("one", 0): {0: np.ones(3)}, ("two", 0): {0: np.zeros(5)}, ("two", 1): {0: np.ones(4)}}
    assert class_scores.mean(rows)[0] == pytest.approx((1 + 0.5) / 2)
