"""docs/architecture.md: the walk's lines and counts are those of the files, its goals hold, its tests exist."""

from __future__ import annotations

import ast
import re

import pytest
import walk

GOALS = {
    "A plain job": (4, 450),
    "An encrypted job": (5, 800),
    "A job with hospital-level differential privacy": (6, 900),
}
TESTED = re.compile(r"`(test_\w+)` \[(\w+/test_\w+)\]")


@pytest.fixture
def page() -> str:
    return walk.PAGE.read_text(encoding="utf-8")


def test_every_line_and_count_of_the_walk_is_that_of_the_files(page: str) -> None:
    """`python tests/support/walk.py` mends it."""
    assert page == walk.written(page)
    steps = list(walk.STEP.finditer(page))
    assert len(steps) > 25
    assert len(re.findall(r"#L\d+\)", page)) == len(steps)
    assert all(step["link"].endswith(step["file"]) for step in steps)


def test_a_line_that_moved_is_found(page: str) -> None:
    spoilt = page.replace("**4 files**", "**5 files**")
    assert walk.written(spoilt) == page != spoilt
    with pytest.raises(KeyError, match="gone"):
        walk.written(page.replace("`update_message`", "`gone`"))


def test_the_walks_are_as_short_as_they_promise(page: str) -> None:
    found = walk.walks(page)
    assert found.keys() == GOALS.keys()
    for name, (counted, led) in found.items():
        files, lines = GOALS[name]
        assert len(counted) <= files, name
        assert sum(map(walk.lines_in, counted)) <= lines, name
        assert {one for one in led if one.endswith(".py")} == set(counted), name


def test_every_refusal_has_its_test(page: str) -> None:
    table = page[page.index("## The part that is refused") : page.index("## More of the design")]
    found = TESTED.findall(table)
    assert len(found) == table.count("\n| ") - 1 > 15
    for name, file in found:
        tree = ast.parse((walk.REPOSITORY / "tests" / f"{file}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)
