"""The arms of benchmarks/compression.py: the secure arm reads what the plain one reads, and a row counts bytes by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import compression
from common import Part
from compression_arms import Hidden, Setting, Whole
from wardround.algorithms.schedule import Schedule
from wardround.compression.low_rank import LowRank
from wardround.compression.rand_k import RandK
from wardround.core.arrays import Layout, norm, subtract
from wardround.core.rng import stream
from wardround.research.compressed_rounds import LinearSum

SHAPES = {"model:a": (24, 40), "model:b": (24,)}
BLOCKS = Layout(tuple(SHAPES), tuple(SHAPES.values()))
WEIGHTS = {"alpha": 20.0, "beta": 12.0, "gamma": 5.0}
STAGES: dict[str, Any] = {"whole": Whole(BLOCKS), "rand_k": RandK(3, 1, BLOCKS), "low_rank": LowRank(2, 1, BLOCKS)}


def drawn(*purpose: str | int) -> dict[str, Any]:
    rng = stream(0, *purpose)
    return {name: (0.01 * rng.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", STAGES)
def test_the_secure_arm_applies_what_the_plain_one_does(name: str) -> None:
    """The same constant updates for 12 rounds at 12 bits: fixed point adds errors that do not pile up."""
    schedule = Schedule(12, 1, 0.1, 0.0, False, 0.0, 0.0, "constant")
    initial = {name: 10 * block for name, block in drawn("initial").items()}
    setting = Setting(initial, tuple(WEIGHTS), schedule, 3)
    arms = [LinearSum(STAGES[name], setting.sites), Hidden(STAGES[name], setting, 12)]
    totals: list[Any] = [{name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()} for _ in arms]
    for round_ in range(12):
        for place, arm in enumerate(arms):
            total = arm(round_)
            for site, weight in WEIGHTS.items():
                total.add(drawn(site), weight)
            totals[place] = {name: totals[place][name] + step for name, step in total.mean().items()}
    assert sum(arms[1].clipped) == 0
    assert norm(subtract(*totals)) < 2e-3 * norm(totals[0])
    assert norm(totals[0]) > 0.01
    assert all(len(ways["up"]) == len(ways["down"]) == 12 for ways in arms[1].sent().values())


def part(arm: str, val: list[float], test: list[float], size: int) -> Part:
    ways = {"plain": {"up": [size] * 3, "down": [2 * size] * 3}}
    numbers = {"val": val, "test": {"north": test}, "bytes": ways, "first": 100}
    return Part({"arm": arm, "seed": 0}, "abc", {}, 1.0, numbers)


def test_a_row_by_hand() -> None:
    """FedAvg ends at 0.8, the mark is 0.76: reached in round 2 by FedAvg, in round 3 by the other."""
    base = part("fedavg", [0.5, 0.77, 0.8], [0.8, 0.6], 1000)
    other = part("half", [0.4, 0.7, 0.79], [0.79, 0.6], 100)
    rows = compression.rows_of([base, other])
    assert [one["rounds"] for one in rows] == [[2], [3]]
    assert [one["bytes"] for one in rows] == [100 + 2 * 3000, 100 + 3 * 300]
    assert rows[1]["ratio"] == pytest.approx(1000 / 6100)
    assert rows[1]["whole_ratio"] == pytest.approx(1000 / 9100)
    assert rows[1]["difference"] == pytest.approx(-0.005)
    lines = compression.tables([base, other])["bytes"].lines
    assert lines[3].startswith("| half | plain | 1 | 3 | 0.00 | 0.164 | 0.110 | 1 | 0.695 | -0.0050 ")


def test_a_mark_that_is_never_reached_is_no_number() -> None:
    base = part("fedavg", [0.5, 0.77, 0.8], [0.8, 0.6], 1000)
    row = compression.rows_of([base, part("top_k_5", [0.4, 0.5, 0.5], [0.5, 0.6], 100)])[1]
    assert row["rounds"] is None
    assert row["bytes"] is None
    assert not row["no_loss"]


def test_a_table_without_fedavg_is_refused() -> None:
    with pytest.raises(compression.DataRefused, match="--arms fedavg"):
        compression.rows_of([part("half", [0.5], [0.5], 10)])
