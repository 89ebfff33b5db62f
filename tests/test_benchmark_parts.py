"""Parts of a benchmark: kept whole or not at all, not run again, never mixed; and how tables of them are rendered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import common
import render
from common import Part, Parts
from wardround.core.errors import ConfigRefused

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
KEY = {"method": "fedavg", "seed": 0}


def test_a_part_is_measured_once_and_says_what_it_is(tmp_path: Path) -> None:
    parts, calls = Parts(tmp_path / "new"), []

    def found() -> dict[str, Any]:
        calls.append(1)
        return {"dice": (0.5, float("nan"))}

    for _ in range(2):
        parts.measure(KEY, {"patch": (16, 16), "rounds": 2}, found)
    assert len(calls) == 1
    [part] = parts.read()
    assert part.name == "fedavg-0"
    assert dict(part.key) == KEY
    assert part.settings == {"patch": [16, 16], "rounds": 2}
    assert part.numbers == {"dice": [0.5, None]}
    assert part.commit == common.commit()
    assert part.seconds >= 0


def test_a_part_of_other_settings_is_neither_used_nor_written_over(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.measure(KEY, {"rounds": 2}, lambda: 1)
    with pytest.raises(ConfigRefused, match="--out"):
        parts.measure(KEY, {"rounds": 3}, lambda: 2)
    assert [part.numbers for part in parts.read()] == [1]


def test_a_measurement_that_fails_leaves_no_part(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Parts(tmp_path).measure(KEY, {}, broken)
    assert not list(tmp_path.iterdir())


def test_a_quick_run_leaves_nothing_unless_a_folder_is_named(tmp_path: Path) -> None:
    with common.kept("x", SimpleNamespace(out=None, quick=True)) as parts:
        parts.measure(KEY, {}, lambda: 1)
        place = parts.folder
    assert not place.exists()
    with common.kept("x", SimpleNamespace(out=tmp_path, quick=True)) as parts:
        assert parts.folder == tmp_path
    with common.kept("x", SimpleNamespace(out=None, quick=False)) as parts:
        assert parts.folder == BENCHMARKS / "results" / "x"


def test_a_table_of_two_settings_is_refused() -> None:
    one, two = (Part({"seed": seed}, "abc", {"rounds": seed}, 1.0, {}) for seed in (1, 2))
    common.one_settings([one, one])
    with pytest.raises(ConfigRefused, match="delete the older part"):
        common.one_settings([one, two])


@pytest.mark.parametrize(("key", "name"), [({"a": "x y", "b": 0.5}, "x_y-0.5"), ({"a": "../up"}, ".._up")])
def test_a_key_makes_a_plain_file_name(key: dict[str, Any], name: str) -> None:
    assert common.part_name(key) == name


def test_every_kept_part_is_of_the_common_form() -> None:
    wrong = []
    for folder in (BENCHMARKS / "results").iterdir():
        assert (BENCHMARKS / f"{folder.name}.py").is_file(), folder
        for file in folder.iterdir():
            part = Part(**json.loads(file.read_text()))
            if file.name != f"{part.name}.json" or part.commit == "unknown" or not part.numbers:
                wrong.append(file.name)
    assert not wrong


PAGE = """\
text

<!-- table robustness.cost -->
old
<!-- end -->

<!-- table segmentation.lgg -->
*Measured before parts were kept (table of commits `98a3f89`, `11cdf93`); to be measured again.*

| method |
<!-- end -->
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Parts of the robustness benchmark: the mean without an attack and with one, two seeds."""
    parts = Parts(tmp_path / "robustness")
    for attack, dice in (("none", 0.8), ("alie", 0.5)):
        for seed in (0, 1):
            hostile = [] if attack == "none" else ["south"]
            numbers = {"dice": {"north": [dice], "south": [0.1]}, "hostile": hostile, "flags": {}, "stopped": None}
            key = {"rule": "mean", "attack": attack, "seed": seed}
            parts.measure(key, {"size": 16}, lambda numbers=numbers: numbers)
    return tmp_path


def test_tables_are_written_from_the_parts_and_old_ones_are_left_alone(results: Path) -> None:
    page = render.render(PAGE, results)
    assert f"*From 4 parts: seeds 0, 1; commit `{common.commit()}`.*" in page
    assert "| mean | 2 | +0.000 [+0.000, +0.000] | +0.300 [+0.300, +0.300] |" in page
    assert "old" not in page
    assert page.endswith(PAGE[PAGE.index("<!-- table segmentation") :])
    assert render.render(page, results) == page


def test_a_table_without_parts_must_say_of_which_commit_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="no sentence that says of which commit"):
        render.render(PAGE, tmp_path)


EMPTY = "<!-- table segmentation.lgg -->\n<!-- end -->\n"


def test_a_table_that_was_never_measured_says_so(tmp_path: Path) -> None:
    page = render.render(EMPTY, tmp_path)
    assert "*Not measured yet: `python benchmarks/segmentation.py` makes the parts of this table.*" in page
    assert render.render(page, tmp_path) == page
    assert render.absent(page) == ["segmentation.lgg"]
    assert render.kept(page) == []


def test_parts_that_are_measured_later_take_its_place(results: Path, tmp_path: Path) -> None:
    empty = EMPTY.replace("segmentation.lgg", "robustness.cost")
    before = render.render(empty, tmp_path / "nothing")
    assert render.absent(before) == ["robustness.cost"]
    after = render.render(before, results)
    assert render.absent(after) == []
    assert "*From 4 parts:" in after


@pytest.mark.parametrize("gone", ["<!-- end -->\n\n<!-- table segm", "<!-- table robustness.cost -->\n"])
def test_a_mark_without_its_other_half_is_refused(gone: str, results: Path) -> None:
    assert gone in PAGE
    with pytest.raises(ConfigRefused, match="are pairs"):
        render.render(PAGE.replace(gone, "<!-- table segm" if "segm" in gone else ""), results)


def test_the_results_page_is_what_the_parts_say() -> None:
    page = render.PAGE.read_text(encoding="utf-8")
    assert render.render(page) == page
    for name, text in render.pictures(page).items():
        assert render.PAGE.with_name(name).read_text(encoding="utf-8") == text


def test_every_benchmark_has_a_table_on_the_results_page() -> None:
    """tune.py and tune_types.py choose settings, and secure_sum_rival.py is a column of secure_sum.py."""
    page = render.PAGE.read_text(encoding="utf-8")
    started = {file.stem for file in BENCHMARKS.glob("*.py") if "def tables(" in file.read_text()}
    assert {name for name in started if f"<!-- table {name}." not in page} == {
        "tune",
        "tune_types",
        "secure_sum_rival",
    }
    kept = {folder.name for folder in (BENCHMARKS / "results").iterdir()}
    assert kept <= started
