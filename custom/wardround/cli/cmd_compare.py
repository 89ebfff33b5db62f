"""`wardround compare` puts runs side by side: their settings, scores and one picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, command, existing, folder, interval, require_writable, table
from wardround.jobs import results

# Characters of a setting's value on the terminal.
WIDEST = 40
TEXT = """
Put two or more runs of one task side by side. The command prints the settings that differ, the mean test score, and the
difference from the first run, paired by hospital with its interval. It also writes one page with a picture,
where long values stand whole.

  wardround compare wardround_runs/brats_fedavg wardround_runs/brats_perfedavg
  wardround compare results/A results/B --out compared.html

The runs must be of the same hospitals and patients. Scores that did not leave a hospital (few patients) are left out.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "compare",
        "put runs side by side: settings, scores, one picture",
        TEXT,
        run,
    )
    parser.add_argument(
        "runs",
        type=existing,
        nargs="+",
        metavar="RUN",
        help="as for `wardround report`",
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("compared.html"),
        metavar="FILE",
        help="default: %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    """Read the runs, print what differs and how the scores compare, and write the page."""
    from wardround.reports.compare import (
        lines,
        require_comparable,
        rows,
        write_comparison,
    )
    from wardround.reports.schema import build

    if args.out.is_dir():
        raise ConfigRefused(
            f"--out {args.out}",
            found="a folder",
            expected="the file of the page",
            fix=f"`--out {args.out / 'compared.html'}`",
        )
    require_writable(args.out.parent, "--out")
    runs = {
        name: build(results.read(results.find(place))) for name, place in zip(_names(args.runs), args.runs, strict=True)
    }
    require_comparable(runs)
    differ = [[_short(cell) for cell in row] for row in lines(runs)]
    print(table(("setting", *runs), differ) if differ else "No setting differs.")
    print()
    cells = [
        [
            row["run"],
            _value(row["mean"]),
            interval(row["minus_first"]),
            str(row["sites"]),
        ]
        for row in rows(runs)
    ]
    print(
        table(
            ("run", "mean test score", "minus the first, paired [95 %]", "hospitals"),
            cells,
        ),
    )
    print(f"open this: {write_comparison(runs, args.out).resolve()}")
    return DONE


def _names(places: Sequence[Path]) -> list[str]:
    """Return what each run is called: the last part of its path, or the whole path
    where two runs would have the same name.
    """
    short = [place.resolve().name for place in places]
    unique = [name if short.count(name) == 1 else str(place) for name, place in zip(short, places, strict=True)]
    return [name if unique.count(name) == 1 else f"{name} ({n + 1})" for n, name in enumerate(unique)]


def _short(words: str) -> str:
    """Return a cell that leaves room for the others; the page has all of it."""
    return words if len(words) <= WIDEST else f"{words[: WIDEST - 1].rstrip()}…"


def _value(value: float | None) -> str:
    return "not reported" if value is None else f"{value:.3f}"
