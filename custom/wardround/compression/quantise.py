"""Quantisation to 8 or 4 bits, rounded at random and without bias.

    q = floor(v / step + u)     E[q step] = v
    left = v - q step           added to the site's next update

The step of a chunk of values is the least power of two with which its largest value
fits, so nothing is clipped; one byte of every chunk says which. The rounding is that of
the secure sums (core/rounding.py), whose step is public and the same at every site.
Here every site has steps of its own, so messages are opened before they are added.
Source: Alistarh et al. 2017, arXiv:1610.02132 (QSGD: random rounding per bucket);
Karimireddy et al. 2019, arXiv:1901.09847 (error feedback).
Deviations: 1. The largest value of a chunk instead of its norm, and steps that are
powers of two: decoding is exact. 2. The random numbers are those of the job's seed, the
site's name and the round: a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from wardround.compression.payload import (
    REST,
    Entries,
    Entry,
    Memory,
    Payload,
    as_float32,
    in_order,
    owed,
    require_entries,
)
from wardround.core.arrays import Array, Layout
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.rng import stream
from wardround.core.rounding import least_exponents, round_to_steps
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
from wardround.core.validate import WHOLE_NUMBER, Leaf

BITS = (4, 8)
CHUNKS = Leaf("a whole number", (int,), least=1, most=2**16)
LEFT = "quantise.left"


@final
@dataclass(frozen=True)
class Quantise:
    """Send `bits` per value, and one byte per chunk.

    chunk: the most values of one block that share a step.
    seed, site: what the random rounding is drawn from.
    """

    bits: Literal[4, 8]
    chunk: int
    seed: int
    blocks: Layout
    site: str
    name = "quantise"
    traits = Traits(
        needs=frozenset({READABLE, STEADY}),
        breaks=frozenset({ADDITIVE, BOUNDED, INTEGER, WHOLE}),
        why={STEADY: REST},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", in_order(self.blocks))
        whole = all(WHOLE_NUMBER.holds(one) for one in (self.bits, self.seed))
        if not (whole and self.bits in BITS and CHUNKS.holds(self.chunk)):
            raise ConfigRefused(
                "quantise",
                found=f"bits {self.bits!r}, chunk {self.chunk!r}, seed {self.seed!r}",
                expected="4 or 8 bits, chunks of 1 to 65536 values, and a whole seed",
                fix="--set compression.bits=8 --set compression.chunk=256",
            )

    @property
    def levels(self) -> int:
        """Return the largest whole number of the code."""
        return int(2 ** (self.bits - 1) - 1)

    def layout(self, round_: int) -> Entries:
        """Return the codes (4 bits: two in a byte) and the exponent of every chunk."""
        sizes = self.blocks.sizes
        codes = Entry("codes", "uint8", ((sum(sizes) * self.bits + 7) // 8,))
        return codes, Entry("exponents", "int8", (len(self._chunks(sizes)),))

    def outbound(self, update: Update, round_: int, memory: Memory) -> tuple[Update, Receipt]:
        """Return the codes. What rounding leaves over stays in memory as float32."""
        wish = owed(update.params, self.blocks, memory, LEFT)
        chunks = self._chunks(self.blocks.sizes)
        starts = np.cumsum((0, *chunks[:-1]))
        exponents = least_exponents(np.maximum.reduceat(np.abs(wish), starts), self.levels)
        steps = np.repeat(np.ldexp(1.0, exponents), chunks)
        draws = stream(self.seed, "quantise", self.site, round_)
        q, left, clipped = round_to_steps(wish, steps, float(self.levels), draws)
        memory[LEFT] = left.astype(np.float32)
        # Codes travel as whole numbers of 1 to 2 levels + 1: zero is the padding of an
        # odd number of 4-bit codes.
        codes = (q + (self.levels + 1)).astype(np.uint8)
        payload: Payload = {
            "codes": codes if self.bits == 8 else _pairs(codes),
            "exponents": exponents.astype(np.int8),
        }
        return Update(payload, update.weight, update.metrics), {
            "bits": self.bits,
            "clipped": clipped,
        }

    def opened(self, payload: Payload, round_: int, memory: Memory) -> dict[str, Array]:
        """Return the blocks as float32.

        They are whole multiples of the steps, exactly what the sender has counted as
        sent.
        """
        require_entries(payload, self.layout(round_), "a quantised update")
        codes = payload["codes"] if self.bits == 8 else _singles(payload["codes"])
        codes = codes[: self.blocks.total]
        if codes.size and int(codes.min()) == 0:
            raise RoundRefused(
                "a quantised update",
                found="a code of 0",
                expected=f"1 to {2 * self.levels + 1}",
                fix="run the same job and the same wardround version at every site",
            )
        q = codes.astype(np.float64) - (self.levels + 1)
        chunks = self._chunks(self.blocks.sizes)
        exponents = np.repeat(payload["exponents"].astype(np.int32), chunks)
        return self.blocks.unflatten(as_float32(np.ldexp(q, exponents), "a quantised update"))

    def settle(self, memory: Memory, counted: bool) -> None:
        """Do nothing: an update that did not count is lost, as without compression."""

    def inbound(self, aggregate: Aggregate, round_: int, memory: Memory) -> Aggregate:
        """Return the aggregate unchanged: messages are opened before the sum."""
        return aggregate

    def _chunks(self, sizes: tuple[int, ...]) -> list[int]:
        """Return the sizes of the chunks of all blocks. A chunk never spans two blocks."""
        chunks: list[int] = []
        for size in sizes:
            whole, rest = divmod(size, self.chunk)
            chunks += [self.chunk] * whole + [rest] * (rest > 0)
        return chunks


def _pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return two codes of 4 bits in each byte, the first one in the low half."""
    padded = np.append(codes, np.zeros(len(codes) % 2, np.uint8))
    return (padded[0::2] | (padded[1::2] << 4)).astype(np.uint8)


def _singles(pairs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes of `_pairs`, with its padding."""
    return np.stack([pairs & 15, pairs >> 4], axis=1).ravel()
