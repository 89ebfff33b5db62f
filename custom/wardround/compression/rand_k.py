"""Rand-k: one slice of the coordinates per round, the same at every site.

It is drawn from a public seed. Only values travel, in a layout that everyone knows, and
the mean of what is sent is what is sent of the mean: rand-k passes through a secure sum
without revealing anything to it. What is not sent waits in the site's error feedback,
unscaled:

    wish = update + left        sent = wish[slice]        left = wish outside the slice

Source: Stich, Cordonnier & Jaggi 2018, arXiv:1809.07599 (rand-k with memory); the
public seed: Konecny et al. 2016, arXiv:1610.05492 (random mask).
Deviations: 1. Error feedback instead of the unbiased factor n/k of Konecny et al.: that
factor multiplies the variance by n/k - 1, which asks for a learning rate so much
smaller. 2. The slices of `period` consecutive rounds are those of one random
permutation, so that every coordinate is sent once in a period, and never later than 2
period - 1 rounds after it changed; each slice alone is a uniformly random set. 3.
Blocks of one dimension (norms, biases) and blocks of fewer than `FEW` values travel
whole: they are few, and they move most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from wardround.compression.payload import (
    LATER,
    REST,
    Entries,
    Entry,
    Memory,
    Payload,
    in_order,
    layout_of,
    owed,
    require_entries,
)
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.core.stages import Aggregate, Receipt, Update
from wardround.core.traits import (
    ADDITIVE,
    BOUNDED,
    DEFERRABLE,
    FIXED_LAYOUT,
    INTEGER,
    STEADY,
    WHOLE,
    Traits,
)
from wardround.core.validate import WHOLE_NUMBER, Leaf

PERIODS = Leaf("a whole number", (int,), least=2, most=1024)
LEFT = "rand_k.left"
FEW = 256


@final
@dataclass(frozen=True)
class RandK:
    """Send one of `period` slices of every large block per round.

    seed: of the job, public.
    """

    period: int
    seed: int
    blocks: Layout
    name = "rand_k"
    cycle = 1
    traits = Traits(
        needs=frozenset({ADDITIVE, DEFERRABLE, FIXED_LAYOUT, STEADY}),
        breaks=frozenset({BOUNDED, INTEGER, WHOLE}),
        why={STEADY: REST, DEFERRABLE: LATER},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", in_order(self.blocks))
        if not (PERIODS.holds(self.period) and WHOLE_NUMBER.holds(self.seed)):
            raise ConfigRefused(
                "rand_k",
                found=f"period {self.period!r}, seed {self.seed!r}",
                expected="a whole number of 2 to 1024 rounds in which every value is sent once, and a whole seed",
                fix="--set compression.period=8, or --set compression=none",
            )

    def layout(self, round_: int) -> Entries:
        """Return the blocks under their names.

        Of a large block a row of ceil(size / period) values is left.
        """
        return tuple(
            Entry(
                name,
                "float32",
                shape if _travels_whole(shape) else (self._count(shape),),
            )
            for name, shape in zip(self.blocks.names, self.blocks.shapes, strict=True)
        )

    def places(self, round_: int) -> NDArray[np.int64]:
        """Return where the values of this round's message lie in the flat vector.

        They are in the order of the message.
        """
        turn, slot = divmod(round_, self.period)
        found, start = [], 0
        for name, shape in zip(self.blocks.names, self.blocks.shapes, strict=True):
            size = math.prod(shape)
            inside = np.arange(size)
            if not _travels_whole(shape):
                count = self._count(shape)
                order = stream(self.seed, "rand-k", turn, name).permutation(size)
                # The last slices begin again at the start of the permutation: all of
                # them have one length.
                inside = order[(slot * count + np.arange(count)) % size]
            found.append(start + inside)
            start += size
        return np.concatenate(found)

    def outbound(self, update: Update, round_: int, memory: Memory) -> tuple[Update, Receipt]:
        """Return this round's slice of the update and of what the site still owes."""
        left = owed(update.params, self.blocks, memory, LEFT).astype(np.float32)
        places = self.places(round_)
        sent = self._message(round_).unflatten(left[places])
        left[places] = 0
        memory[LEFT] = left
        return Update(sent, update.weight, update.metrics), {
            "sent": len(places),
            "of": len(left),
        }

    def opened(self, payload: Payload, round_: int, memory: Memory) -> dict[str, Array]:
        """Return one message in the blocks' shapes, zero outside of the slice.

        Another layout raises RoundRefused.
        """
        require_entries(payload, self.layout(round_), "a slice of an update")
        return self._whole(payload, round_)

    def settle(self, memory: Memory, counted: bool) -> None:
        """Do nothing: an update that did not count is lost, as without compression."""

    def put_back(self, left: Arrays, round_: int, memory: Memory) -> None:
        """Add what a later stage rounded off to what the site still owes.

        left: in this round's layout.
        """
        memory[LEFT][self.places(round_)] += self._message(round_).flatten(left)

    def inbound(self, aggregate: Aggregate, round_: int, memory: Memory) -> Aggregate:
        """Return the aggregate in the blocks' shapes, zero outside of the slice."""
        return Aggregate(self._whole(aggregate.params, round_), aggregate.sites, aggregate.flagged)

    def _whole(self, sent: Arrays, round_: int) -> dict[str, Array]:
        whole = np.zeros(self.blocks.total, np.float32)
        whole[self.places(round_)] = self._message(round_).flatten(sent)
        return self.blocks.unflatten(whole)

    def _message(self, round_: int) -> Layout:
        return layout_of(self.layout(round_))

    def _count(self, shape: tuple[int, ...]) -> int:
        return -(-math.prod(shape) // self.period)


def _travels_whole(shape: tuple[int, ...]) -> bool:
    return len(shape) < 2 or math.prod(shape) < FEW
