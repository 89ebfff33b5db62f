"""Render the tables of docs/results.md from the parts in benchmarks/results/.

A table stands between two marks; the first names the script and the table of its `tables`:

    <!-- table robustness.cost -->
    <!-- end -->

What stands between them is written anew from the parts. Where a benchmark has no parts for a
table, the page says that it was not measured yet; an older table is left alone, and its first
line must say of which commit it is.

    python benchmarks/render.py            writes docs/results.md
    python benchmarks/render.py --check    exit code 1 where the page and the parts differ
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from common import RESULTS, Parts, Table, command, say
from wardround.core.errors import ConfigRefused

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"
BLOCK = re.compile(r"(<!-- table (\w+)\.([\w.-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
COMMITS = r"commits? `[0-9a-f]{7,40}`(, `[0-9a-f]{7,40}`)*"
ABSENT = "*Not measured yet: `python benchmarks/{script}.py` makes the parts of this table.*\n"
KEPT = re.compile(rf"\*Measured before parts were kept \(table of {COMMITS}\); to be measured again\.\*\n")


@cache
def tables_of(script: str, results: Path) -> Mapping[str, Table]:
    """Return the tables of a script; no parts: no tables."""
    module = importlib.import_module(script)
    # A page of conclusions has no parts of its own: it reads those of the other scripts.
    if hasattr(module, "tables_from"):
        found: Mapping[str, Table] = module.tables_from(results)
        return found
    parts = Parts(results / script).read()
    return module.tables(parts) if parts else {}


def pictures(page: str, results: Path = RESULTS) -> dict[str, str]:
    """Return file name -> SVG of every script on the page that draws."""
    made: dict[str, str] = {}
    for script in dict.fromkeys(match[2] for match in BLOCK.finditer(page)):
        module, parts = importlib.import_module(script), Parts(results / script).read()
        if parts and hasattr(module, "pictures"):
            made |= module.pictures(parts)
    return made


def block(script: str, name: str, before: str, results: Path) -> str:
    """Return what stands between the marks of one table.

    no parts and nothing there: a sentence that says so
    no parts, and an old table without a sentence that says of which commit it is: ConfigRefused
    """
    absent = ABSENT.format(script=script)
    if found := tables_of(script, results).get(name):
        return "\n".join([found.origin(), "", *found.lines, ""])
    if KEPT.match(before):
        return before
    if before in ("", absent):
        return absent
    raise ConfigRefused(
        f"the table {script}.{name} of docs/results.md",
        found="no parts for it in benchmarks/results, and no sentence that says of which commit it is",
        expected="parts, or a first line as the others have it",
        fix=f"run `python benchmarks/{script}.py`, then `python benchmarks/render.py`",
    )


def render(page: str, results: Path = RESULTS) -> str:
    """Return the page with every table written anew; a mark without its end: ConfigRefused."""
    found = len(BLOCK.findall(page))
    if page.count("<!-- table ") != found or page.count("<!-- end -->") != found:
        raise ConfigRefused(
            "the marks of docs/results.md",
            found=f"{page.count('<!-- table ')} beginnings and {page.count('<!-- end -->')} ends, of which {found} are pairs",
            expected="`<!-- table SCRIPT.NAME -->` and `<!-- end -->`, in turn, on lines of their own",
            fix="add the mark that is missing",
        )
    return BLOCK.sub(lambda m: m[1] + block(m[2], m[3], m[4], results) + m[5], page)


def kept(page: str) -> list[str]:
    """Return the tables that still stand as they were measured before parts were kept."""
    return [f"{m[2]}.{m[3]}" for m in BLOCK.finditer(page) if KEPT.match(m[4])]


def absent(page: str) -> list[str]:
    """Return the tables that were not measured yet."""
    return [f"{m[2]}.{m[3]}" for m in BLOCK.finditer(page) if m[4] == ABSENT.format(script=m[2])]


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is not current")
    args = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8")
    after, drawn = render(before), pictures(before)
    for name in kept(after):
        say(f"not rendered, no parts yet: {name}")
    for name in absent(after):
        say(f"not measured yet: {name}")
    if args.check:
        stale = [name for name, text in drawn.items() if not _is(PAGE.with_name(name), text)]
        if before != after or stale:
            say("docs/results.md is not what the parts say: run `python benchmarks/render.py`")
            sys.exit(1)
        return
    PAGE.write_text(after, encoding="utf-8")
    for name, text in drawn.items():
        PAGE.with_name(name).write_text(text, encoding="utf-8")


def _is(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    command(main)
