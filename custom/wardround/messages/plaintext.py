"""What the server and a site say to each other in a plaintext job, as plain values.

flare/plaintext_messages.py writes them on the wire and reads them strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wardround.core.arrays import Arrays

TRAIN, FINISH = "train", "finish"
SILENT: dict[str, Any] = {"candidates": {}, "deploy": None, "val_score": None, "seconds": None}
"""Scores that say nothing."""


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


def without_counts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that do not tell how many patients or scans a site has."""
    told = {key: value for key, value in facts.items() if key != "classes"}
    return {**told, "cases": None, "modalities": {name: min(1, n) for name, n in facts["modalities"].items()}}


def silent_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that do not depend on a hospital's images: what hospital-level DP lets out, with numbers all None."""
    return {**without_counts(facts), "modalities": {}}


def without_time(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers, or scores, that do not tell how long a site worked."""
    return {**numbers, **({"seconds": None} if "seconds" in numbers else {})}


def scores_without_counts(scores: Any) -> Any:
    """Return scores without the number of cases behind each interval."""
    if isinstance(scores, Mapping):
        return {key: scores_without_counts(value) for key, value in scores.items() if key != "cases"}
    return scores
