"""Drawing patients without replacement: the rule that keeps the mini-batches of one step disjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, final

import numpy as np

T = TypeVar("T")


@final
class PatientSampler(Generic[T]):
    """A shuffled pile of cards that is shuffled anew when it runs out, or when it holds too few for the next deal."""

    def __init__(self, cards: Sequence[T], rng: np.random.Generator) -> None:
        self._cards, self._rng = cards, rng
        self._pile: list[T] = []

    def sample(self, batches: int, size: int) -> list[tuple[T, ...]]:
        """Return `batches` hands of `size` cards; no card twice in one deal while there are batches * size cards."""
        wanted = batches * size
        if len(self._pile) < min(wanted, len(self._cards)):
            self._pile = []
        chosen: list[T] = []
        while len(chosen) < wanted:
            if not self._pile:
                self._pile = [self._cards[int(i)] for i in self._rng.permutation(len(self._cards))]
            chosen.append(self._pile.pop())
        return [tuple(chosen[i * size : (i + 1) * size]) for i in range(batches)]
