"""Numbers of the fusion benchmark: patients are paired over arms, seeds without every fold and arm are left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import fusion
from common import Part

FOLDS = 3
# hospital -> class of each of its patients
PATIENTS = {"north": [0] * 9 + [1] * 3, "south": [0] * 4 + [1] * 8}
# What an arm knows: the classes whose patients it gets right.
KNOWS = {"images": (0,), "record": (1,), "fusion": (0, 1)}


def part(data: str, arm: str, seed: int, fold: int) -> Part:
    rows = {
        name: [[index, k, int(k in KNOWS[arm])] for index, k in enumerate(labels) if index % FOLDS == fold]
        for name, labels in PATIENTS.items()
    }
    about: dict[str, Any] = {"limits": None if data == "lgg" else dict.fromkeys(fusion.ARMS, 1.0), "chance": 0.5}
    key = {"data": data, "arm": arm, "seed": seed, "fold": fold}
    return Part(key, "abc", {"folds": FOLDS}, 1.0, {"rows": rows, "val": 0.5, **about})


def whole(data: str, seed: int) -> list[Part]:
    return [part(data, arm, seed, fold) for arm in fusion.ARMS for fold in range(FOLDS)]


def test_classes_weigh_the_same_and_differences_are_paired() -> None:
    found = fusion.summarise(whole("phantoms", 0) + whole("phantoms", 1))["phantoms"]
    assert [found[arm][0] for arm in fusion.ARMS] == [0.5, 0.5, 1.0]
    assert found["fusion - images"] == pytest.approx((0.5, 0.5, 0.5))
    assert (found["patients"], found["hospitals"]) == (24, 2)


def test_a_goal_is_for_phantoms_alone() -> None:
    lines = fusion.tables(whole("phantoms", 0) + whole("lgg", 0))["arms"].lines[2:]
    assert [line.split(" | ")[-1].rstrip(" |") for line in lines] == ["met", "-"]


def test_a_seed_without_every_fold_of_every_arm_is_left_out() -> None:
    some = [one for one in whole("phantoms", 3) if (one.key["arm"], one.key["fold"]) != ("fusion", 2)]
    assert fusion.summarise(some) == {}
    assert fusion.summarise(whole("phantoms", 0) + some) == fusion.summarise(whole("phantoms", 0))
