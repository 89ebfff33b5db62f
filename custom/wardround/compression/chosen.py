"""What does a job name as its compression? A frozen value that makes the stage.

The stage is made once the blocks of an update are known. Both ends of a job hold the
same value: the site's chain sends with its stage, and the server of a plaintext job
opens every message with it (opening.py). In a secure sum the sites open the sum
(linear.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, final, runtime_checkable

from wardround.compression.half import Half
from wardround.compression.low_rank import LowRank
from wardround.compression.payload import Linear, Opened
from wardround.compression.quantise import Quantise
from wardround.compression.rand_k import RandK
from wardround.compression.top_k import TopK
from wardround.core.arrays import Layout
from wardround.core.traits import Traits

# Settings are tried out when the job is printed or loaded, before any block is known.
_NO_BLOCKS = Layout((), ())


@runtime_checkable
class Compression(Protocol):
    """How the updates of a job get smaller."""

    @property
    def name(self) -> str:
        """Return the name in the job, the receipt and the compatibility table."""
        ...

    @property
    def traits(self) -> Traits:
        """Return what it needs and what it makes of an update."""
        ...

    @property
    def leaves(self) -> str:
        """Return in what form an update leaves, as the job's card prints it."""
        ...

    def stage(self, blocks: Layout, site: str) -> Opened | Linear:
        """Return the stage for updates of these blocks, sent by this site."""
        ...


@final
@dataclass(frozen=True)
class HalfPrecision:
    """16 bits for each value instead of 32."""

    name: ClassVar[str] = Half.name
    traits: ClassVar[Traits] = Half.traits
    leaves: ClassVar[str] = "as 16-bit numbers; what rounding leaves over goes with the next update"

    def stage(self, blocks: Layout, site: str) -> Opened:
        """Return the stage for updates of these blocks."""
        return Half(blocks)


@final
@dataclass(frozen=True)
class Quantisation:
    """`bits` (8 or 4) for each value, and one byte for every `chunk` values.

    seed: public; the random rounding is drawn from it.
    """

    bits: Literal[4, 8]
    chunk: int
    seed: int

    name: ClassVar[str] = Quantise.name
    traits: ClassVar[Traits] = Quantise.traits

    def __post_init__(self) -> None:
        self.stage(_NO_BLOCKS, "")

    @property
    def leaves(self) -> str:
        """Return in what form an update leaves."""
        return f"as {self.bits}-bit whole numbers; what rounding leaves over goes with the next update"

    def stage(self, blocks: Layout, site: str) -> Opened:
        """Return the stage for updates of these blocks, sent by this site."""
        return Quantise(self.bits, self.chunk, self.seed, blocks, site)


@final
@dataclass(frozen=True)
class LargestValues:
    """The `share` of all values that changed most (top-k, EF21).

    The change is against what the server holds of this site's update.
    """

    share: float

    name: ClassVar[str] = TopK.name
    traits: ClassVar[Traits] = TopK.traits

    def __post_init__(self) -> None:
        self.stage(_NO_BLOCKS, "")

    @property
    def leaves(self) -> str:
        """Return in what form an update leaves."""
        return (
            f"as the {self.share:.3g} of its values that differ most from what the server holds of the update before, "
            "and where they are; the server keeps what it holds of every site"
        )

    def stage(self, blocks: Layout, site: str) -> Opened:
        """Return the stage for updates of these blocks, sent by this site."""
        return TopK(self.share, blocks, site)


@final
@dataclass(frozen=True)
class RandomSlices:
    """One of `period` slices of every large block per round (rand-k).

    seed: public; the slices are drawn from it.
    """

    period: int
    seed: int

    name: ClassVar[str] = RandK.name
    traits: ClassVar[Traits] = RandK.traits

    def __post_init__(self) -> None:
        self.stage(_NO_BLOCKS, "")

    @property
    def leaves(self) -> str:
        """Return in what form an update leaves."""
        return f"one of {self.period} slices of its values in each round; the other values go with later updates"

    def stage(self, blocks: Layout, site: str) -> Opened:
        """Return the stage for updates of these blocks."""
        return RandK(self.period, self.seed, blocks)


@final
@dataclass(frozen=True)
class Projections:
    """A projection of rank `rank` of every matrix per round (PowerSGD), inside a secure sum.

    seed: public; the first factors are drawn from it.
    """

    rank: int
    seed: int

    name: ClassVar[str] = LowRank.name
    traits: ClassVar[Traits] = LowRank.traits

    def __post_init__(self) -> None:
        self.stage(_NO_BLOCKS, "")

    @property
    def leaves(self) -> str:
        """Return in what form an update leaves."""
        return (
            f"as a projection of rank {self.rank} of each of its matrices; what it leaves out goes with later updates"
        )

    def stage(self, blocks: Layout, site: str) -> Linear:
        """Return the stage for updates of these blocks."""
        return LowRank(self.rank, self.seed, blocks)
