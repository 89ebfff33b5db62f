"""How much may be spent? The hospital decides it in a file of its own, never the job.

The file is `local/wardround_budget.json` in the site's workspace. Every unit that it
names is checked over all jobs there ever were. What a job releases for a smaller unit
than the file names can never fit (dp/releases.py says why).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.validate import once
from wardround.dp.accounting import Claim, claim, mu_for
from wardround.dp.releases import UNITS, Release, Unit, UnknownRelease, covers
from wardround.dp.second_accountant import the_larger

FILE = "wardround_budget.json"
EXAMPLE = '{"patient": {"epsilon": 8, "delta": 1e-5}}'
LARGEST_DELTA = 1e-3
# The sampler's cut tail, 1e-19 for a number, is 1e-9 after 1e10 numbers: well below
# this.
SMALLEST_DELTA = 1e-7


@final
@dataclass(frozen=True)
class Limit:
    """The most that may be spent on one unit, for ever.

    epsilon must be above 0 and finite, and delta between 1e-7 and 1e-3; anything else
    is refused with ConfigRefused.
    """

    unit: Unit
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if self.unit not in UNITS or not _number(self.epsilon) or not _number(self.delta):
            raise _refused(
                "",
                f"{self.unit!r} {self.epsilon!r} {self.delta!r}",
                f"{', '.join(UNITS)}, and two numbers",
            )
        if not 0 < self.epsilon < math.inf or not SMALLEST_DELTA <= self.delta <= LARGEST_DELTA:
            raise _refused(
                "",
                f"epsilon {self.epsilon!r}, delta {self.delta!r} per {self.unit}",
                f"epsilon above 0 and finite, delta {SMALLEST_DELTA:g} to {LARGEST_DELTA:g}",
            )


@final
@dataclass(frozen=True)
class Budget:
    """A hospital's limits: at least one, and at most one for each unit."""

    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        units = [limit.unit for limit in self.limits]
        if not units or len(set(units)) < len(units):
            raise _refused("", f"limits for {units}", "one limit for a unit, and at least one")


@final
@dataclass(frozen=True)
class Bill:
    """What a plan means for one limit.

    spent: what has been spent so far.
    reserved: this, and what other jobs have reserved.
    planned: this, and the plan on top.
    """

    limit: Limit
    spent: Claim
    reserved: Claim
    planned: Claim

    @property
    def fits(self) -> bool:
        """Return whether the plan stays within the limit."""
        return self.planned.epsilon <= self.limit.epsilon

    def __str__(self) -> str:
        parts = [
            ("spent", self.spent),
            ("with what is reserved", self.reserved),
            ("with this job", self.planned),
        ]
        figures = ", ".join(f"{name} {part.epsilon:.4g} (mu {part.mu:.3f})" for name, part in parts)
        return f"epsilon per {self.limit.unit} at delta {self.limit.delta:g}: {figures}"


def read_budget(path: Path) -> Budget:
    """Return the limits in a hospital's file.

    ConfigRefused is raised when there is no such file, when it is not JSON in UTF-8,
    and when a key or unit is unknown or repeated or a value is out of range.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except FileNotFoundError as error:
        raise _refused(
            path,
            "no such file",
            "a budget: jobs with differential privacy run only within one",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"not readable ({type(error).__name__}: {error!s:.80})", "a JSON file") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise _refused(path, "another structure", "an object of units")
    for unit, value in content.items():
        if unit not in UNITS or set(value) != {"epsilon", "delta"}:
            raise _refused(
                path,
                f"{unit!r} with {sorted(value)}",
                f"{', '.join(UNITS)}, each with epsilon and delta",
            )
    try:
        return Budget(tuple(Limit(unit, **value) for unit, value in content.items()))
    except ConfigRefused as refusal:
        raise _refused(path, refusal.found, refusal.expected) from refusal


def bills(
    spent: Sequence[Release],
    reserved: Sequence[Release],
    plan: Sequence[Release],
    budget: Budget,
) -> list[Bill]:
    """Return what a plan would mean for every limit.

    What is planned counts as the larger of two accountants has it, where they disagree
    (dp/second_accountant.py).
    """
    found = []
    for limit in budget.limits:
        steps = [[*spent], [*spent, *reserved], [*spent, *reserved, *plan]]
        before, held, planned = (claim(releases, limit.unit, limit.delta) for releases in steps)
        # What does not fit by ours is refused anyway.
        if plan and planned.epsilon <= limit.epsilon:
            planned = the_larger(planned, steps[-1])
        found.append(Bill(limit, before, held, planned))
    return found


def require_within(
    spent: Sequence[Release],
    reserved: Sequence[Release],
    plan: Sequence[Release],
    budget: Budget,
) -> None:
    """Raise ReleaseRefused, with the figures, unless every limit is kept."""
    for bill in bills(spent, reserved, plan, budget):
        if not bill.fits:
            limit = bill.limit
            raise ReleaseRefused(
                "the privacy budget of this hospital",
                found=f"{bill}{_why_infinite([*spent, *reserved, *plan], limit.unit)}",
                expected=f"at most {limit.epsilon:g} (mu {mu_for(limit.epsilon, limit.delta):.3f}), by {FILE}",
                fix="plan less (more noise, fewer rounds), free what ended jobs reserved (`wardround ledger close`), "
                "or have the hospital write another budget",
            )


def _why_infinite(releases: Sequence[Release], unit: Unit) -> str:
    for release in releases:
        if isinstance(release, UnknownRelease):
            return f"; infinite because of {release.what}"
        if not covers(release, unit):
            return f"; infinite because releases per {release.unit} promise nothing for a whole {unit}"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refused(path: Path | str, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the hospital's privacy budget {path}".rstrip(),
        found=found,
        expected=expected,
        fix=f"write {path or FILE}, for example: {EXAMPLE}",
    )
