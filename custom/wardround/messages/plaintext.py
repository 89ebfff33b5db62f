"""What the server and a site say to each other in a plaintext job, as plain values.

flare/plaintext_messages.py writes them on the wire and reads them strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wardround.core.arrays import Arrays

TRAIN, FINISH = "train", "finish"


@dataclass(frozen=True)
class Order:
    """Server to site: what a round starts from.

    weights: the weights of every variable.
    round: the number of this round, from 0.
    num_rounds: how many rounds the job has.
    missed: the sites whose update of the round before did not count. The value is the
        number of rounds that had passed when an update of that site last counted.
    """

    weights: Arrays
    round: int
    num_rounds: int
    missed: Mapping[str, int] = field(default_factory=dict)

    def since(self, site: str) -> int:
        """Return the round whose state the site starts from.

        It is this round, unless the site's last update did not count.
        """
        return self.missed.get(site, self.round)


@dataclass(frozen=True)
class Update:
    """Site to server: what a round of local work changed.

    delta: the new weights less the old ones, of the blocks that travel.
    weight: the number of training patients.
    numbers: loss, validation score and seconds, None where they may not leave.
    facts: what the site says of itself, as SITE_FACTS describes it.
    """

    delta: Arrays
    weight: float
    numbers: Mapping[str, float | None]
    facts: Mapping[str, Any] = field(default_factory=dict)
