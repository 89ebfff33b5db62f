"""The report's figures: one small panel per hospital, with the same scale in every
panel of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor
from statistics import fmean

from wardround.core.validate import Json
from wardround.reports.summary import (
    by_name,
    candidates_of,
    main_metric,
    nothing_told,
    privacy_claim,
    score_name,
    site_name,
    verdict_of,
)
from wardround.reports.svg import Axis, Drawing, Point, Shape, dots, label, line, path
from wardround.reports.verdict import NAMES

WIDTH, HEIGHT = 260, 150
Curve = Mapping[int, float]
Panels = Sequence[Drawing] | str


def curves(run: Json, key: str) -> dict[str, dict[int, float]]:
    """Return, for each site, the value of `val_score` or `loss` by round, counted from
    1. Rounds without a value are left out.
    """
    found: dict[str, dict[int, float]] = {site: {} for site in by_name(run["sites"])}
    for r in run["rounds"]:
        for site, numbers in (r.get("sites") or {}).items():
            if numbers and numbers.get(key) is not None:
                found.setdefault(site, {})[r["round"] + 1] = float(numbers[key])
    return found


def curve_panels(run: Json, key: str, what: str) -> Panels:
    """Return one panel per hospital with its values over the rounds, and the mean over
    hospitals dashed. Without any value, and for the loss under differential privacy, the
    result is a sentence.

    The axis of Dice runs from 0 to 1; any other axis runs from 0 (or the lowest value
    below 0) to the largest value.
    """
    if key == "loss" and privacy_claim(run):
        return f"No {what} leaves a hospital in this run, because it promises differential privacy."
    found = curves(run, key)
    values = [value for curve in found.values() for value in curve.values()]
    if not values:
        return nothing_told(run, what)
    y = Axis(0.0, 1.0, HEIGHT - 22, 10) if key == "val_score" else Axis(min(0.0, *values), max(values), HEIGHT - 22, 10)
    rounds = [r["round"] + 1 for r in run["rounds"]]
    x = Axis(min(rounds), max(rounds), 34, WIDTH - 10)
    mean = {
        r: fmean(curve[r] for curve in found.values() if r in curve)
        for r in rounds
        if any(r in c for c in found.values())
    }
    best = (run.get("best") or {}).get("round") if key == "val_score" else None
    return [_curve(site_name(run, site), what, curve, mean, x, y, best) for site, curve in found.items()]


def candidate_panels(run: Json) -> Panels:
    """Return one panel per hospital: the test Dice of every candidate as a dot with its
    95 % interval. The deployed one is filled.

    All panels share one range: the tenths of Dice around everything drawn.
    """
    found = {site: _dice_of(run, site) for site in by_name(run["sites"] | run["final"])}
    drawn = [
        float(at[key])
        for dice in found.values()
        for at in dice.values()
        for key in ("value", "low", "high")
        if at.get(key) is not None
    ]
    if not drawn:
        return nothing_told(run, "test result")
    x = Axis(floor(10 * min(drawn)) / 10, ceil(10 * max(drawn)) / 10, 14, WIDTH - 14)
    return [
        _candidates(
            site_name(run, site),
            dice,
            verdict_of(run, site).deploy,
            x,
            score_name(run),
        )
        for site, dice in found.items()
        if dice
    ]


def _dice_of(run: Json, site: str) -> dict[str, Json]:
    """Return the candidates of a site whose test Dice is known."""
    dice = {name: main_metric(candidate) for name, candidate in candidates_of(run, site).items()}
    return {name: at for name, at in dice.items() if at}


def _curve(
    site: str,
    what: str,
    curve: Curve,
    mean: Curve,
    x: Axis,
    y: Axis,
    best: int | None,
) -> Drawing:
    described = f"{what} of {site} over rounds: " + (
        ", ".join(f"round {r} {v:.2f}" for r, v in curve.items()) or "no value"
    )
    shapes = _grid(x, y)
    if best is not None and best + 1 <= x.high:
        shapes.append(line(x.at(best + 1), y.start, x.at(best + 1), y.end, "best"))
    runs = _runs(curve, x, y)
    shapes += [*path(_runs(mean, x, y), "mean"), *path(runs, "line")]
    shapes += [dot for run in runs for dot in dots(run, "dot")]
    if curve:
        last = max(curve)
        px, py = x.at(last), y.at(curve[last])
        above = py - 7 if py > 24 else py + 15
        shapes.append(
            label(min(px, WIDTH - 8), above, f"{curve[last]:.2f}", "end", "ink"),
        )
    else:
        shapes.append(
            label((x.start + x.end) / 2, HEIGHT / 2, "no value came back", "middle"),
        )
    return Drawing(WIDTH, HEIGHT, described, shapes, site)


def _runs(curve: Curve, x: Axis, y: Axis) -> list[list[Point]]:
    """Return the points in runs of consecutive rounds: a gap stays a gap."""
    runs: list[list[Point]] = []
    previous: int | None = None
    for r in sorted(curve):
        if previous is None or r != previous + 1:
            runs.append([])
        runs[-1].append((x.at(r), y.at(curve[r])))
        previous = r
    return runs


def _grid(x: Axis, y: Axis) -> list[Shape]:
    shapes = []
    for tick in y.ticks(3):
        shapes += [
            line(x.start, y.at(tick), x.end, y.at(tick), "grid"),
            label(x.start - 5, y.at(tick) + 3.5, f"{tick:g}", "end"),
        ]
    rounds = [tick for tick in x.ticks(5) if tick == int(tick)]
    return shapes + [label(x.at(tick), y.start + 14, f"{tick:g}", "middle") for tick in rounds]


def _candidates(
    site: str,
    found: Mapping[str, Json],
    chosen: str | None,
    x: Axis,
    score: str,
) -> Drawing:
    height = 30 + 30 * len(found)
    shapes = []
    for tick in x.ticks(5):
        shapes += [
            line(x.at(tick), 4, x.at(tick), height - 18, "grid"),
            label(x.at(tick), height - 5, f"{tick:g}", "middle"),
        ]
    spoken = []
    for i, (name, at) in enumerate(found.items()):
        mark = " deployed" if name == chosen else ""
        y = 28.0 + 30 * i
        shapes.append(
            label(
                x.start,
                y - 10,
                NAMES[name] + (" (deploy)" if mark else ""),
                "start",
                f"label{mark}",
            ),
        )
        shapes.append(
            label(WIDTH - 12, y - 10, f"{at['value']:.3f}", "end", f"label{mark}"),
        )
        words = f"{NAMES[name]} {at['value']:.3f}"
        if at.get("low") is not None and at.get("high") is not None and at["low"] != at["high"]:
            shapes.append(line(x.at(at["low"]), y, x.at(at["high"]), y, f"span{mark}"))
            words += f" [{at['low']:.3f}, {at['high']:.3f}]"
        shapes += dots([(x.at(at["value"]), y)], f"open{mark}", 3.6)
        spoken.append(words + (", to deploy" if mark else ""))
    return Drawing(
        WIDTH,
        height,
        f"Test {score} at {site}: " + "; ".join(spoken),
        shapes,
        site,
    )
