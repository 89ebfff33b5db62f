"""The range of every number that a site may send.

A finite number can still be a lie that spoils everybody's report. A number outside its
range is refused for the site that sent it. The ranges are far wider than any honest
value, and so narrow that sums and means over all sites stay far from the largest
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wardround.core.validate import Each, Leaf, Maybe
from wardround.messages.allowed_names import DISTANCES, SHIPPED, measure_of

MOST_PATIENTS, LARGEST_CHANGE = 1_000_000, 1e6
LOSS = Leaf("a loss from 0 to 1e6", (int, float), least=0, most=1e6)
SCORE = Leaf("a score from 0 to 1", (int, float), least=0, most=1)
SECONDS = Leaf("seconds from 0 to 1e7", (int, float), least=0, most=1e7)
DISTANCE = Leaf("a distance from 0 to 10000 mm", (int, float), least=0, most=1e4)
GAIN = Leaf("a difference of two scores, -1 to 1", (int, float), least=-1, most=1)
PATIENTS = Leaf("a whole number from 0 to 1,000,000", (int,), least=0, most=MOST_PATIENTS)
WEIGHT = Leaf("a number of patients from 1 to 1,000,000", (int, float), least=1, most=MOST_PATIENTS)
STEPS = Leaf("a whole number from 0 to 1e9", (int,), least=0, most=1e9)

_LOG_LOSS = Leaf("a logarithmic loss from 0 to 1000", (int, float), least=0, most=1000)
_OTHERS = {"log_loss": _LOG_LOSS, **dict.fromkeys(DISTANCES, DISTANCE)}


def _interval(leaf: Leaf) -> dict[str, Any]:
    return {"value": Maybe(leaf), "low?": Maybe(leaf), "high?": Maybe(leaf), "cases?": Maybe(PATIENTS)}


def candidate(metrics: Sequence[str] = SHIPPED.metrics) -> dict[str, Any]:
    """Return the shape of one model's scores.

    metrics: the names of scores that the job's task has; no other name is accepted.
    """
    tests = {f"{name}?": Maybe(_interval(_OTHERS.get(str(measure_of(name)), SCORE))) for name in metrics}
    return {"k?": Maybe(STEPS), "val?": Maybe(SCORE), "test?": Maybe(tests), "gain?": Maybe(_interval(GAIN))}


COUNTS = Each(PATIENTS)
