"""Whose turn is it among the patients?

Patients are drawn without replacement, so that the mini-batches of one step are
disjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, final

import numpy as np

T = TypeVar("T")


@final
class PatientSampler(Generic[T]):
    """A shuffled pile of patients that is dealt from the end.

    It is shuffled again when it is empty, or holds too few for the next step.
    """

    def __init__(self, cards: Sequence[T], rng: np.random.Generator) -> None:
        self._cards, self._rng = cards, rng
        self._pile: list[T] = []

    def sample(self, batches: int, size: int) -> list[tuple[T, ...]]:
        """Return `batches` tuples of `size` patients.

        No patient comes twice while there are batches * size patients.
        """
        wanted = batches * size
        # The rest of a pile is dropped, not dealt: a fresh pile on top of it could
        # repeat a patient within one step.
        if len(self._pile) < min(wanted, len(self._cards)):
            self._pile = []
        chosen: list[T] = []
        while len(chosen) < wanted:
            if not self._pile:
                self._pile = [self._cards[int(i)] for i in self._rng.permutation(len(self._cards))]
            chosen.append(self._pile.pop())
        return [tuple(chosen[i * size : (i + 1) * size]) for i in range(batches)]
