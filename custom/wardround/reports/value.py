"""What is joining worth, for hospitals of other sizes?

A benchmark measures the gain over a hospital's own model against the number of patients
and of hospitals. Its points lie in `templates/value_of_joining.json`, beside the pages, so
that every report can show the curve beside the run:

    {"points": [{"patients": 8, "hospitals": 4, "gain": 0.05, "low": 0.02, "high": 0.08,
                 "n": 96, "what": "hippocampus"}, ...]}

patients: Training patients of each hospital, 1 or more. hospitals: How many joined, 2 or
more. gain, low, high: Shared minus own on test patients, with its 95 % interval. n: Test
patients. what: The data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wardround.core.validate import NUMBER, TEXT, Leaf, check

FILE = Path(__file__).parent / "templates" / "value_of_joining.json"
_SHAPE = {
    "points": [
        {
            "patients": Leaf("a whole number from 1", (int,), least=1),
            "hospitals": Leaf("a whole number from 2", (int,), least=2),
            "gain": NUMBER,
            "low": NUMBER,
            "high": NUMBER,
            "n": Leaf("a whole number from 1", (int,), least=1),
            "what": TEXT,
        }
    ]
}


@dataclass(frozen=True)
class Point:
    """The gain of hospitals of one size; the fields are those of the file."""

    patients: int
    hospitals: int
    gain: float
    low: float
    high: float
    n: int
    what: str


def read(path: Path = FILE) -> tuple[Point, ...]:
    """Return the points of a file in the order of data, hospitals and patients; () where
    there is no file.

    Anything but such points is refused with ConfigRefused, text that is no JSON with
    ValueError.
    """
    if not path.is_file():
        return ()
    found = json.loads(path.read_text(encoding="utf-8"))
    check(found, _SHAPE, path.name)
    points = [Point(**one) for one in found["points"]]
    return tuple(sorted(points, key=lambda one: (one.what, one.hospitals, one.patients)))


def text_of(points: Sequence[Point]) -> str:
    """Return the text of a file with these points, one on each line; wrong values are
    refused with ConfigRefused.
    """
    rows = [asdict(point) for point in points]
    check({"points": rows}, _SHAPE, FILE.name)
    lines = ",\n ".join(json.dumps(row) for row in rows)
    return f'{{"points": [\n {lines}\n]}}\n'
