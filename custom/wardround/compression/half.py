"""Half precision: blocks as float16 times a power of two, and a memory of the rounding.

A block is scaled so that its largest value lies just below 2**15. float16 never
overflows then (its largest value is 65504), and values down to 2**-29 of the largest
keep all 11 significant bits. What rounding leaves over is error feedback: it is added
to the site's next update, so that the sum of all that was sent and the rest is the sum
of all updates.
Source: Micikevicius et al. 2018, arXiv:1710.03740 (scaling before float16); Seide et
al. 2014 (error feedback).
Deviations: 1. One power of two for each block instead of one factor for everything; it
is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from wardround.compression.payload import (
    REST,
    Entries,
    Entry,
    Floats,
    Memory,
    Payload,
    as_float32,
    in_order,
    owed,
    require_entries,
)
from wardround.core.arrays import Array, Layout
from wardround.core.stages import Aggregate, Receipt, Update
from wardround.core.traits import (
    ADDITIVE,
    BOUNDED,
    INTEGER,
    READABLE,
    STEADY,
    WHOLE,
    Traits,
)

# The name in the site's memory.
LEFT = "half.left"
TOP = 15
"""float16 holds everything below 2**16; one bit is spare, so that rounding up cannot
overflow.
"""


@final
@dataclass(frozen=True)
class Half:
    """Send float16: half the bytes of float32."""

    blocks: Layout
    name = "half"
    traits = Traits(
        needs=frozenset({READABLE, STEADY}),
        breaks=frozenset({ADDITIVE, BOUNDED, INTEGER, WHOLE}),
        why={STEADY: REST},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", in_order(self.blocks))

    def layout(self, round_: int) -> Entries:
        """Return the float16 values of all blocks, and the power of two of every block."""
        exponents = Entry("exponents", "int8", (len(self.blocks.names),))
        return exponents, Entry("values", "float16", (self.blocks.total,))

    def outbound(self, update: Update, round_: int, memory: Memory) -> tuple[Update, Receipt]:
        """Return the scaled values.

        What rounding leaves over stays in memory as float32.
        """
        wish = owed(update.params, self.blocks, memory, LEFT)
        starts = np.cumsum((0, *self.blocks.sizes[:-1]))
        exponents = exponents_of(np.maximum.reduceat(np.abs(wish), starts))
        values, sent = to_half(wish, np.repeat(exponents, self.blocks.sizes))
        memory[LEFT] = (wish - sent).astype(np.float32)
        payload: Payload = {"exponents": exponents, "values": values}
        return Update(payload, update.weight, update.metrics), {"bits": 16}

    def opened(self, payload: Payload, round_: int, memory: Memory) -> dict[str, Array]:
        """Return the blocks as float32: the values that the sender has counted as sent."""
        require_entries(payload, self.layout(round_), "a half-precision update")
        exponents = np.repeat(payload["exponents"], self.blocks.sizes)
        values = from_half(payload["values"], exponents)
        return self.blocks.unflatten(as_float32(values, "a half-precision update"))

    def settle(self, memory: Memory, counted: bool) -> None:
        """Do nothing: an update that did not count is lost, as without compression."""

    def inbound(self, aggregate: Aggregate, round_: int, memory: Memory) -> Aggregate:
        """Return the aggregate unchanged: messages are opened before the sum."""
        return aggregate


def exponents_of(peaks: Floats) -> NDArray[np.int8]:
    """Return, int8, the power of two that brings every magnitude to at most 2**TOP."""
    # frexp gives peak < 2**e. A float32 stays below 2**128, so that e - TOP fits into
    # an int8; the lower end is clipped: what is smaller than float16 can hold there
    # waits in the error feedback.
    found: NDArray[np.int8] = np.clip(np.frexp(peaks)[1] - TOP, -128, 127).astype(np.int8)
    return found


def to_half(values: Floats, exponents: NDArray[np.int8]) -> tuple[NDArray[np.float16], Floats]:
    """Return (float16 of values * 2**-exponents, what they stand for in float64)."""
    scaled = np.ldexp(values, -exponents.astype(np.int32)).astype(np.float16)
    return scaled, from_half(scaled, exponents)


def from_half(values: NDArray[np.float16], exponents: NDArray[np.int8]) -> Floats:
    """Return values * 2**exponents, float64."""
    found: Floats = np.ldexp(values.astype(np.float64), exponents.astype(np.int32))
    return found
