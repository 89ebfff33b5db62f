"""The house rules that a parser can check. No module of the package is imported here."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "custom" / "wardround"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    "errors": 0,
    "core": 2,
    **dict.fromkeys(("arrays", "bounded", "paths", "rng", "tables"), 1),
    **dict.fromkeys(("data", "models", "tasks"), 2),
    **dict.fromkeys(("algorithms", "compression", "privacy", "reports"), 3),
    "hospital": 4,
    **dict.fromkeys(("flare", "serving"), 5),
    "jobs": 6,
    "__main__": 7,
}
HOMES = {
    "nvflare": {"flare", "jobs"},
    "nibabel": {"data"},
    "monai": {"models", "tasks"},
    "timm": {"models"},
    "torchvision": {"models"},
    "matplotlib": {"reports"},
    "tenseal": {"privacy"},
    "cryptography": {"privacy"},
    "aiohttp": {"serving"},
}
HEAVY = ("torch", "monai", "timm", "torchvision", "nibabel", "matplotlib", "scipy", "nvflare", "aiohttp", "yaml")
LAST_RESORT = {"flare/site_parts.py": 1, "flare/last_resort.py": 1}


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, inside functions too; `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def wrong_imports(part: str, tree: ast.AST) -> list[str]:
    """Return what a module of this part of the package may not import."""
    wrong = []
    for line, name in imports(tree):
        top, *rest = name.split(".")
        if not top:
            wrong.append(f"line {line}: relative import {name}")
        elif top == "wardround" and rest[:1] != ["__version__"]:
            other = rest[0] if rest else "__init__"
            if other != part and FLOORS.get(other, 99) >= FLOORS[part]:
                wrong.append(f"line {line}: {part} imports {other}, which is not below it")
        elif part not in HOMES.get(top, {part}):
            wrong.append(f"line {line}: {top} belongs to {sorted(HOMES[top])}")
    return wrong


@pytest.mark.parametrize(
    ("part", "source", "count"),
    [
        ("models", "from wardround.data import cases", 1),
        ("arrays", "from wardround.rng import stream", 1),
        ("data", "def f():\n    import wardround.hospital.rounds", 1),
        ("hospital", "from nvflare.apis import dxo", 1),
        ("data", "from . import cases", 1),
        ("flare", "import nvflare\nfrom wardround.hospital import rounds\nfrom wardround import __version__", 0),
        ("jobs", "import wardround", 1),
    ],
)
def test_the_check_finds_what_is_wrong(part, source, count):
    assert len(wrong_imports(part, ast.parse(source))) == count


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "__init__.py"], ids=name_of)
def test_imports_only_go_down(file):
    assert wrong_imports(part_of(file), tree_of(file)) == []


def test_every_part_has_a_floor():
    parts = {part_of(file) for file in FILES} - {"__init__"}
    assert parts == set(FLOORS)


@pytest.mark.parametrize("file", [file for file in FILES if file.name == "__init__.py"], ids=name_of)
def test_package_files_import_nothing_heavy(file):
    assert [name for _, name in imports(tree_of(file)) if name.split(".")[0] not in sys.stdlib_module_names] == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_assert(file):
    assert [node.lineno for node in ast.walk(tree_of(file)) if isinstance(node, ast.Assert)] == []


def broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        one is None or (isinstance(one, ast.Name) and one.id in ("Exception", "BaseException")) for one in caught
    )


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_broad_except(file):
    """Two are allowed: the last resorts of a site and of the server, without which one hospital's bug ends the job of all."""
    handlers = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.ExceptHandler)]
    assert sum(broad(handler) for handler in handlers) == LAST_RESORT.get(name_of(file), 0)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_says_what_it_is(file):
    assert ast.get_docstring(tree_of(file))


def test_classes_are_at_most_two_deep():
    """A class of ours whose parent is ours has no grandparent of ours."""
    nodes = [node for file in FILES for node in ast.walk(tree_of(file)) if isinstance(node, ast.ClassDef)]
    ours = {node.name: [base.id for base in node.bases if isinstance(base, ast.Name)] for node in nodes}
    grandparents = {
        name: [g for p in parents if p in ours for g in ours[p] if g in ours] for name, parents in ours.items()
    }
    assert {name: found for name, found in grandparents.items() if found} == {}


def test_files_are_short():
    lengths = {name_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    print(f"{len(lengths)} files, median {median(lengths.values()):.0f} lines, longest {max(lengths.values())}")
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_importing_the_package_is_cheap():
    code = f"import sys, wardround; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
