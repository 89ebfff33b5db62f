"""The pictures of what joining gave: the gain of every hospital, and what joining is
worth for hospitals of other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import ceil, floor, log2

from wardround.core.validate import Json
from wardround.reports.html import number
from wardround.reports.joining import OWN, Joined
from wardround.reports.svg import Axis, Drawing, Shape, dots, label, line, path
from wardround.reports.value import Point
from wardround.reports.verdict import NAMES

# Of the picture of gains: one row per hospital, its name and model left of the bars,
# the numbers right of them.
WIDTH, ROW, TOP, FOOT = 640, 36, 6, 34
LEFT, RIGHT = 190, 470
# Characters of a name that fit left of the bars.
LONGEST = 30
# Of a panel of the curve.
PANEL, HEIGHT = 340, 210
# Ends of the gain's axis are multiples of this, and it never spans less than one each way.
STEP = 0.05


def gain_picture(found: Sequence[Joined], score: str) -> Drawing | str:
    """Return the gain of every hospital as a dot with its 95 % interval beside the line
    of no difference; a sentence where no hospital told a gain.

    Filled: the interval lies above 0. A hospital that keeps its own model has an open
    dot on the line.
    """
    gains = [one.gain for one in found if one.gain]
    if not gains:
        if any(one.model == OWN for one in found):
            return "No hospital is advised to use a shared model in this run, so there is no gain to draw."
        return "No gain was told: each hospital's own report has its comparison."
    ends = [float(at[key]) for at in gains for key in ("value", "low", "high") if at.get(key) is not None]
    x = Axis(min(floor(min(ends) / STEP), -1) * STEP, max(ceil(max(ends) / STEP), 1) * STEP, LEFT, RIGHT)
    bottom = TOP + ROW * len(found)
    shapes = [line(x.at(0), TOP, x.at(0), bottom, "zero")]
    for tick in x.ticks(6):
        shapes += [
            *([] if tick == 0 else [line(x.at(tick), TOP, x.at(tick), bottom, "grid")]),
            label(x.at(tick), bottom + 13, _signed(tick, 2), "middle"),
        ]
    shapes += [
        label(x.at(0) - 6, bottom + 27, "own model better", "end"),
        label(x.at(0) + 6, bottom + 27, "joining better", "start"),
    ]
    spoken = []
    for row, one in enumerate(found):
        drawn, words = _gain_row(one, x, float(TOP + ROW * row))
        shapes += drawn
        spoken.append(f"{one.site}: {words}")
    described = f"Gain in {score} over each hospital's own model: " + "; ".join(spoken)
    return Drawing(WIDTH, bottom + FOOT, described, shapes)


def _gain_row(one: Joined, x: Axis, top: float) -> tuple[list[Shape], str]:
    """Return the shapes of one hospital, and its gain in words."""
    gain, middle = one.gain, top + ROW / 2
    if gain is None:
        own = one.model == OWN
        words = "keeps its own model" if own else "not reported"
        mark = dots([(x.at(0), middle)], "open", 3.6) if own else []
        return [*_words(one.site, "", words, top, ""), *mark], words
    name = NAMES.get(one.model or "", one.model or "")
    name += ", not usable yet" if one.kind == "unusable" else ""
    words, kind, bar = f"{_signed(gain['value'])}, no interval", "", []
    low, high = gain.get("low"), gain.get("high")
    if low is not None and high is not None and low != high:
        words, kind = f"{_signed(gain['value'])} [{_signed(low)}, {_signed(high)}]", " deployed" if low > 0 else ""
        bar = [line(x.at(low), middle, x.at(high), middle, f"span{kind}")]
    dot = dots([(x.at(gain["value"]), middle)], f"open{kind}", 4)
    return [*_words(one.site, name, words, top, kind), *bar, *dot], f"{name} {words}"


def _words(site: str, model: str, words: str, top: float, kind: str) -> list[Shape]:
    """Return the name of a hospital over that of its model, and what it gained."""
    site = site if len(site) <= LONGEST else f"{site[: LONGEST - 1]}…"
    at = top + ROW / 2 + 4
    names = (
        [label(4, at - 6, site, "start", "ink"), label(4, at + 7, model)]
        if model
        else [label(4, at, site, "start", "ink")]
    )
    return [*names, label(WIDTH - 4, at, words, "end", f"label{kind}")]


def value_panels(points: Sequence[Point], sizes: Mapping[str, int]) -> list[Drawing]:
    """Return one panel for each kind of data: the gain against the training patients of
    each hospital, one line for each number of hospitals, with 95 % intervals.

    points: In the order of `value.read`.
    sizes: The training patients of this run's hospitals, where they were told, drawn as
        dashed lines where the panel reaches so far.
    """
    return [_panel(what, list(group), sizes) for what, group in groupby(points, key=lambda one: one.what)]


def _panel(what: str, points: Sequence[Point], sizes: Mapping[str, int]) -> Drawing:
    ends = [end for one in points for end in (one.low, one.high, one.gain)]
    y = Axis(min(floor(min(ends) / STEP), 0) * STEP, max(ceil(max(ends) / STEP), 1) * STEP, HEIGHT - 36, 12)
    patients = sorted({one.patients for one in points})
    x = Axis(log2(patients[0]), log2(patients[-1]), 44, PANEL - 16)
    shapes: list[Shape] = []
    for tick in y.ticks(5):
        shapes += [
            line(x.start, y.at(tick), x.end, y.at(tick), "zero" if tick == 0 else "grid"),
            label(38, y.at(tick) + 3.5, _signed(tick, 2), "end"),
        ]
    shapes += [label(x.at(log2(many)), HEIGHT - 20, str(many), "middle") for many in patients]
    shapes.append(label((x.start + x.end) / 2, HEIGHT - 5, "training patients of each hospital", "middle"))
    here = sorted({size for size in sizes.values() if patients[0] <= size <= patients[-1]})
    shapes += [line(x.at(log2(size)), y.end, x.at(log2(size)), y.start, "here") for size in here]
    spoken = []
    for row, (hospitals, group) in enumerate(groupby(points, key=lambda one: one.hospitals)):
        found = list(group)
        # Lines of different numbers of hospitals stand a little apart, so that bars do
        # not cover each other.
        at = [(x.at(log2(one.patients)) + 3 * row, y.at(one.gain)) for one in found]
        kind = "line" if row == 0 else "line second"
        shapes += path([at], kind)
        for one, (px, _) in zip(found, at, strict=True):
            shapes.append(line(px, y.at(one.low), px, y.at(one.high), "span"))
        shapes += dots(at, "dot")
        # The curve falls, so the upper right corner is free for its legend.
        height = y.end + 8 + 14 * row
        shapes += path([[(x.end - 98, height), (x.end - 74, height)]], kind)
        shapes.append(label(x.end - 68, height + 3.5, f"{hospitals} hospitals", "start", "ink"))
        told = ", ".join(f"{one.patients} patients {_signed(one.gain)}" for one in found)
        spoken.append(f"{hospitals} hospitals: {told}")
    return Drawing(PANEL, HEIGHT, f"Gain of joining, {what}: " + "; ".join(spoken), shapes, what)


def told_sizes(run: Json) -> dict[str, int]:
    """Return how many training patients each site of a run has, where it told them."""
    found = {site: ((one or {}).get("cases") or {}).get("train") for site, one in run["sites"].items()}
    return {site: count for site, count in found.items() if count}


def _signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign; a rounded 0 has none."""
    words = number(value, digits)
    return f"+{words}" if round(value, digits) > 0 else words
