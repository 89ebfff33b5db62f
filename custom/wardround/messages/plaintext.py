"""What the server and a site say to each other in a plaintext job, as plain values; flare/plaintext_messages.py writes and
reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wardround.core.arrays import Arrays

TRAIN, FINISH = "train", "finish"


@dataclass(frozen=True)
class Order:
    """Server to site: the weights of every variable, this round and the number of rounds.

    missed: by name, the sites whose update of the round before did not count: how many rounds had
    passed when one last did
    """

    weights: Arrays
    round: int
    num_rounds: int
    missed: Mapping[str, int] = field(default_factory=dict)

    def since(self, site: str) -> int:
        """Return whose state a site starts from: that before this round."""
        return self.missed.get(site, self.round)


@dataclass(frozen=True)
class Update:
    """Site to server: what a round of local work changed. `weight` is the number of training patients."""

    delta: Arrays
    weight: float
    numbers: Mapping[str, float | None]
    facts: Mapping[str, Any] = field(default_factory=dict)
