"""What the benchmarks share: arguments, the JSON line, sites from a folder of cases."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wardround.errors import DataRefused, Refusal
from wardround.reports.intervals import over_seeds

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def arguments(words: str) -> argparse.ArgumentParser:
    """Return a parser with the two flags every benchmark has."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute, to see that it works; numbers mean little"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser


def say(text: str) -> None:
    """Print progress to stderr, so that stdout holds results only."""
    print(text, file=sys.stderr, flush=True)


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return mean and 95 % t-interval over seeds; one value: no interval (None)."""
    return over_seeds(values)


def cell(found: Sequence[float | None] | None, sign: str = "") -> str:
    """Return "mean [low, high]" of an interval, the mean alone where there is none; nothing: a dash."""
    if found is None:
        return "-"
    mean, low, high = found
    return f"{mean:{sign}.3f}" if low is None else f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it: NaN is null, infinity a word, keys are texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def finish(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the JSON object as the last line of stdout when asked for."""
    if as_json:
        print(json.dumps(plain(result), allow_nan=False))


def root_option(parser: argparse.ArgumentParser) -> None:
    """Add `--root` to a benchmark that can read real data."""
    parser.add_argument(
        "--root",
        type=Path,
        default=REAL_DATA,
        metavar="DIR",
        help="folder that holds the real data sets, in the layout of docs/benchmark-data.md",
    )


def real_set(root: Path, *inside: str) -> Path:
    """Return the folder `root/inside...` of a real data set; DataRefused when it is not there."""
    folder = root.joinpath(*inside)
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    raise DataRefused(
        f"the data set {inside[0]}",
        found=f"no folder {folder}, or an empty one",
        expected="the layout that docs/benchmark-data.md describes, with source and licence of every set",
        fix="get the set from its source and name the folder above it with `--root DIR`, or run with `--data phantoms`",
    )


def command(main: Callable[[], None]) -> None:
    """Run a benchmark; a refusal is printed as it speaks, without a traceback, and the exit code is 2."""
    try:
        main()
    except Refusal as refusal:
        say(str(refusal))
        raise SystemExit(2) from None
