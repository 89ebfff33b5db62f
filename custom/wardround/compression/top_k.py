"""Top-k in the EF21 form: both ends keep an update, and only its correction travels.

    c = top_k(update - g)        g <- g + c  at both ends

g is what the receiver holds of a site's update, and what it computes with. Plain top-k
with a constant step can stall or diverge when hospitals differ; EF21 converges as
gradient descent does, because the k largest corrections shrink what g lacks by at least
the factor 1 - k/n in square.
Source: Richtarik, Sokolov & Fatkhullin 2021, arXiv:2106.05203, Algorithm 2; for both
directions: Fatkhullin et al. 2021, arXiv:2110.03294.
Deviations: 1. g tracks the difference of a whole local training instead of a gradient.
2. The values of c travel as float16 times a power of two; c is what float16 holds, so
that both ends add the same. 3. g starts at zero instead of at a full gradient, so that
the first message is small too. 4. The mean is over the sites of the round: the g of a
site that is absent is not used.

A message that did not count (the site was late, the round failed, a rule set the site
apart) must move neither end. Both ends therefore hold g and the next g apart until
`settle` says whether the message counted. Every message names the g that it corrects by
a checksum. The receiver refuses a correction of anything but its own g, or of zeros,
which starts it over. A site starts over when it never heard what became of its message,
and after two messages that did not count.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from wardround.compression.gaps import from_gaps, gaps_length, to_gaps
from wardround.compression.half import exponents_of, from_half, to_half
from wardround.compression.payload import (
    REST,
    Entries,
    Entry,
    Memory,
    Payload,
    as_float32,
    in_order,
    kept,
    owed,
    require_entries,
)
from wardround.core.arrays import Array, Layout
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.stages import Aggregate, Receipt, Update
from wardround.core.traits import (
    ADDITIVE,
    BOUNDED,
    FIXED_LAYOUT,
    INTEGER,
    READABLE,
    STEADY,
    WHOLE,
    Traits,
)
from wardround.core.validate import NUMBER

# The names in the memory of either end.
HELD = "top_k.held"
NEXT = "top_k.next"
ASKED = "top_k.asked"
LOST = "top_k.lost"


@final
@dataclass(frozen=True)
class TopK:
    """Send the `share` of all values in which the update differs most.

    Differences are taken from what the receiver holds of the update.

    site: the name under which an aggregate lists the sender.
    """

    share: float
    blocks: Layout
    site: str
    name = "top_k"
    traits = Traits(
        needs=frozenset({READABLE, STEADY}),
        breaks=frozenset({ADDITIVE, BOUNDED, FIXED_LAYOUT, INTEGER, WHOLE}),
        why={STEADY: REST},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", in_order(self.blocks))
        if not (NUMBER.holds(self.share) and 0 < self.share <= 1):
            raise ConfigRefused(
                "top_k",
                found=f"share {self.share!r}",
                expected="above 0, at most 1",
                fix="--set compression.share=0.05",
            )

    def layout(self, round_: int) -> Entries:
        """Return the arrays of a message.

        They are the values, their places as gaps, their power of two, and the checksum
        of the g that they correct.
        """
        total = self.blocks.total
        count = self._count(total)
        return (
            Entry("corrects", "int32", (1,)),
            Entry("exponent", "int8", (1,)),
            Entry("gaps", "uint8", (gaps_length(count, total),)),
            Entry("values", "float16", (count,)),
        )

    def outbound(self, update: Update, round_: int, memory: Memory) -> tuple[Update, Receipt]:
        """Return the k largest corrections.

        The next g waits in memory until `settle` says that the message counted. If it
        is called twice in one round, both corrections are made of the same g.
        """
        wish = owed(update.params, self.blocks, memory, None)
        # A next g of an earlier round: nobody said whether that message counted.
        unknown = NEXT in memory and memory[ASKED] != round_
        held = _held({} if unknown else memory, self.blocks.total)
        lacks = wish - held
        count = self._count(self.blocks.total)
        chosen = np.sort(np.argpartition(np.abs(lacks), -count)[-count:])
        exponent = exponents_of(np.abs(lacks[chosen]).max(keepdims=True))
        values, _ = to_half(lacks[chosen], exponent)
        payload: Payload = {
            "corrects": _checksum(held),
            "exponent": exponent,
            "gaps": to_gaps(chosen, self.blocks.total),
            "values": values,
        }
        memory[HELD] = held
        memory[NEXT] = _corrected(held, chosen, values, exponent)
        memory[ASKED] = round_
        return Update(payload, update.weight, update.metrics), {
            "sent": count,
            "of": self.blocks.total,
        }

    def opened(self, payload: Payload, round_: int, memory: Memory) -> dict[str, Array]:
        """Return the next g of this sender, float32.

        It is not held before `settle` says that the message counted. A correction of a
        g that this end does not hold, or places beyond the blocks, raises RoundRefused.
        """
        require_entries(payload, self.layout(round_), "a top-k update")
        fresh = np.zeros(self.blocks.total, np.float32)
        known = (_held(memory, self.blocks.total), fresh)
        found = next((g for g in known if _checksum(g) == payload["corrects"]), None)
        if found is None:
            raise RoundRefused(
                "a top-k update",
                found="a correction of a state that the receiver does not hold",
                expected="a correction of what it holds of this site, or of zeros",
                fix="wait for two rounds: the site then starts over from zeros by itself",
            )
        chosen = from_gaps(payload["gaps"], self._count(self.blocks.total), self.blocks.total)
        memory[HELD] = memory.get(HELD, fresh)
        memory[NEXT] = _corrected(found, chosen, payload["values"], payload["exponent"])
        return self.blocks.unflatten(memory[NEXT].copy())

    def settle(self, memory: Memory, counted: bool) -> None:
        """Take the next g where the message counted.

        Where it did not count, g is kept; at the second time in a row, g starts over.
        """
        following = memory.pop(NEXT, None)
        if following is None:
            return
        if counted:
            memory[HELD], memory[LOST] = following, 0
            return
        memory[LOST] = memory.get(LOST, 0) + 1
        if memory[LOST] > 1:
            memory[HELD], memory[LOST] = np.zeros_like(following), 0

    def inbound(self, aggregate: Aggregate, round_: int, memory: Memory) -> Aggregate:
        """Return the aggregate unchanged.

        The site learns from it whether its message counted.
        """
        self.settle(memory, self.site in aggregate.sites)
        return aggregate

    def _count(self, total: int) -> int:
        return max(1, math.ceil(self.share * total))


def _held(memory: Memory, total: int) -> Array:
    return kept(memory, HELD, (total,)) if HELD in memory else np.zeros(total, np.float32)


def _corrected(
    held: Array,
    chosen: NDArray[np.int64],
    values: NDArray[np.float16],
    exponent: NDArray[np.int8],
) -> Array:
    """Return g + c.

    It is the same operation on the same numbers at both ends, so both hold the same g.
    """
    following = held.copy()
    following[chosen] += as_float32(from_half(values, exponent), "a top-k update")
    return following


def _checksum(held: Array) -> NDArray[np.int32]:
    """Return the CRC-32 of g, int32 [1], against chance and not an adversary."""
    return np.array([zlib.crc32(np.ascontiguousarray(held).tobytes())], np.uint32).view(np.int32)
