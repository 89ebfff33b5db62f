"""The walk of docs/architecture.md: its line numbers and line counts, computed from the files that it names.

python tests/support/walk.py        writes them into the page
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "architecture.md"
PACKAGE = REPOSITORY / "custom" / "wardround"
STEP = re.compile(r"\[`(?P<file>[\w/.]+):\d+`\]\((?P<link>\.\./[\w/.]+)#L\d+\) `(?P<name>[\w.]+)`")
ROW = re.compile(r"^\| `(?P<file>[\w/]+\.py)` \| \d+ \|$")
TOTAL = re.compile(r"^\| \*\*\d+ files\*\* \| \*\*\d+\*\* \|$")
HEADING = re.compile(r"^### (.+)$")


@lru_cache
def line_of(file: Path, name: str) -> int:
    """Return the line on which a function, class or constant (Class.method, too) or a key of a JSON stands."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return next(number for number, line in enumerate(text.splitlines(), 1) if f'"{name}"' in line)
    return dict(_names(ast.parse(text), ""))[name]


def _names(tree: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node.lineno
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name, node.lineno
            yield from _names(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((prefix + one.id, node.lineno) for one in targets if isinstance(one, ast.Name))


def lines_in(file: str) -> int:
    """Return the lines of a file of the package, as `wc -l` counts them."""
    return (PACKAGE / file).read_bytes().count(b"\n")


def written(text: str) -> str:
    """Return the page with every line number and line count of today; a name that is gone: KeyError or StopIteration."""

    def step(found: re.Match[str]) -> str:
        file, link, name = found["file"], found["link"], found["name"]
        line = line_of((PAGE.parent / link).resolve(), name)
        return f"[`{file}:{line}`]({link}#L{line}) `{name}`"

    lines, files = [], list[str]()
    for line in STEP.sub(step, text).splitlines():
        if row := ROW.match(line):
            files.append(row["file"])
            lines.append(f"| `{row['file']}` | {lines_in(row['file'])} |")
        elif TOTAL.match(line):
            lines.append(f"| **{len(files)} files** | **{sum(map(lines_in, files))}** |")
            files = []
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def walks(text: str) -> dict[str, tuple[list[str], set[str]]]:
    """Return heading of a walk -> (files that its table counts, files that its steps lead to)."""
    found: dict[str, tuple[list[str], set[str]]] = {}
    counted, led = list[str](), set[str]()
    for line in text.splitlines():
        if heading := HEADING.match(line):
            counted, led = found.setdefault(heading[1], ([], set()))
        elif row := ROW.match(line):
            counted.append(row["file"])
        led |= {step["file"] for step in STEP.finditer(line)}
    return found


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
