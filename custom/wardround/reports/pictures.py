"""Pictures inside a page: PNG files as data, so that the page needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from wardround.reports.markup import Markup, say, tag, text

_PNG = b"\x89PNG\r\n\x1a\n"


def gallery(paths: Sequence[Path]) -> Markup:
    """Return the pictures with their titles (those inside the PNG, else the file names) as captions.

    no path: empty | a file that is missing, unreadable or no PNG: a line that says so, the other pictures are kept
    """
    return tag("div", *(_picture(Path(path)) for path in paths), class_="pictures") if paths else Markup("")


def _picture(path: Path) -> Markup:
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if not data.startswith(_PNG):
        return say("p", f"The picture {path.name} could not be read as PNG.", class_="soft")
    name = _title(data) or path.stem.replace("_", " ")
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    alt = f"Overlay {name}: contours of the expert's mask and of the prediction on one slice"
    return tag(
        "figure", Markup(str(tag("img", src=source, alt=alt)).removesuffix("</img>")), tag("figcaption", text(name))
    )


def _title(png: bytes) -> str:
    """Return the title of a PNG: its first tEXt or iTXt chunk of that name; none, or one that cannot be read: ""."""
    place = len(_PNG)
    while place + 8 <= len(png):
        length, kind = int.from_bytes(png[place : place + 4], "big"), png[place + 4 : place + 8]
        key, _, value = png[place + 8 : place + 8 + length].partition(b"\0")
        if key == b"Title" and kind == b"tEXt":
            return value.decode("latin-1")
        if key == b"Title" and kind == b"iTXt" and value[:2] == b"\0\0":
            return value[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
        place += 12 + length
    return ""
