"""CSV text as this package writes it, everywhere: no cell of it is a formula to a spreadsheet.

A name that a stranger chose (`=HYPERLINK(...)`) would be computed where the table is opened. Text that begins like a formula
gets an apostrophe before it, which spreadsheets show as text; `plain` takes it away when a table is read again.
Source: OWASP, CSV Injection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

FORMULA = "=+-@\t\r\n＝＋－＠"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_QUOTED = frozenset(',;\t"\r\n')


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV: cells separated by commas, lines ended by LF; numbers stay numbers, None is an empty cell."""
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def plain(cell: str) -> str:
    """Return a cell that `csv_text` wrote as it was before."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] and cell[1] in FORMULA + "'" else cell


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if text[:1] and (text[0] in FORMULA or plain(text) != text) and not _NUMBER.fullmatch(text):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if _QUOTED.intersection(text) else text
