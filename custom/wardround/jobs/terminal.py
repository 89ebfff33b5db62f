"""What all commands share: how one is declared, progress on stderr, tables of plain text on stdout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[argparse.Namespace], int]
DONE, INCOMPLETE, REFUSED = 0, 1, 2


def command(commands: Any, name: str, summary: str, text: str, run: Run) -> argparse.ArgumentParser:
    """Add one command: `summary` for the list of commands, `text` (kept as it is) for its own --help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=text.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def group(commands: Any, name: str, summary: str, text: str) -> Any:
    """Add a command that only holds others, and return where to add them; alone it prints its help."""

    def overview(_: argparse.Namespace) -> int:
        parser.print_help()
        return DONE

    parser = command(commands, name, summary, text, overview)
    return parser.add_subparsers(metavar="COMMAND", title="commands")


def say(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)


def counter(what: str) -> Callable[[int, int], None]:
    """Return a progress function (done, in all) that says about ten lines."""

    def tell(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            say(f"{what}: {done} of {total}")

    return tell


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text, columns as wide as their longest cell."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def interval(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return "0.612 [0.550, 0.671]", without bounds where there are none, or none apart from each other; None: a dash."""
    if value is None or value.get("value") is None:
        return "-"
    if value.get("low") is None or value.get("high") in (None, value.get("low")):
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def existing(text: str) -> Path:
    """Argument type: a path that exists."""
    path = Path(text).expanduser()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {path}")
    return path


def folder(text: str) -> Path:
    """Argument type: a path whose ~ is the home folder."""
    return Path(text).expanduser()


def positive(text: str) -> int:
    """Argument type: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
