"""What do all commands share? Declarations, progress on stderr, and tables on stdout."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.paths import is_plain

Run = Callable[[argparse.Namespace], int]
DONE = 0
INCOMPLETE = 1
REFUSED = 2


def command(commands: Any, name: str, summary: str, text: str, run: Run) -> argparse.ArgumentParser:
    """Add one command.

    summary: its line in the list of commands.
    text: its own --help, printed as it is.
    """
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
    """Add a command that only holds others, and return where they are added.

    Called alone, it prints its help.
    """

    def overview(_: argparse.Namespace) -> int:
        parser.print_help()
        return DONE

    parser = command(commands, name, summary, text, overview)
    return parser.add_subparsers(metavar="COMMAND", title="commands")


def say(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)


def counter(what: str) -> Callable[[int, int], None]:
    """Return a progress function (done, in all) that prints about ten lines."""

    def tell(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            say(f"{what}: {done} of {total}")

    return tell


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text, with columns as wide as their longest cell."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def interval(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return a number with its interval, for example "0.612 [0.550, 0.671]".

    The bounds are left out where they are unknown or equal. None becomes a dash.
    """
    if value is None or value.get("value") is None:
        return "-"
    if value.get("low") is None or value.get("high") in (None, value.get("low")):
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for example "1 site" or "3 sites"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sized(count: int) -> str:
    """Return a number of bytes in decimal units, for example "999 B" or "2.3 MB"."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def existing(text: str) -> Path:
    """Return the path for an argument that must exist."""
    path = Path(text).expanduser()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {path}")
    return path


def folder(text: str) -> Path:
    """Return the path for an argument, with ~ replaced by the home folder."""
    return Path(text).expanduser()


def require_writable(place: Path, what: str) -> None:
    """Raise ConfigRefused unless this user may make files in a folder.

    For a folder that does not exist, the nearest existing folder above it counts. It is
    tried by writing, because mode bits do not show it: not for an administrator, and
    not for a file system that is mounted read-only or full.
    """
    nearest = next(one for one in (place, *place.resolve().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return
    except OSError as error:
        raise ConfigRefused(
            f"{what} {place}",
            found=f"{nearest}: {error.strerror or type(error).__name__}",
            expected="a folder in which this user may write",
            fix=f"name another folder as {what}, or work in one of your own",
        ) from error


def require_plain(place: Path | str, what: str, example: str) -> None:
    """Raise ConfigRefused for a path that NVFlare would cut into pieces.

    NVFlare writes command lines as one text and splits them as a shell does: at blanks,
    quotes, backslashes and `#`.

    example: a path that could be given instead.
    """
    text = str(place)
    if not is_plain(text):
        strange = "".join(dict.fromkeys(one for one in text if one in " '\"\\#" or not one.isprintable()))
        raise ConfigRefused(
            f"{what} {text!r}",
            found=f"{strange!r} in its path" + (" (a blank)" if " " in strange else ""),
            expected="a path without blanks, quotes, backslashes and #: NVFlare splits its command lines there, and no site "
            "would start",
            fix=f"name another one, for example {what} {example}",
        )


def positive(text: str) -> int:
    """Return the number for an argument that must be a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
