from pathlib import Path
from typing import Any

import pytest

from wardround.core.errors import ConfigRefused
from wardround.reports.value import FILE, Point, read, text_of

POINT = Point(8, 4, 0.05, 0.02, 0.08, 96, "hippocampus")


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    points = [POINT, Point(4, 8, 0.1, 0.0, 0.2, 40, "phantoms"), Point(4, 4, 0.09, 0.05, 0.13, 96, "hippocampus")]
    (tmp_path / "points.json").write_text(text_of(points), encoding="utf-8")
    assert read(tmp_path / "points.json") == (points[2], points[0], points[1])


def test_no_file_is_no_curve(tmp_path: Path) -> None:
    assert read(tmp_path / "absent.json") == ()


def test_the_file_of_the_package_can_be_read() -> None:
    assert bool(read()) == FILE.is_file()


@pytest.mark.parametrize(
    "wrong", [{"patients": 0}, {"hospitals": 1}, {"gain": "much"}, {"low": float("nan")}, {"n": 0}]
)
def test_wrong_points_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused):
        text_of([Point(**{**vars(POINT), **wrong})])
