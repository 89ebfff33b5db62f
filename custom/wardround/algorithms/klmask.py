"""KL masks: each hospital finds out which blocks of its model differ in effect from the shared ones, and keeps those.

    KL_b = mean over calibration batches of KL(p(.|x; w) || p(.|x; w with block b as received))

after local training, every `every` rounds from `warm_up` on; masks.py makes a mask of it. Personal blocks start the next round
from their own values and never leave, in the round that they become personal either. A block that becomes shared again
starts from the received values.
In place of personal blocks the update holds zeros, and the server divides by ALL hospitals: no mask is told, and every
update has the same layout, as hidden sums and differential privacy need. The sum of a block is the sum over those who share
it, who may be few, or one.
share: as in fedsim.py; what is not shared at all is this hospital's own from the start, and masks choose among the rest.
Controls, as one argument: `choose`: kl | random | norms | head | none (FedAvg).
Source: see masks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, final

import torch
from torch import Tensor

from wardround.algorithms.base import MASK, Algorithm, LocalEnd, LocalStart, Oracle, Steps, descend, plain
from wardround.algorithms.fedsim import SHARED, FedSim, Share
from wardround.algorithms.masks import CHOICES, Choice, attention, chosen, drawn
from wardround.arrays import Layout
from wardround.errors import ConfigRefused
from wardround.rng import stream

ATTENTION = "attention"
Outputs = Callable[[Collection[str]], Tensor]


class Probe(Oracle, Protocol):
    """An oracle that can compare two models as well."""

    @property
    def label(self) -> str:
        """The site's name, for the random control."""

    @property
    def blocks(self) -> Mapping[str, str]:
        """Parameter name -> block name."""

    def calibration(self, count: int) -> tuple[Any, ...]:
        """Return the same `count` batches of training patients each time."""

    def held_out(self, count: int) -> tuple[Any, ...]:
        """Return the same `count` batches of validation patients each time."""

    def near(self, w: Tensor, other: Tensor, batch: Any) -> Outputs:
        """Return the function names -> the network's outputs at w with the parameters of these names as in `other`."""

    def divergence(self, p: Tensor, q: Tensor, batch: Any) -> float:
        """Return the mean KL(p || q) of two outputs on one batch."""

    def loss(self, p: Tensor, batch: Any) -> float:
        """Return the loss of outputs on one batch."""


@final
@dataclass(frozen=True)
class KLMask:
    """choose, share: see above | batches: of the calibration part and of the held-out part

    A value that is missing or out of range: ConfigRefused.
    """

    choose: Choice
    share: Share
    every: int
    warm_up: int
    rho: float
    enter: float
    leave: float
    most: float
    batches: int

    name: ClassVar[str] = "KL masks"
    banks: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        whole = all(type(value) is int for value in (self.every, self.warm_up, self.batches))
        if (
            None in vars(self).values()
            or self.choose not in CHOICES
            or self.share not in SHARED
            or not whole
            or self.every < 1
            or self.warm_up < 0
            or self.batches < 1
        ):
            raise _refused(
                f"{self}",
                f"choose one of {', '.join(CHOICES)}, share one of {', '.join(SHARED)}, "
                "every and batches 1 or more, warm_up 0 or more",
            )
        if not (0 <= self.rho < 1 and 0 < self.leave <= self.enter and 0 < self.most < 1):
            raise _refused(
                f"rho {self.rho}, enter {self.enter}, leave {self.leave}, most {self.most}",
                "0 <= rho < 1, 0 < leave <= enter, 0 < most < 1",
            )

    @property
    def home_roles(self) -> tuple[str, ...]:
        return FedSim(self.share).home_roles

    def train(self, start: LocalStart, oracle: Oracle, steps: Steps) -> LocalEnd:
        w, losses = descend(start.banks["model"], plain(oracle), steps.work, steps)
        memory = {key: start.memory[key] for key in (ATTENTION, MASK) if key in start.memory}
        due = steps.round >= self.warm_up and (steps.round - self.warm_up) % self.every == 0
        if due and self.choose != "none":
            memory |= self._masked(w, start, oracle)  # type: ignore[arg-type]
        return LocalEnd({"model": w}, tuple(losses), memory)

    def personal(self, start: LocalStart) -> Tensor:
        return start.banks["model"]

    def _masked(self, w: Tensor, start: LocalStart, probe: Probe) -> dict[str, Tensor]:
        shared = start.mask(*SHARED[self.share])
        if self.choose in ("norms", "head"):
            role = "norm" if self.choose == "norms" else "head"
            return {MASK: (start.mask(role) & shared).to(w.dtype)}
        travels = {name for name in start.layout.names if start.roles[name] in SHARED[self.share]}
        layout, blocks = start.layout, {name: b if name in travels else "" for name, b in probe.blocks.items()}
        sizes = {b: size for b, size in block_sizes(layout, blocks).items() if b}
        if self.choose == "random":
            found = drawn(sizes, self.most, stream(0, "random mask", probe.label))
            return {MASK: by_value(layout, blocks, dict.fromkeys(found, 1.0)).to(w)}
        received = start.received if start.received is not None else start.banks["model"]
        names = {b: frozenset(n for n in layout.names if blocks[n] == b) for b in sizes}
        before = _without_rest(read(layout, blocks, start.memory.get(ATTENTION)))
        scores = attention(before, self._divergences(w, received, names, probe), self.rho)
        held_out = HeldOut(w, received, probe, self.batches)

        def better(b: str) -> bool:
            return held_out.loss(frozenset()) < held_out.loss(names[b])

        mask = _without_rest(read(layout, blocks, start.memory.get(MASK))) or {}
        personal = [b for b, value in mask.items() if value > 0]
        found = chosen(scores, personal, sizes, better, (self.enter, self.leave, self.most))
        chosen_ = by_value(layout, blocks, dict.fromkeys(found, 1.0))
        return {ATTENTION: by_value(layout, blocks, scores).to(w), MASK: chosen_.to(w)}

    def _divergences(
        self, w: Tensor, received: Tensor, names: Mapping[str, Collection[str]], probe: Probe
    ) -> dict[str, float]:
        batches = probe.calibration(self.batches)
        total = dict.fromkeys(names, 0.0)
        for batch in batches:
            outputs = probe.near(w, received, batch)
            p = outputs(())
            for b in total:
                total[b] += probe.divergence(p, outputs(names[b]), batch) / len(batches)
        return total


def require_alone(algorithm: Algorithm, beside: bool, where: str) -> None:
    """Raise ConfigRefused if each site chooses its mask and FedAvg trains beside it where single updates are hidden.

    In the first round with masks both models still start and train alike: the sum of the one less that of the other is, block
    by block, what those who keep the block have left out; where that is one hospital, its update.
    """
    if isinstance(algorithm, KLMask) and algorithm.choose in ("kl", "random") and beside:
        raise ConfigRefused(
            f"KL masks with {where}",
            found="FedAvg beside it: the difference of the two sums is the update of those that keep a block",
            expected="one model",
            fix="--set rival=false",
        )


class HeldOut:
    """Mean losses on the held-out batches; nothing is drawn or run before the first is asked for."""

    def __init__(self, w: Tensor, received: Tensor, probe: Probe, count: int) -> None:
        self._w, self._received, self._probe, self._count = w, received, probe, count

    @cached_property
    def _batches(self) -> list[tuple[Any, Outputs]]:
        batches = self._probe.held_out(self._count)
        return [(batch, self._probe.near(self._w, self._received, batch)) for batch in batches]

    def loss(self, names: Collection[str]) -> float:
        """Return the mean loss at w with these parameters as received."""
        return sum(self._probe.loss(outputs(names), batch) for batch, outputs in self._batches) / len(self._batches)


def block_sizes(layout: Layout, blocks: Mapping[str, str]) -> dict[str, int]:
    """Return block -> number of values, in the order of the layout."""
    sizes: dict[str, int] = {}
    for name, size in zip(layout.names, layout.sizes, strict=True):
        sizes[blocks[name]] = sizes.get(blocks[name], 0) + size
    return sizes


def by_value(layout: Layout, blocks: Mapping[str, str], values: Mapping[str, float]) -> Tensor:
    """Return a vector [layout.total] that holds each block's value at all its places, 0 where there is none."""
    each = torch.tensor([values.get(blocks[name], 0.0) for name in layout.names])
    return torch.repeat_interleave(each, torch.tensor(layout.sizes))


def read(layout: Layout, blocks: Mapping[str, str], vector: Tensor | None) -> dict[str, float] | None:
    """Return block -> value of what `by_value` wrote, of a block that is marked in part the mark; None: None."""
    if vector is None:
        return None
    firsts = torch.tensor([0, *layout.sizes[:-1]]).cumsum(0)
    found: dict[str, float] = {}
    for name, value in zip(layout.names, vector.cpu()[firsts].tolist(), strict=True):
        found[blocks[name]] = max(found.get(blocks[name], 0.0), value)
    return found


def _without_rest(values: dict[str, float] | None) -> dict[str, float] | None:
    """Return values without the block "", which is not shared at all."""
    return None if values is None else {b: value for b, value in values.items() if b}


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused("KL masks", found=found, expected=expected, fix="correct `algorithm` in the job")
