"""What the benchmarks share: arguments, parts that are kept, tables, the JSON line, real data.

A benchmark is a set of parts. A part is one measurement that is kept as one JSON file in
`benchmarks/results/NAME/`: its key, the commit, the settings, the seconds, and what was found.
A part that is there is not run again, so a run that was broken off goes on. `tables` of the
script makes Markdown from the parts, and `benchmarks/render.py` puts it into docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused, DataRefused, Refusal
from wardround.reports.intervals import over_seeds

RESULTS = Path(__file__).resolve().parent / "results"
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def arguments(words: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute, to see that it works; numbers mean little"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the parts, which are not run again; None: benchmarks/results/NAME, with --quick a folder "
        "that is deleted",
    )
    parser.add_argument("--show", action="store_true", help="run nothing, print the tables of the parts that are there")
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


def met_or_not(met: bool | None) -> str:
    """Return what a table says of a goal that was set beforehand; None: nothing was measured that decides it."""
    return {True: "met", False: "**not met**", None: "not measured yet"}[met]


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it: NaN is null, infinity a word, keys are texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


@dataclass(frozen=True)
class Part:
    """One measurement that is kept.

    key: what tells it from the other parts of its benchmark, in the order of the file's name
    commit: of the code that was measured, with a + where tracked files had been changed
    settings: everything that the numbers depend on, beside the key
    seconds: how long it took, on whatever machine
    numbers: what was found
    """

    key: Mapping[str, Any]
    commit: str
    settings: Mapping[str, Any]
    seconds: float
    numbers: Any

    @property
    def name(self) -> str:
        """Return the name of its file, without the ending."""
        return part_name(self.key)


def part_name(key: Mapping[str, Any]) -> str:
    """Return the values of a key joined to the name of a file."""
    words = "-".join(str(value) for value in key.values())
    return "".join(letter if letter.isalnum() or letter in "._-+" else "_" for letter in words)


class Parts:
    """The folder of a benchmark's parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> list[Part]:
        """Return the parts that are there, in the order of their files' names."""
        files = sorted(self.folder.glob("*.json"))
        return [Part(**json.loads(file.read_text())) for file in files]

    def missing(self, key: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
        """Return whether the part is still to be measured.

        It is there with other settings: ConfigRefused, since a table of both would compare
        what cannot be compared, and a measured part is not overwritten unasked.
        """
        file = self.folder / f"{part_name(key)}.json"
        if not file.is_file():
            return True
        if Part(**json.loads(file.read_text())).settings != _as_read(settings):
            raise ConfigRefused(
                f"the part {file.name} in {self.folder.name}",
                found="numbers that were measured with other settings",
                expected="one set of settings for all parts of a table",
                fix="name another folder with --out DIR, or delete the old parts",
            )
        return False

    def measure(self, key: Mapping[str, Any], settings: Mapping[str, Any], found: Callable[[], Any]) -> None:
        """Call `found` and keep what it returns, unless the part is there already."""
        if not self.missing(key, settings):
            return
        begun = time.monotonic()
        numbers = found()
        seconds = round(time.monotonic() - begun, 1)
        self.keep(key, settings, seconds, numbers)
        say(f"{part_name(key)}: {seconds} s")

    def keep(self, key: Mapping[str, Any], settings: Mapping[str, Any], seconds: float, numbers: Any) -> None:
        """Write a part that was measured, whole or not at all."""
        part = Part(key, commit(), settings, seconds, numbers)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{part.name}.json"
        # A run that is killed here must leave no half part, which the next run would take for a whole one.
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(plain(asdict(part)), indent=1, allow_nan=False) + "\n")
        partial.replace(file)


def run_missing(
    measure: Callable[[dict[str, Any]], Any],
    keys: Sequence[dict[str, Any]],
    options: Any,
    parts: Parts,
    args: argparse.Namespace,
) -> list[Any]:
    """Measure, on the engine that the options of the command name, what these keys miss; return the parts that failed."""
    from wardround.research.parts import engine_of, run_parts

    return run_parts(
        measure,
        keys,
        lambda key: not parts.missing(key, options),
        lambda key, seconds, numbers: parts.keep(key, options, seconds, numbers),
        engine_of(args),
        say,
        part_name,
    )


def _as_read(settings: Mapping[str, Any]) -> Any:
    """Return settings as they come back from a file: tuples are lists, keys are texts."""
    return json.loads(json.dumps(plain(settings)))


@contextmanager
def kept(name: str, args: argparse.Namespace) -> Iterator[Parts]:
    """Give the parts of a benchmark: in --out, else in its results; with --quick in a folder that is deleted."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        yield Parts(args.out or (Path(folder) if args.quick else RESULTS / name))


def one_settings(parts: Sequence[Part]) -> None:
    """Raise ConfigRefused unless all these parts, which one table shows together, have the same settings."""
    for part in parts:
        if part.settings != parts[0].settings:
            raise ConfigRefused(
                f"a table of {parts[0].name} and {part.name}",
                found="parts that were measured with other settings than one another",
                expected="one set of settings for all parts of a table",
                fix="delete the older part, and run the benchmark again to measure it anew",
            )


def known(parts: Sequence[Part], field: str, names: Collection[Any]) -> None:
    """Raise ConfigRefused where a part has a name that the script does not know: its row would be lost without a word."""
    for part in parts:
        if part.key[field] not in names:
            raise ConfigRefused(
                f"the part {part.name}",
                found=f"{field} {part.key[field]}, which this script does not have",
                expected=f"one of {', '.join(map(str, names))}",
                fix="delete the part, or give it the name that the script has today",
            )


def commit() -> str:
    """Return the commit that is measured, with a + where tracked files were changed; no repository: unknown."""
    here = Path(__file__).resolve().parent
    words = ("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no")
    said = [subprocess.run(["git", *one], cwd=here, capture_output=True, text=True) for one in words]
    if said[0].returncode:
        return "unknown"
    return said[0].stdout.strip() + ("+" if said[1].stdout.strip() else "")


@dataclass(frozen=True)
class Table:
    """A Markdown table, its lines below one another, and the parts that it was made from."""

    lines: Sequence[str]
    parts: Sequence[Part]

    def origin(self) -> str:
        """Return the sentence above the table: how many parts, which seeds, of which commits."""
        seeds = sorted({part.key["seed"] for part in self.parts if "seed" in part.key})
        commits = sorted({part.commit for part in self.parts})
        words = f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}; " if seeds else ""
        code = ", ".join(f"`{one}`" for one in commits)
        count = f"{len(self.parts)} part{'s' * (len(self.parts) != 1)}"
        return f"*From {count}: {words}commit{'s' * (len(commits) != 1)} {code}.*"


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], parts: Sequence[Part]) -> Table:
    """Return the table of these cells."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return Table([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)], parts)


def show(tables: Mapping[str, Table]) -> None:
    """Print tables under their names."""
    for name, one in tables.items():
        print(f"\n{name}: {one.origin()}\n", *one.lines, sep="\n")


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
