"""Low rank: PowerSGD with one exchange per round, linear given a public factor.

It therefore passes through a secure sum. A block of two or more dimensions is a matrix
M [n, m] (convolutions: [out, in * kernel]). With a factor of orthonormal columns that
everyone holds, a site sends

    even rounds   S = M Q    [n, r]   read as  S Q^T   next factor  P = orth(mean of S)
    odd rounds    S = M^T P  [m, r]   read as  P S^T   next factor  Q = orth(mean of S)

Both are projections of M, and the mean of S is the S of the mean. What the projection
leaves out waits in the site's error feedback. The factors follow from the revealed mean
alone, so they reveal nothing more than it does.
Source: Vogels, Karimireddy & Jaggi 2019, arXiv:1905.13727, Algorithms 1 and 2 (warm
start, error feedback).
Deviations: 1. One exchange per round instead of two (P and then Q): a second one would
cost a round trip of every hospital, and of a secure sum. The power iteration takes two
rounds for a step, the first round after a start projects on a random factor, and a
matrix of rank at most r passes whole from the second round on. A round sends about half
of PowerSGD's bytes. 2. A site subtracts what was read of its own message, not of the
mean: it knows that at once, also when it never hears the mean; the mean over the sites
is the same. 3. Blocks of one dimension travel whole, and so do matrices for which r (n
+ m) >= n m.

The factor of round t + 1 is known to every site that heard the mean of round t. In a
secure sum every site hears all means, and applies those that it missed one after the
other. Elsewhere a site that missed one is handed `public`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from wardround.compression.payload import (
    LATER,
    REST,
    Entries,
    Entry,
    Floats,
    Memory,
    in_order,
    kept,
    owed,
)
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.rng import stream
from wardround.core.stages import Aggregate, Receipt, Update
from wardround.core.traits import (
    ADDITIVE,
    BOUNDED,
    DEFERRABLE,
    FIXED_LAYOUT,
    INTEGER,
    SELF_CONTAINED,
    STEADY,
    WHOLE,
    Traits,
)
from wardround.core.validate import WHOLE_NUMBER, Leaf

RANKS = Leaf("a whole number", (int,), least=1, most=256)
# The names in the site's memory.
LEFT = "low_rank.left"
ROUND = "low_rank.round"
FACTOR = "low_rank.factor:"
TINY = 1e-6
"""A column of which others explain all but this share of its norm is float32 noise, and
it is drawn once more.
"""


@final
@dataclass(frozen=True)
class LowRank:
    """Send a projection of rank `rank` of every matrix.

    seed: of the job, public; the first factor comes from it.
    """

    rank: int
    seed: int
    blocks: Layout
    name = "low_rank"
    cycle = 2
    traits = Traits(
        needs=frozenset({ADDITIVE, DEFERRABLE, FIXED_LAYOUT, STEADY}),
        breaks=frozenset({BOUNDED, INTEGER, SELF_CONTAINED, WHOLE}),
        why={STEADY: REST, DEFERRABLE: LATER},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", in_order(self.blocks))
        if not (RANKS.holds(self.rank) and WHOLE_NUMBER.holds(self.seed)):
            raise ConfigRefused(
                "low_rank",
                found=f"rank {self.rank!r}, seed {self.seed!r}",
                expected="a whole number of 1 to 256, and a whole seed",
                fix="--set compression.rank=2",
            )

    def layout(self, round_: int) -> Entries:
        """Return the blocks under their names.

        Of a matrix it is [n, r] in even rounds and [m, r] in odd ones.
        """
        return tuple(
            Entry(
                name,
                "float32",
                (self._sides(shape)[round_ % 2], self.rank) if self._is_split(shape) else shape,
            )
            for name, shape in zip(self.blocks.names, self.blocks.shapes, strict=True)
        )

    def outbound(self, update: Update, round_: int, memory: Memory) -> tuple[Update, Receipt]:
        """Return the projections of this round.

        If the factor of this round is not known here, RoundRefused is raised.
        """
        wish = owed(update.params, self.blocks, memory, LEFT)
        factors = self._factors(round_, memory)
        owes = self.blocks.unflatten(wish.astype(np.float32))
        sent: dict[str, Array] = {}
        for name, block in owes.items():
            if name not in factors:
                sent[name] = block.copy()
                block[...] = 0
                continue
            matrix = self._matrix(block, round_)
            sent[name] = (matrix @ factors[name]).astype(np.float32)
            # What the reader makes of the float32 numbers that travel is what the site
            # no longer owes.
            block -= self._block(sent[name], factors[name], block.shape, round_)
        memory[LEFT] = np.concatenate([block.ravel() for block in owes.values()])
        count = sum(block.size for block in sent.values())
        return Update(sent, update.weight, update.metrics), {
            "sent": count,
            "of": self.blocks.total,
        }

    def put_back(self, left: Arrays, round_: int, memory: Memory) -> None:
        """Add what a later stage rounded off to what the site still owes.

        left: in this round's layout.
        """
        memory[LEFT] = memory[LEFT] + self.blocks.flatten(self._read(left, round_, memory))

    def settle(self, memory: Memory, counted: bool) -> None:
        """Do nothing: an update that did not count is lost, as without compression."""

    def inbound(self, aggregate: Aggregate, round_: int, memory: Memory) -> Aggregate:
        """Return the aggregate in the blocks' shapes, and keep the next factors."""
        blocks = self._read(aggregate.params, round_, memory)
        for name, shape in zip(self.blocks.names, self.blocks.shapes, strict=True):
            if self._is_split(shape):
                draws = stream(self.seed, "low-rank", name, round_ + 1)
                memory[FACTOR + name] = orthonormal(aggregate.params[name], draws)
        memory[ROUND] = round_ + 1
        return Aggregate(blocks, aggregate.sites, aggregate.flagged)

    def public(self, round_: int, memory: Memory) -> dict[str, Array]:
        """Return a round's public factors, for a site that missed the last mean."""
        factors = self._factors(round_, memory)
        return {name: factor.astype(np.float32) for name, factor in factors.items()}

    def adopt(self, factors: Arrays, round_: int, memory: Memory) -> None:
        """Keep the factors of a round that the server handed over.

        What the site still owes stays as it is.
        """
        for name, factor in factors.items():
            memory[FACTOR + name] = factor
        memory[ROUND] = round_
        self._factors(round_, memory)

    def _factors(self, round_: int, memory: Memory) -> dict[str, Floats]:
        """Return the factor of every matrix in a round, float64 [m or n, r]."""
        if round_ > 0 and memory.get(ROUND) != round_:
            raise RoundRefused(
                "the public factors of low rank",
                found=f"those of round {memory[ROUND] + 1}" if ROUND in memory else "none",
                expected=f"those of round {round_ + 1}",
                fix="let the server hand this site the factors of the round with its order",
            )
        factors = {}
        for name, shape in zip(self.blocks.names, self.blocks.shapes, strict=True):
            if not self._is_split(shape):
                continue
            size = (self._sides(shape)[1 - round_ % 2], self.rank)
            if round_ == 0:
                draws = stream(self.seed, "low-rank", name, round_)
                factor = orthonormal(draws.normal(size=size), draws)
            else:
                factor = kept(memory, FACTOR + name, size)
            factors[name] = factor.astype(np.float64)
        return factors

    def _read(self, sent: Arrays, round_: int, memory: Memory) -> dict[str, Array]:
        factors = self._factors(round_, memory)
        shapes = zip(self.blocks.names, self.blocks.shapes, strict=True)
        return {
            name: self._block(sent[name], factors[name], shape, round_) if name in factors else sent[name]
            for name, shape in shapes
        }

    def _matrix(self, block: Array, round_: int) -> Floats:
        """Return what is multiplied by this round's factor.

        It is M [n, m] in even rounds and M^T in odd ones.
        """
        matrix = block.reshape(len(block), -1).astype(np.float64)
        return matrix if round_ % 2 == 0 else matrix.T

    def _block(self, sent: Array, factor: Floats, shape: tuple[int, ...], round_: int) -> Array:
        found = sent.astype(np.float64) @ factor.T
        block: Array = (found if round_ % 2 == 0 else found.T).astype(np.float32).reshape(shape)
        return block

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return shape[0], math.prod(shape[1:])

    def _is_split(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and self.rank * sum(self._sides(shape)) < math.prod(shape)


def orthonormal(columns: NDArray[Any], draws: np.random.Generator) -> Array:
    """Return orthonormal columns of the same span, float32 [n, r] with r <= n.

    It is Gram-Schmidt in float64, done twice. A column that the ones before it explain
    (zeros too) is replaced by a random one, so that all r are always there.
    """
    found = np.zeros(columns.shape, np.float64)
    for place in range(columns.shape[1]):
        column = columns[:, place].astype(np.float64)
        before = found[:, :place]
        rest = _apart(column, before)
        while np.linalg.norm(rest) <= TINY * np.linalg.norm(column):
            column = draws.normal(size=len(column))
            rest = _apart(column, before)
        found[:, place] = rest / np.linalg.norm(rest)
    return found.astype(np.float32)


def _apart(column: Floats, before: Floats) -> Floats:
    """Return what the columns before do not explain.

    The second pass removes the rounding of the first.
    """
    once = column - before @ (before.T @ column)
    twice: Floats = once - before @ (before.T @ once)
    return twice
