"""How is CSV written so that no cell of it is a formula to a spreadsheet?

A name that a stranger chose, such as `=HYPERLINK(...)`, would be computed where the
table is opened. A text that begins like a formula is written with an apostrophe before
it, which spreadsheets take as the mark of text. `plain` removes it when a table is read
again.
Source: OWASP, CSV Injection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

FORMULA = "=+-@\t\r\n＝＋－＠"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_QUOTED = frozenset(',;\t"\r\n')


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV, with commas between cells and LF at the end of every line.

    Numbers stay numbers, and None becomes an empty cell.
    """
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def plain(cell: str) -> str:
    """Return a cell as it was before `csv_text` wrote it."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] and cell[1] in FORMULA + "'" else cell


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if text[:1] and (text[0] in FORMULA or plain(text) != text) and not _NUMBER.fullmatch(text):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if _QUOTED.intersection(text) else text
