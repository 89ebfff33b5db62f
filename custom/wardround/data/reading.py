"""A CSV table as rows of cells. Where a spreadsheet changed it, the refusal names the
separator or encoding.

Commas, quotes, UTF-8 with or without a byte order mark, and any end of line are read.
Semicolons, tabs and other encodings are named and not read: with them come decimal
commas, and `1,250` is then one number in one country and another in the next.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from wardround.core.bounded import MOST_TABLE, TooMuch, read_bytes
from wardround.core.errors import DataRefused
from wardround.core.tables import plain

IDS = ("case", "patient", "label")
EXPECTED = "a readable CSV file in UTF-8, cells separated by commas"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_EXPORT = (
    'save it as "CSV UTF-8", separated by commas, numbers with a point (a spreadsheet of a country with decimal commas: set the '
    "separators in its export dialogue)"
)


def read_rows(
    table: Path,
    names: Sequence[str] = (),
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Return (header, rows) of a CSV file in UTF-8, with cells without surrounding
    blanks. Empty lines are skipped.

    A column whose name equals one of IDS or `names`, except for upper and lower case,
    gets that name. Columns at the end without a name and without any cell, as
    spreadsheets leave them, are dropped, and so is a first one without a name that
    counts the rows, as R and pandas write it.

    An unreadable table, another separator or encoding, no header, a repeated or empty
    header, and a row with more or fewer cells than the header are refused with
    DataRefused.
    """
    lines = _lines(table)
    width = max(
        (place + 1 for line in lines for place, cell in enumerate(line) if cell),
        default=0,
    )
    lines = [line[1 if _counts_rows(lines) else 0 : width] for line in lines]
    called = {name.casefold(): name for name in (*IDS, *names)}
    header = tuple(called.get(name.casefold(), name) for name in lines[0]) if lines else ()
    if not header or "" in header or len({name.casefold() for name in header}) < len(header):
        raise _refused(
            table,
            "no header, or an empty or repeated name in it",
            "a header line, every name once",
        )
    uneven = sum(len(line) != len(header) for line in lines[1:])
    if uneven:
        raise _refused(
            table,
            f"{uneven} rows with another number of cells than the header",
            "one cell per column",
        )
    return header, [dict(zip(header, line, strict=True)) for line in lines[1:]]


def read_loosely(table: Path) -> list[dict[str, str]]:
    """Return the rows of somebody else's table. Columns without a name are left out,
    and missing cells are empty.

    An unreadable table, and another separator or encoding, are refused with
    DataRefused.
    """
    lines = _lines(table)
    header = lines[0] if lines else []
    rows = [[*line, *[""] * (len(header) - len(line))] for line in lines[1:]]
    return [{name: cell for name, cell in zip(header, row, strict=False) if name} for row in rows]


def column(rows: Sequence[dict[str, str]] | Sequence[object], name: str) -> str:
    """Return the rows' own name of a column: `name` itself, or the one that differs in
    upper and lower case only.
    """
    titles = [str(title) for title in rows[0]] if rows and isinstance(rows[0], dict) else []
    alike = [title for title in titles if title.casefold() == name.casefold()]
    return name if name in titles or len(alike) != 1 else alike[0]


def _counts_rows(lines: Sequence[Sequence[str]]) -> bool:
    first = [line[0] for line in lines]
    return first[:1] == [""] and first[1:] in ([str(n + start) for n in range(len(lines) - 1)] for start in (0, 1))


def _lines(table: Path) -> list[list[str]]:
    try:
        content = read_bytes(table, MOST_TABLE)
    except TooMuch as error:
        raise _refused(
            table,
            str(error),
            f"a table of {MOST_TABLE} bytes at most",
        ) from error
    except OSError as error:
        raise _refused(
            table,
            error.strerror or type(error).__name__,
            EXPECTED,
            "check the path and its permissions",
        ) from error
    text = _text(table, content)
    first = text.lstrip("\r\n").partition("\n")[0]
    if match := re.match(r'"?sep=(.)"?\s*$', first.strip(), re.IGNORECASE):
        text = text.lstrip("\r\n").partition("\n")[2] if match[1] == "," else text
        first = match[1] if match[1] != "," else text.partition("\n")[0]
    bare = re.sub(r'"[^"]*"', "", first)
    other = next(
        (mark for mark in _SEPARATORS if bare.count(mark) > bare.count(",")),
        None,
    )
    if other:
        raise _refused(
            table,
            f"cells that seem to be separated by {_SEPARATORS[other]}",
            EXPECTED,
            _EXPORT,
        )
    try:
        lines = [
            [plain(cell.strip()) for cell in line] for line in csv.reader(io.StringIO(text, newline=""), strict=True)
        ]
    except csv.Error as error:
        raise _refused(table, f"no CSV: {error}", EXPECTED) from error
    return [line for line in lines if any(line)]


def _text(table: Path, content: bytes) -> str:
    if content.startswith(b"PK\x03\x04") or content.startswith(b"\xd0\xcf\x11\xe0"):
        raise _refused(
            table,
            "a spreadsheet (xlsx, xls, ods), not a CSV file",
            EXPECTED,
            _EXPORT,
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:1000]:
        raise _refused(table, "text in UTF-16, or with null bytes", EXPECTED, _EXPORT)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"text that is not UTF-8 (byte {error.start}): probably Windows-1252 or Latin-1"
        raise _refused(table, found, EXPECTED, _EXPORT) from error


def _refused(
    table: Path,
    found: str,
    expected: str,
    fix: str = "correct the table",
) -> DataRefused:
    return DataRefused(f"the table {table}", found=found, expected=expected, fix=fix)
