"""What must a stage say whose releases cost privacy budget?

The ledger charges from these answers and from nothing else.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from wardround.core.errors import ConfigRefused
from wardround.core.stages import Stage
from wardround.dp.releases import Release, Unit


@runtime_checkable
class Charged(Stage, Protocol):
    """A stage whose releases cost something, per round and over the whole job."""

    @property
    def unit(self) -> Unit:
        """Return the unit that the releases hide."""

    @property
    def num_rounds(self) -> int:
        """Return how many rounds the job has; each of them is one release."""

    @property
    def delta(self) -> float:
        """Return the delta at which epsilon is stated."""

    @property
    def accept_vacuous(self) -> bool:
        """Return whether the job accepts an epsilon that is no privacy claim."""

    def cost(self) -> Release:
        """Return what one round's update costs."""

    def plan(self) -> Release:
        """Return what the job costs."""


def require_whole(mechanism: object) -> None:
    """Raise ConfigRefused when a mechanism lacks a value.

    NVFlare turns an undefined variable of a configuration into None.
    """
    absent = [name for name, value in vars(mechanism).items() if value is None]
    if absent:
        raise ConfigRefused(
            "the job's mechanism",
            found=f"no {', '.join(absent)}",
            expected="every value",
            fix="print the job again with `wardround jobs write`",
        )
