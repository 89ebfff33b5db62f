"""For what are jobs with a robust aggregation refused?

For too few sites for f, for too many flags, and for fields that make no sense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from wardround.core.errors import ConfigRefused, RoundRefused


class Tolerant(Protocol):
    """As much of an aggregation as its limits need."""

    @property
    def name(self) -> str:
        """Return its name in words."""
        ...

    @property
    def f(self) -> int:
        """Return how many hostile sites it tolerates."""
        ...

    @property
    def least_sites(self) -> int:
        """Return the fewest updates with which that holds."""
        ...


def require_clients(aggregation: Tolerant, need: int | None) -> None:
    """Raise ConfigRefused where a round may close with too few updates for f."""
    if need is not None and need < aggregation.least_sites:
        raise ConfigRefused(
            f"{aggregation.name} with f {aggregation.f}",
            found=f"min_clients {need}",
            expected=f"min_clients {aggregation.least_sites} or more",
            fix=f"`--set federation.min_clients={aggregation.least_sites}`, or tolerate fewer hostile sites with "
            "`--set aggregation.f=NUMBER`",
        )


def require_sites(aggregation: Tolerant, count: int) -> None:
    """Raise RoundRefused where a round closed with too few updates for f."""
    if count < aggregation.least_sites:
        raise RoundRefused(
            f"a round of {aggregation.name} with f {aggregation.f}",
            found=f"{count} updates",
            expected=f"{aggregation.least_sites} or more",
            fix="start the sites that are missing, or run the job with a smaller f",
        )


def require_few(aggregation: Tolerant, flagged: Mapping[str, str]) -> None:
    """Raise RoundRefused where more sites are flagged than the job tolerates."""
    if len(flagged) > aggregation.f:
        named = "; ".join(f"{site}: {why}" for site, why in sorted(flagged.items()))
        raise RoundRefused(
            f"a round of {aggregation.name} that tolerates {aggregation.f} hostile sites",
            found=f"{len(flagged)} flagged sites ({named})",
            expected=f"at most {aggregation.f} (f in the job)",
            fix="ask these sites what they trained on; run the job without them or with a larger f",
        )


def require_field(name: str, good: bool, found: str, expected: str) -> None:
    """Raise ConfigRefused unless a field of an aggregation makes sense."""
    if not good:
        raise ConfigRefused(
            f"the aggregation {name}",
            found=found,
            expected=expected,
            fix="--set aggregation.NAME=NUMBER with such a number; `wardround jobs settings JOB` lists the names",
        )


def require_common(name: str, f: object, far: float) -> None:
    """Raise ConfigRefused unless f is a whole number from 0 and `far` is above 1."""
    require_field(
        name,
        type(f) is int and f >= 0,
        f"f {f!r}",
        "a whole number, 0 or more",
    )
    require_field(
        name,
        1 < far < float("inf"),
        f"far {far}",
        "a finite number above 1",
    )


def require_weight_cap(name: str, most: float) -> None:
    """Raise ConfigRefused unless a cap on weights is 1 or more."""
    require_field(name, 1 <= most < 1e6, f"weight_cap {most}", "1 or more")
