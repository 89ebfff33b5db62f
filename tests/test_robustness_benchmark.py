"""The robustness benchmark counts costs as it says, goes on where it stopped, and mixes no settings."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import robustness
from common import Part, Parts
from wardround.core.errors import ConfigRefused


def part(rule, attack, seed, north, south, flags=(), stopped=None):
    numbers = {
        "dice": {"north": north, "south": south},
        "hostile": [] if attack == "none" else ["south"],
        "flags": {site: 1 for site in flags},
        "stopped": stopped,
    }
    return Part({"rule": rule, "attack": attack, "seed": seed}, "abc", {"size": 16}, 1.0, numbers)


def test_costs_are_paired_by_seed_over_the_honest_hospitals():
    parts = [
        part("mean", "none", 0, [0.8, 0.6], [0.5]),
        part("mean", "none", 1, [0.6, 0.6], [0.5]),
        part("mean", "not_finite", 0, [0.6], [0.1]),
        part("mean", "not_finite", 1, [0.6], [0.1]),
        part("median", "none", 0, [0.7], [0.4]),
        part("median", "sign_flip", 0, [0.5], [0.9], flags=("north", "south")),
        part("median", "sign_flip", 1, [0.5], [0.9], stopped="2 flagged sites"),
    ]
    table = robustness.summarise(parts)
    assert table["median"]["none"]["cost"][0] == pytest.approx((0.7 + 0.5) / 2 - (0.7 + 0.4) / 2)
    hit = table["median"]["sign_flip"]
    assert hit["dice"][0] == pytest.approx(0.5)
    assert hit["cost"][0] == pytest.approx(((0.7 - 0.5) + (0.6 - 0.5)) / 2)
    assert hit["over_loss"][0] == pytest.approx(0.1)
    assert (hit["flag_rounds"], hit["honest_flagged"], hit["stopped"]) == (2, 1, 1)
    assert table["mean"]["none"]["cost"][0] == 0
    assert table["mean"]["none"]["over_loss"] is None


def test_the_tables_state_the_seeds_of_every_row():
    parts = [part("mean", "none", 0, [0.8], [0.5]), part("mean", "none", 1, [0.6], [0.5])]
    parts += [part("mean", "alie", 0, [0.6], [0.1], flags=("north",))]
    found = robustness.tables(parts)
    assert found["dice"].lines[2].startswith("| mean | 1 to 2 | 0.600 [")
    assert found["cost"].lines[2].endswith("| +0.200 |")
    assert found["flags"].lines[2] == "| mean | alie 1 | 1 | - | - |"


def test_tables_of_other_settings_are_refused():
    parts = [part("mean", "none", 0, [0.8], [0.5]), part("mean", "none", 1, [0.6], [0.5])]
    with pytest.raises(ConfigRefused, match="other settings"):
        robustness.tables([parts[0], replace(parts[1], settings={"size": 24})])


def test_a_part_that_no_row_shows_is_refused():
    with pytest.raises(ConfigRefused, match="bulyan"):
        robustness.tables([part("bulyan", "none", 0, [0.8], [0.5])])


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """measured(seeds) -> the parts that were run, in a folder that stays"""
    ran = []
    site = SimpleNamespace(model=SimpleNamespace(vector=torch.zeros(1)))

    def fake(rule, attack, *rest):
        ran.append((rule, attack))
        return {"dice": {"north": [0.5]}, "hostile": [], "flags": {}, "stopped": None}

    monkeypatch.setattr(robustness, "open_sites", lambda *_: {"north": site})
    monkeypatch.setattr(robustness, "run_part", fake)

    def measure(seeds, quick=True):
        ran.clear()
        words = {"rules": ["mean", "krum"], "attacks": ["none", "alie"], "seeds": seeds, "quick": quick}
        robustness.measure(SimpleNamespace(**words), Parts(tmp_path))
        return list(ran)

    measure.folder = tmp_path
    return measure


def test_parts_that_are_there_are_not_run_again(measured):
    assert len(measured([0])) == 4
    assert measured([0]) == []
    (measured.folder / "krum-alie-0.json").unlink()
    assert measured([0, 1]) == [
        ("krum", "alie"),
        ("mean", "none"),
        ("mean", "alie"),
        ("krum", "none"),
        ("krum", "alie"),
    ]
    found = json.loads((measured.folder / "krum-alie-1.json").read_text())
    assert found.keys() == {"key", "commit", "settings", "seconds", "numbers"}
    assert found["key"] == {"rule": "krum", "attack": "alie", "seed": 1}


def test_parts_of_other_settings_are_not_run_over(measured):
    measured([0])
    with pytest.raises(ConfigRefused, match="other settings"):
        measured([0], quick=False)
