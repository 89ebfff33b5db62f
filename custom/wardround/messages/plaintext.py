"""What the server and a site say to each other in a plaintext job, as plain values; flare/plaintext_messages.py writes and
reads them."""

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


def without_counts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that do not tell how many patients or scans a site has."""
    told = {key: value for key, value in facts.items() if key != "classes"}
    return {**told, "cases": None, "modalities": {name: min(1, n) for name, n in facts["modalities"].items()}}


def silent_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that do not depend on a hospital's images: what hospital-level DP lets out, with numbers all None."""
    return {**without_counts(facts), "modalities": {}}


def scores_without_counts(scores: Any) -> Any:
    """Return scores without the number of cases behind each interval."""
    if isinstance(scores, Mapping):
        return {key: scores_without_counts(value) for key, value in scores.items() if key != "cases"}
    return scores
