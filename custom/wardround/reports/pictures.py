"""Pictures inside a page: PNG files as data, so that the page needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A picture with its name.

    source: the picture as a data URL, or "" where the file could not be read as PNG.
    """

    name: str
    source: str


def gallery(paths: Sequence[Path]) -> list[Picture]:
    """Return the pictures with their titles: those inside the PNG files, else the names
    of the files.

    A file that is missing, unreadable or no PNG does not cost the others: its picture
    has no source.
    """
    return [_picture(Path(path)) for path in paths]


def _picture(path: Path) -> Picture:
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if not data.startswith(_PNG):
        return Picture(path.name, "")
    name = _title(data) or path.stem.replace("_", " ")
    return Picture(name, "data:image/png;base64," + base64.b64encode(data).decode())


def _title(png: bytes) -> str:
    """Return the title of a PNG, from its first tEXt or iTXt chunk of that name; ""
    where there is none, or one that cannot be read.
    """
    place = len(_PNG)
    while place + 8 <= len(png):
        length, kind = (
            int.from_bytes(png[place : place + 4], "big"),
            png[place + 4 : place + 8],
        )
        key, _, value = png[place + 8 : place + 8 + length].partition(b"\0")
        if key == b"Title" and kind == b"tEXt":
            return value.decode("latin-1")
        if key == b"Title" and kind == b"iTXt" and value[:2] == b"\0\0":
            return value[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
        place += 12 + length
    return ""
