"""Means over sites, intervals over seeds, worst sites, and a picture that shows both curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from wardround.core.errors import DataRefused
from wardround.reports import sweep
from wardround.reports.intervals import over_seeds


def run(alpha: Any, seed: int, scores: list[tuple[float, float, float]], classes: bool = True) -> dict[str, Any]:
    counts = {part: {"a": 1, "b": 0 if part == "test" else 2} for part in ("train", "val", "test")}
    sites = {
        f"site-{k + 1}": {
            "patients": {"train": 3, "val": 1, "test": 4},
            "classes": counts if classes else None,
            "test": {name: {"value": value} for name, value in zip(sweep.MODELS, one, strict=True)},
        }
        for k, one in enumerate(scores)
    }
    cell = {"sites": len(scores), "alpha": alpha, "missing": {}, "scanner": False}
    return {"cell": cell, "seed": seed, "sites": sites}


def t95(n: int) -> float:
    return {2: 12.706204736, 3: 4.302652730}[n]


def test_over_seeds_is_students_interval() -> None:
    mean, low, high = over_seeds([0.1, 0.2, 0.3])
    half = t95(3) * 0.1 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert over_seeds([0.5]) == (0.5, None, None)
    for values in ([], [math.nan], [0.1, math.inf]):
        with pytest.raises(DataRefused):
            over_seeds(values)


def test_summary_by_hand() -> None:
    runs = [
        run(0.1, 0, [(0.2, 0.4, 0.5), (0.6, 0.4, 0.7)]),
        run(0.1, 1, [(0.4, 0.5, 0.3), (0.6, 0.7, 0.9)]),
    ]
    row = sweep.summary(runs)
    assert row["seeds"] == [0, 1]
    assert row["mean"]["local"]["value"] == pytest.approx(0.45)
    assert row["worst"]["tuned"]["value"] == pytest.approx((0.5 + 0.3) / 2)
    gaps = (0.2, 0.1)
    half = t95(2) * 0.05 * math.sqrt(2) / math.sqrt(2)
    found = row["minus_local"]["tuned"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx((sum(gaps) / 2, 0.15 - half, 0.15 + half))


def test_the_table_names_classes_that_nobody_tests() -> None:
    runs = [[run(alpha, seed, [(0.2, 0.4, 0.5)] * 2) for seed in (0, 1)] for alpha in (0.1, "inf")]
    text = sweep.table([sweep.summary(mine) for mine in runs], runs, "balanced accuracy")
    assert "| alpha | sites | local only | federated | federated + fine-tuning |" in text
    assert "| 1 1 / 1 1 |" in text
    assert "| 0.1 | 2 | 1 | site-2 | 1/1/1 | 2/2/0 | 0 |" in text
    assert "lacking" not in text
    assert "right by always saying it" in text
    assert "+0.300 [+0.300, +0.300]" in text


def test_segmentation_and_one_seed() -> None:
    runs = [[run(None, 0, [(0.2, 0.4, 0.5)], classes=False)]]
    text = sweep.table([sweep.summary(mine) for mine in runs], runs, "Dice")
    assert "1 seed: no interval" in text
    assert "test patients, by site |" in text
    assert "| 4 |" in text
    assert "alpha" not in text
    assert "[" not in text.split("\n")[2]


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_picture_is_written_and_shows_the_curves(
    seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn = []
    real = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, y, **how: drawn.append((y, how)) or real(self, x, y, **how))
    rows = [
        sweep.summary([run(a, s, [(0.2 + 0.1 * s, 0.4, 0.5), (0.2, 0.4, 0.7)]) for s in range(seeds)])
        for a in (0.1, "inf")
    ]
    file = sweep.draw(rows, "balanced accuracy", "a job", tmp_path / "new" / "score.png")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert [how["linestyle"] for _, how in drawn] == ["-", "--"]
    assert drawn[0][0] == pytest.approx([0.6, 0.6])
    assert (drawn[1][1]["yerr"] is None) is (seeds == 1)
