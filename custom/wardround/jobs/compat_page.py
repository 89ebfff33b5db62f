"""The compatibility table as text and as markdown: one row for each kind of sum and
privacy, columns for everything else, and every reason.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from wardround.jobs import compat

HEAD = """# What goes together

A job has one option of every axis. What fits is computed from the traits of its parts (`core/traits.py`): what each part
needs of an update, and what it makes of it. A combination that is refused here is refused when the job is printed, and
again when a hospital or the server loads it, with the same reason. `wardround jobs compat NAME ...` says it about one
combination, and `wardround jobs compat --job JOB --set ...` about a job. This page is what `wardround jobs compat
--markdown` prints.
"""
AXES = {
    "secagg": "Sum (`privacy`, `secagg.*`)",
    "dp": "Differential privacy (`privacy`)",
    "aggregation": "Aggregation (`aggregation`)",
    "compression": "Compression (`compression`)",
    "sharing": "What is shared (`sharing`)",
    "algorithm": "Algorithm",
    "beside": "FedAvg beside it (`fedavg_baseline`)",
}
COLUMNS = ("aggregation", "compression", "sharing", "algorithm", "beside")
Row = tuple[str, str]


def markdown() -> str:
    """Return docs/compatibility.md."""
    return "\n".join([HEAD, *_options(), *_table(), *_reasons()]) + "\n"


def text() -> str:
    """Return the table for a terminal: first what each row allows, then the reasons for
    what it does not.
    """
    names = _columns()
    lines = []
    for rows, cells in _grouped():
        lines.append(_rows(rows))
        for word, wanted in (("with", True), ("not with", False)):
            chosen = [name for name, good in zip(names, cells, strict=True) if good is wanted]
            said = f"{word}: {', '.join(chosen) or 'nothing else'}"
            lines.append(
                textwrap.fill(
                    said,
                    100,
                    initial_indent="    ",
                    subsequent_indent="        ",
                ),
            )
    reasons = [line.replace("`", "") for line in _reasons()]
    return "\n".join(
        [
            *lines,
            *(textwrap.fill(line, 100, subsequent_indent="  ") for line in reasons),
        ],
    )


def _options() -> list[str]:
    lines = ["## Options", ""]
    for axis, title in AXES.items():
        told = "; ".join(f"`{name}` ({compat.title_of(axis, name)})" for name in compat.options()[axis])
        lines.append(f"- {title}: {told}")
    return [*lines, ""]


def _table() -> list[str]:
    names = _columns()
    lines = ["## One option beside a kind of privacy", ""]
    lines.append(
        "| sum | differential privacy | " + " | ".join(f"`{name}`" for name in names) + " |",
    )
    lines.append("|" + "---|" * (len(names) + 2))
    for rows, cells in _grouped():
        sums = ", ".join(dict.fromkeys(f"`{secagg}`" for secagg, _ in rows))
        kinds = ", ".join(dict.fromkeys(f"`{dp}`" for _, dp in rows))
        lines.append(
            f"| {sums} | {kinds} | " + " | ".join("yes" if one else "no" for one in cells) + " |",
        )
    return [*lines, ""]


def _reasons() -> list[str]:
    """Return every refused row, and every smallest set of options that is refused, each
    with its reason.
    """
    lines = ["## What is refused, and why", ""]
    for row in compat.rows():
        wrong = compat.row_misfit(row)
        if wrong is not None:
            lines.append(f"- `{row[0]}` with `{row[1]}`: found {wrong.found}; expected {wrong.expected}.")
    grouped: dict[tuple[str, str, tuple[Row, ...], tuple[str, ...]], list[str]] = {}
    for one in compat.conflicts():
        *others, last = one.names
        grouped.setdefault(
            (one.found, one.expected, one.rows, tuple(others)),
            [],
        ).append(last)
    for (found, expected, rows, besides), names in grouped.items():
        beside = f"{' and '.join(f'`{name}`' for name in besides)} with " if besides else ""
        lines.append(f"- {beside}{_listed(names)}, in {_rows(rows)}: found {found}; expected {expected}.")
    return lines


def _rows(rows: Sequence[Row]) -> str:
    """Return rows in words: each kind of sum with its kinds of privacy. Sums with the
    same kinds are listed together.
    """
    known = [row for row in compat.rows() if compat.row_misfit(row) is None]
    if len(rows) == len(known):
        return "every row"
    kinds: dict[str, list[str]] = {}
    for secagg, dp in rows:
        kinds.setdefault(secagg, []).append(dp)
    sums: dict[tuple[str, ...], list[str]] = {}
    for secagg, dps in kinds.items():
        sums.setdefault(tuple(dps), []).append(secagg)
    told = [f"{_listed(secaggs)} with {_listed(dps)}" for dps, secaggs in sums.items()]
    return "; ".join(told)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _columns() -> list[str]:
    plain = compat.default()
    return [name for axis in COLUMNS for name in compat.options()[axis] if name != plain[axis]]


def _grouped() -> list[tuple[list[Row], list[bool]]]:
    """Return the groups of rows that have the same cells, each with these cells."""
    groups: dict[tuple[str, tuple[bool, ...]], list[Row]] = {}
    for secagg, dp in compat.rows():
        if compat.row_misfit((secagg, dp)) is not None:
            continue
        cells = tuple(compat.why_not(compat.cell_of([secagg, dp, name])) is None for name in _columns())
        groups.setdefault((dp, cells), []).append((secagg, dp))
    return [(rows, list(cells)) for (_, cells), rows in groups.items()]
