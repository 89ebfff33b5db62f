"""The arms of compression.py: every compression in plaintext, and what passes through the
secure sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import numpy as np

from wardround.algorithms.schedule import Schedule
from wardround.compression.half import Half
from wardround.compression.low_rank import LowRank
from wardround.compression.payload import Linear
from wardround.compression.quantise import Quantise
from wardround.compression.rand_k import RandK
from wardround.compression.top_k import TopK
from wardround.core.arrays import Array, Arrays, Layout, RunningMean, size_bytes
from wardround.core.rng import stream
from wardround.core.stages import Update
from wardround.research.compressed_rounds import SERVER, LinearSum, OpenedSum
from wardround.secagg.cost import cost
from wardround.secagg.fixed_point import Grid, decode, encode, first_grid, mean_of, next_grid
from wardround.secagg.spec import SecAggSpec

# The settings of app_configs/privacy/fixed_point.yaml: a sum has room for 16 sites, which makes
# every field wider.
REFERENCE_PATIENTS, ROOM = 32, 16
Directions = dict[str, list[int]]


@final
@dataclass(frozen=True)
class Setting:
    """What an arm is made for: the job's first weights by wire name, its sites, schedule and
    seed.
    """

    initial: Arrays
    sites: tuple[str, ...]
    schedule: Schedule
    seed: int

    @property
    def blocks(self) -> Layout:
        """Return names and shapes of what travels."""
        return Layout.of(self.initial)


class Arm(Protocol):
    """What `federation.run` adds updates into; `sent` gives the bytes of each round over all
    sites, way by way.
    """

    def __call__(self, round_: int) -> Any:
        """Begin a round."""
        ...

    def sent(self) -> dict[str, Directions]:
        """Return transport -> up, down."""
        ...


@final
class Plain:
    """Any in-process sum whose bytes are those of its arrays."""

    def __init__(self, sums: OpenedSum | LinearSum) -> None:
        self._sums = sums

    def __call__(self, round_: int) -> Any:
        """Begin a round."""
        return self._sums(round_)

    def sent(self) -> dict[str, Directions]:
        """Return the bytes of the arrays that would travel."""
        return {"plain": {"up": self._sums.up, "down": self._sums.down}}


@final
class Float32:
    """FedAvg as it is: float32 both ways."""

    def __init__(self, setting: Setting) -> None:
        self._each = size_bytes(setting.initial) * len(setting.sites)
        self._rounds = 0

    def __call__(self, round_: int) -> RunningMean:
        """Begin a round."""
        self._rounds += 1
        return RunningMean()

    def sent(self) -> dict[str, Directions]:
        """Return four bytes for every value."""
        return {"plain": {"up": [self._each] * self._rounds, "down": [self._each] * self._rounds}}


@final
class Whole:
    """No compression: the update goes into the secure sum as it is; what fixed point leaves
    over is owed here.
    """

    name = "whole"

    def __init__(self, blocks: Layout) -> None:
        self.blocks = blocks

    def layout(self, round_: int) -> tuple[()]:
        """Return one layout for all rounds."""
        return ()

    def outbound(self, update: Update, round_: int, memory: dict[str, Any]) -> tuple[Update, dict[str, Any]]:
        """Return the update and what is owed."""
        owed = memory.get("owed", {name: np.float32(0) for name in update.params})
        return replace(update, params={name: block + owed[name] for name, block in update.params.items()}), {}

    def put_back(self, left: Arrays, round_: int, memory: dict[str, Any]) -> None:
        """Keep what is owed."""
        memory["owed"] = dict(left)

    def inbound(self, aggregate: Any, round_: int, memory: dict[str, Any]) -> Any:
        """Return it as it is."""
        return aggregate


@final
class Hidden:
    """A linear compression, then the fixed-point sum of the secure jobs; masks and encryption
    change no integer.

    One grid for each layout of messages: low rank alternates between two. What rounding leaves
    over goes back to the compression, which knows where it belongs. clipped: values per round
    at all sites.
    """

    def __init__(self, stage: Linear, setting: Setting, bits: int) -> None:
        self._setting = setting
        self._books = LinearSum(stage, setting.sites)
        self._bits, self._grids = bits, dict[Any, Grid]()
        self._sent: dict[str, Directions] = {kind: {"up": [], "down": []} for kind in ("masked", "he")}
        self.clipped: list[int] = []

    def __call__(self, round_: int) -> Hidden:
        """Begin a round; the first one of a layout takes its grid from the compressed initial
        weights.
        """
        stage, setting = self._books.stage, self._setting
        self._round, self._key = self._books(round_).round, stage.layout(round_)
        like = stage.outbound(Update(setting.initial, 1.0), round_, dict(self._books.memories[SERVER]))[0].params
        if self._key not in self._grids:
            self._grids[self._key] = first_grid(like, self._bits, weighted=True)
        for kind, ways in self._sent.items():
            one = cost(self._protection(kind == "he"), like)
            ways["up"].append(one.up * len(setting.sites))
            ways["down"].append(one.down * len(setting.sites))
        self._grid, self._packing = self._grids[self._key], self._protection(False).packing
        self._words = np.zeros(self._packing.words(self._grid.fields), np.uint64)
        self._count = 0
        self.clipped.append(0)
        return self

    def add(self, update: Arrays, weight: float) -> None:
        """Add the next site's message as packed integers."""
        site, stage = self._setting.sites[self._count], self._books.stage
        memory, factor = self._books.memories[site], weight / REFERENCE_PATIENTS
        sent = stage.outbound(Update(update, weight), self._round, memory)[0].params
        draws = stream(self._setting.seed, "rounding", site, self._round)
        coded = encode(self._grid, sent, None, factor, int(weight), draws)
        left = (coded.residual / factor).astype(np.float32)
        stage.put_back(self._grid.layout.unflatten(left), self._round, memory)
        self._words += self._packing.pack(coded.fields)
        self.clipped[-1] += coded.clipped
        self._count += 1

    def mean(self) -> dict[str, Array]:
        """Return the mean that everyone reads from the revealed sum."""
        totals, patients = decode(self._grid, self._packing.unpack(self._words, self._grid.fields, self._count))
        mean = mean_of(self._grid, totals, patients / REFERENCE_PATIENTS)
        schedule, stage = self._setting.schedule, self._books.stage
        for later in range(self._round + 1, schedule.num_rounds):
            if stage.layout(later) == self._key:
                ratio = schedule.steps(later).mean_rate / schedule.steps(self._round).mean_rate
                self._grids[self._key] = next_grid(self._grid, totals, self._count, ratio)
                break
        return self._books.read(mean)

    def sent(self) -> dict[str, Directions]:
        """Return the closed forms of secagg/cost.py."""
        return self._sent

    def _protection(self, encrypted: bool) -> SecAggSpec:
        return SecAggSpec(
            sites=ROOM,
            min_clients=3,
            bits=self._bits,
            weights="patients_in_sum",
            reference_patients=REFERENCE_PATIENTS,
            masks=not encrypted,
            encryption=encrypted,
            ring=False,
            threshold=0,
        )


def _opened(stage_at: Callable[[Setting, str], Any]) -> Callable[[Setting], Arm]:
    return lambda setting: Plain(OpenedSum(lambda site: stage_at(setting, site), setting.sites))


def _linear(stage: Callable[[Setting], Any]) -> Callable[[Setting], Arm]:
    return lambda setting: Plain(LinearSum(stage(setting), setting.sites))


def _hidden(stage: Callable[[Setting], Any], bits: int) -> Callable[[Setting], Arm]:
    return lambda setting: Hidden(stage(setting), setting, bits)


def _rand_k(period: int) -> Callable[[Setting], RandK]:
    return lambda s: RandK(period, s.seed, s.blocks)


def _low_rank(rank: int) -> Callable[[Setting], LowRank]:
    return lambda s: LowRank(rank, s.seed, s.blocks)


def arms() -> Mapping[str, tuple[int, Callable[[Setting], Arm]]]:
    """Return name -> (work per round as a multiple, at equal total work, and how the sum is
    made).
    """
    return {
        "fedavg": (1, Float32),
        "half": (1, _opened(lambda s, site: Half(s.blocks))),
        "quantise_8": (1, _opened(lambda s, site: Quantise(8, 256, s.seed, s.blocks, site))),
        "quantise_4": (1, _opened(lambda s, site: Quantise(4, 256, s.seed, s.blocks, site))),
        "top_k_5": (1, _opened(lambda s, site: TopK(0.05, s.blocks, site))),
        "top_k_10": (1, _opened(lambda s, site: TopK(0.1, s.blocks, site))),
        "rand_k_4": (1, _linear(_rand_k(4))),
        "low_rank_4": (1, _linear(_low_rank(4))),
        "low_rank_8": (1, _linear(_low_rank(8))),
        "secure_8": (1, _hidden(lambda s: Whole(s.blocks), 8)),
        "secure_4": (1, _hidden(lambda s: Whole(s.blocks), 4)),
        "secure_8_rand_k_4": (1, _hidden(_rand_k(4), 8)),
        "secure_8_low_rank_8": (1, _hidden(_low_rank(8), 8)),
        "fedavg_x2": (2, Float32),
        "fedavg_x4": (4, Float32),
        "quantise_4_x2": (2, _opened(lambda s, site: Quantise(4, 256, s.seed, s.blocks, site))),
    }
