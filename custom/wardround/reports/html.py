"""Pages from templates: how something is shown stands in templates/, what is shown is
computed in Python.

Site names, problems and settings come from other machines and are never trusted. Every
value that a template prints is escaped, and a name that a template does not know is an
error, not an empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from wardround.core.terminal import sized
from wardround.core.validate import Json

DASH = "–"


class Cell(NamedTuple):
    """A cell of a table.

    text: the text of the cell.
    note: a smaller note beside it.
    kind: the style class of the note.
    """

    text: str
    note: str
    kind: str = "ci"


@dataclass(frozen=True)
class Table:
    """A table that scrolls where it is wide.

    The first cell of a row is its header.

    marked: the number of the row that is highlighted, or None.
    texts: whether the cells are texts, which begin at the left, and not numbers.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | int | Cell]]
    marked: int | None = None
    texts: bool = False


def environment(package: str) -> Environment:
    """Return the templates in a package's folder `templates`, which escape values and
    refuse unknown names.
    """
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


_TEMPLATES = environment("wardround.reports")
PARTS: Any = _TEMPLATES.get_template("parts.html").module
# The macros are a global name, so that a block of a page can be rendered by itself.
_TEMPLATES.globals["parts"] = PARTS


def html(template: str, values: Json, block: str | None = None) -> str:
    """Return the page of a template, or one block of it."""
    found = _TEMPLATES.get_template(template)
    if block is None:
        return found.render(values)
    return "".join(found.blocks[block](found.new_context(dict(values))))


def number(value: Any, digits: int = 3) -> str:
    """Return a rounded number with a true minus sign, or a dash where it is not known."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval(found: Json | None, digits: int = 3) -> str | Cell:
    """Return a value with its interval as a note, or a dash where the value is unknown.

    The note says where there is no interval, or one without width. Equal ends come from
    few patients who are alike: they look exact and are not.
    """
    if not found or found.get("value") is None:
        return DASH
    low, high = found.get("low"), found.get("high")
    if low is None or high is None or number(low, digits) == number(high, digits):
        return Cell(number(found["value"], digits), "no interval")
    return Cell(
        number(found["value"], digits),
        f"[{number(low, digits)}, {number(high, digits)}]",
    )


def size(count: int | None) -> str:
    """Return a number of bytes in decimal units, or a dash where it is not known."""
    return DASH if count is None else sized(count)


def duration(seconds: float | None) -> str:
    """Return seconds in words, such as "12.3 s", "4 min 3 s" or "2 h 5 min"."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
