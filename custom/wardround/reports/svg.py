"""Small drawings as inline SVG: they take the page's colours, stay sharp on paper, and
weigh a few hundred bytes.

The shapes are computed here; templates/parts.html writes and escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A linear scale from values [low, high] to pixels [start, end]. An empty range is
    widened to 1.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value. Values outside the range are drawn at its edge."""
        width = (self.high - self.low) or 1.0
        share = min(1.0, max(0.0, (value - self.low) / width))
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, wanted: int) -> list[float]:
        """Return at most wanted + 1 round numbers (1, 2 or 5 times a power of ten
        apart) inside the range.
        """
        width = self.high - self.low
        if width <= 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(width / wanted))
        step = next(factor * power for factor in (1, 2, 5, 10, 20) if width / (factor * power) <= wanted)
        first, last = (
            math.ceil(self.low / step - 1e-9),
            math.floor(self.high / step + 1e-9),
        )
        return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Shape:
    """One element of a drawing, with the text in it."""

    tag: str
    attributes: Mapping[str, str]
    text: str = ""


@dataclass(frozen=True)
class Drawing:
    """A drawing of width x height pixels.

    described: what a screen reader says instead of the picture.
    caption: the text that stands below it.
    """

    width: int
    height: int
    described: str
    shapes: Sequence[Shape]
    caption: str = ""


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Shape:
    """Return a straight line of a style class."""
    return Shape(
        "line",
        {
            "x1": f"{x1:g}",
            "y1": f"{y1:g}",
            "x2": f"{x2:g}",
            "y2": f"{y2:g}",
            "class": kind,
        },
    )


def path(runs: Iterable[Sequence[Point]], kind: str) -> list[Shape]:
    """Return one path over several unconnected runs of points. Runs of one point draw
    nothing.
    """
    steps = ["M" + "L".join(f"{x:g} {y:g}" for x, y in run) for run in runs if len(run) > 1]
    return [Shape("path", {"d": "".join(steps), "class": kind})] if steps else []


def dots(points: Iterable[Point], kind: str, radius: float = 2.6) -> list[Shape]:
    """Return a filled circle at every point."""
    return [
        Shape(
            "circle",
            {"cx": f"{x:g}", "cy": f"{y:g}", "r": f"{radius:g}", "class": kind},
        )
        for x, y in points
    ]


def label(
    x: float,
    y: float,
    words: str,
    anchor: str = "start",
    kind: str = "label",
) -> Shape:
    """Return a short text."""
    return Shape(
        "text",
        {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor, "class": kind},
        words,
    )
