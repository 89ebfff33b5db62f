"""Pictures inside a page: PNG files as data, so that the page needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from wardround.reports.markup import Markup, say, tag, text

_PNG = b"\x89PNG\r\n\x1a\n"


def gallery(paths: Sequence[Path]) -> Markup:
    """Return the pictures with their file names as captions and alternative texts.

    no path: empty | a file that is missing, unreadable or no PNG: a line that says so, the other pictures are kept
    """
    return tag("div", *(_picture(Path(path)) for path in paths), class_="pictures") if paths else Markup("")


def _picture(path: Path) -> Markup:
    name = path.stem.replace("_", " ")
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if not data.startswith(_PNG):
        return say("p", f"The picture {path.name} could not be read as PNG.", class_="soft")
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    alt = f"Overlay {name}: contours of the expert's mask and of the prediction on one slice"
    return tag(
        "figure", Markup(str(tag("img", src=source, alt=alt)).removesuffix("</img>")), tag("figcaption", text(name))
    )
