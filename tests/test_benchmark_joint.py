"""The tables of joint_privacy.py by hand: which rows are compared, and when a goal is met."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import joint_privacy
from common import Part


def part(data: str, arm: str, epsilon: int, dice: float, seed: int = 0) -> Part:
    """Two hospitals of two test patients, which this arm scores alike."""
    key = {"data": data, "hospitals": 4, "arm": arm, "epsilon": epsilon, "fold": 0, "seed": seed}
    test = {site: {"0": dice, "1": dice + 0.1} for site in ("site-1", "site-2")}
    return Part(key, "abc", {"rounds": 40}, 1.0, {"test": test})


def told(parts: list[Part], name: str) -> str:
    return "\n".join(joint_privacy.tables(parts)[name].lines)


def test_the_honest_figure_is_the_gain_over_the_warm_start() -> None:
    parts = [part("lgg", "joint", 8, 0.6), part("lgg", "joint", 2, 0.5), part("lgg", "epsilon0", 0, 0.55)]
    assert "| lgg | 4 | 8 | +0.050" in told(parts, "gain")
    assert "| lgg | 4 | 2 | -0.050" in told(parts, "gain")
    assert "| lgg | 4 | joint | 8 | 0.650 |" in told(parts, "dice")
    assert "| lgg | 4 | epsilon0 | - | 0.600 |" in told(parts, "dice")


@pytest.mark.parametrize(("joint", "words"), [(0.6, "| met |"), (0.5, "| **not met** |")])
def test_the_goal_on_real_hospitals(joint: float, words: str) -> None:
    parts = [part("lgg", "joint", 8, joint, seed) for seed in (0, 1)]
    parts += [part("lgg", "epsilon0", 0, 0.55, seed) for seed in (0, 1)]
    assert words in told(parts, "goals")


def test_the_goals_on_hippocampus_are_shares_of_no_noise() -> None:
    parts = [
        part("hippocampus", "none", 0, 0.8),
        part("hippocampus", "joint", 8, 0.74),
        part("hippocampus", "joint", 2, 0.74),
    ]
    found = told(parts, "goals")
    assert "epsilon 8: at least 0.95 of no noise | 0.929 | **not met** |" in found
    assert "epsilon 2: at least 0.85 of no noise | 0.929 | met |" in found


def test_what_an_epsilon_means() -> None:
    assert "| 8 | 1.665 | 80% | 25.4% |" in told([part("lgg", "local", 0, 0.5)], "meaning")
