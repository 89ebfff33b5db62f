"""HTML building blocks. Every text goes through `html.escape` here; what is already HTML carries the type `Markup`.

Site names, problems and settings come from other machines and are never trusted.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NewType

from wardround.core import files
from wardround.core.validate import Json
from wardround.reports.style import CSS

Markup = NewType("Markup", str)
DASH = "–"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(value: object) -> Markup:
    """Return the value as escaped text; Markup is returned as it is only through `join` and `tag`, never here."""
    return Markup(html.escape(str(value), quote=True))


def tag(name: str, *children: Markup, **attributes: str) -> Markup:
    """Return <name attributes>children</name>; attribute values are escaped, `class_` means class, `_` means `-`."""
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{listed}>{''.join(children)}</{name}>")


def join(parts: Iterable[Markup]) -> Markup:
    """Return the parts one after another."""
    return Markup("".join(parts))


def say(name: str, words: object, **attributes: str) -> Markup:
    """Return one element that holds escaped text."""
    return tag(name, text(words), **attributes)


def bullets(items: Iterable[object], **attributes: str) -> Markup:
    """Return a list of escaped texts."""
    return tag("ul", *(say("li", item) for item in items), **attributes)


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Markup]], marked: int | None = None) -> Markup:
    """Return a table; the first cell of a row is its header, row number `marked` is highlighted, wide ones scroll."""
    top = tag("tr", *(say("th", head, scope="col") for head in heads))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell) for cell in row[1:]),
            class_="deployed" if i == marked else "row",
        )
        for i, row in enumerate(rows)
    ]
    inner = tag("table", say("caption", caption), tag("thead", top), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def number(value: Any, digits: int = 3) -> Markup:
    """Return a rounded number with a true minus sign, or a dash when it is not known."""
    return Markup(DASH) if value is None else text(f"{value:.{digits}f}".replace("-", "−"))


def interval(found: Json | None, digits: int = 3) -> Markup:
    """Return "value [low, high]"; without interval, or with one that has no width, the value says so; unknown: a dash.

    Equal ends come from few patients who are alike: they look exact and are not.
    """
    if not found or found.get("value") is None:
        return Markup(DASH)
    low, high = found.get("low"), found.get("high")
    if low is None or high is None or number(low, digits) == number(high, digits):
        return join([number(found["value"], digits), say("span", " no interval", class_="ci")])
    inner = f" [{number(low, digits)}, {number(high, digits)}]"
    return join([number(found["value"], digits), tag("span", Markup(inner), class_="ci")])


def size(count: int | None) -> str:
    """Return bytes in decimal units."""
    if count is None:
        return DASH
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def duration(seconds: float | None) -> str:
    """Return seconds as words: 12.3 s, 4 min 3 s, 2 h 5 min."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def page(title: str, *body: Markup) -> Markup:
    """Return the whole document: no script, nothing loaded from anywhere (its own policy forbids both)."""
    head = tag(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="color-scheme" content="light dark">'
        ),
        say("title", title),
        tag("style", Markup(CSS)),
    )
    return Markup(f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en')}\n")


def save(path: Path, document: str) -> Path:
    """Write the text in one step (an interrupted writer leaves no half page) and return the path."""
    return files.write(path, document)
