"""A line with intervals as an SVG file, for docs/: no library, and the same text for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from wardround.reports.svg import Axis

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 250, 20, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


@dataclass(frozen=True)
class Series:
    """A labelled line: (x, y, low, high), with x above 0 in rising order."""

    label: str
    rows: tuple[tuple[float, float, float, float], ...]


def lines_with_intervals(series: Sequence[Series], x_words: str, y_words: str) -> str:
    """Return the text of an SVG file. x is drawn on a logarithmic scale, and 0 of y is marked."""
    rows = [row for one in series for row in one.rows]
    xs = sorted({row[0] for row in rows})
    x = Axis(math.log(xs[0]), math.log(xs[-1]), LEFT + 20, WIDTH - RIGHT - 20)
    y = Axis(
        min(0.0, *(row[2] for row in rows)),
        max(0.0, *(row[3] for row in rows)),
        HEIGHT - BOTTOM,
        TOP,
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in y.ticks(6):
        dash = "" if tick == 0 else ' stroke-dasharray="2 4"'
        parts.append(_line(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick), "#888888", dash))
        parts.append(f'<text x="{LEFT - 8}" y="{y.at(tick) + 4}" text-anchor="end">{tick:+.2f}</text>')
    for value in xs:
        parts.append(
            f'<text x="{x.at(math.log(value))}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        )
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        # Series are drawn a little beside each other, so that intervals at one x stay apart.
        at = [(x.at(math.log(row[0])) + 4 * (number - (len(series) - 1) / 2), row) for row in one.rows]
        parts += [_line(place, y.at(row[2]), place, y.at(row[3]), colour) for place, row in at]
        path = " ".join(f"{place},{y.at(row[1])}" for place, row in at)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{place}" cy="{y.at(row[1])}" r="4" fill="{colour}"/>' for place, row in at]
        top = TOP + 14 + 22 * number
        parts.append(f'<circle cx="{WIDTH - RIGHT + 20}" cy="{top - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 30}" y="{top}">{escape(one.label)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_words)}</text>')
    turned = f'transform="rotate(-90 16 {HEIGHT / 2})"'
    parts.append(f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" {turned}>{escape(y_words)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"{more}/>'
