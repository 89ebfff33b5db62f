"""Which blocks of a hospital's model differ in effect from the shared ones?

KL masks keep these blocks at the hospital. After local training, every `every` rounds
from `warm_up` on, each block is scored:

    KL_b = mean over calibration batches of
           KL(p(.|x; w) || p(.|x; w with block b as received))

masks.py makes a mask of the scores. Personal blocks start the next round from their own
values and never leave, nor do they in the round in which they become personal. A block
that becomes shared again starts from the received values. In the place of personal
blocks an update holds zeros, and the server divides by ALL hospitals: no mask leaves
the site, and every update has the same layout, so that secure sums and differential
privacy work unchanged. The sum of a block is that of the hospitals that share it, which
may be few, or one.

`home` names roles that stay at home from the start (sharing.py); masks choose among the
other blocks. `choose` is kl, or one of the controls: random, norms, head, and none
(nothing but `home`).

Source: see masks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, final

import torch
from torch import Tensor

from wardround.algorithms.base import MASK, LocalStart, Objective, Steps
from wardround.algorithms.masks import CHOICES, Choice, attention, chosen, drawn
from wardround.algorithms.sharing import ROLES, at_home
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.core.traits import SAME_BLOCKS, STEADY, Traits

# The name in the site's memory under which the attention of the last choice lies.
ATTENTION = "attention"
# The controls that keep all blocks of one role, at every hospital alike.
FIXED: Mapping[str, str] = {"norms": "norm", "head": "head"}
Outputs = Callable[[Collection[str]], Tensor]


class Probe(Objective, Protocol):
    """An objective that can also compare two models."""

    @property
    def label(self) -> str:
        """The site's name, for the random control."""

    @property
    def blocks(self) -> Mapping[str, str]:
        """The block of each parameter."""

    def calibration(self, count: int) -> tuple[Any, ...]:
        """Return the same `count` batches of training patients each time."""

    def held_out(self, count: int) -> tuple[Any, ...]:
        """Return the same `count` batches of validation patients each time."""

    def near(self, w: Tensor, other: Tensor, batch: Any) -> Outputs:
        """Return the network's outputs as a function of parameter names.

        The parameters of these names are those of `other`, all others those of w.
        """

    def divergence(self, p: Tensor, q: Tensor, batch: Any) -> float:
        """Return the mean KL(p || q) of two outputs on one batch."""

    def loss(self, p: Tensor, batch: Any) -> float:
        """Return the loss of outputs on one batch."""


@final
@dataclass(frozen=True)
class KLMask:
    """Dynamic masks, or one of their controls.

    choose: The way to choose blocks; see above.
    home: Roles that never leave.
    every, warm_up: The rounds between choices, and the first round with one.
    rho: The share of the old attention that is kept, at least 0 and below 1.
    enter, leave: The thresholds of masks.py, with 0 < leave <= enter.
    most: The largest personal share of all parameters, above 0 and below 1.
    batches: The batches of the calibration part, and of the held-out part.

    Values outside their ranges raise ConfigRefused.
    """

    choose: Choice
    home: tuple[str, ...]
    every: int
    warm_up: int
    rho: float
    enter: float
    leave: float
    most: float
    batches: int

    def __post_init__(self) -> None:
        # A job's JSON holds a list; a frozen value must be hashable.
        object.__setattr__(self, "home", at_home(self.home))
        absent = [name for name, value in vars(self).items() if value is None]
        whole = all(type(value) is int for value in (self.every, self.warm_up, self.batches))
        counts = whole and self.every >= 1 and self.warm_up >= 0 and self.batches >= 1
        if absent or self.choose not in CHOICES or not counts:
            raise _refused(
                f"{self}",
                f"choose one of {', '.join(CHOICES)}, every and batches 1 or more, warm_up 0 or more",
            )
        if not (0 <= self.rho < 1 and 0 < self.leave <= self.enter and 0 < self.most < 1):
            raise _refused(
                f"rho {self.rho}, enter {self.enter}, leave {self.leave}, most {self.most}",
                "0 <= rho < 1, 0 < leave <= enter, 0 < most < 1",
            )

        # Such a choice would leave no block to share.
        if self.choose in FIXED and set(ROLES) - set(self.home) == {FIXED[self.choose]}:
            raise _refused(
                f"choose {self.choose}, home {list(self.home)}",
                "a choice that is not all that is shared",
            )

    @property
    def home_roles(self) -> tuple[str, ...]:
        return self.home

    @property
    def traits(self) -> Traits:
        if self.choose == "none":
            return Traits()
        # The controls that keep the blocks of one role keep them at every hospital alike, from `warm_up` on.
        return Traits(breaks=frozenset({STEADY} if self.choose in FIXED else {STEADY, SAME_BLOCKS}))

    @property
    def title(self) -> str:
        rest = f", {' and '.join(self.home)} at home" if self.home else ""
        return f"KL masks{'' if self.choose == 'kl' else f' ({self.choose})'}{rest}"

    @property
    def stays(self) -> str:
        always = [ROLES[role] for role in self.home]
        own = f"the blocks that became this hospital's own, at most {self.most:.0%} of the parameters"
        return ", ".join([*always, *([own] if self.choose != "none" else [])])

    def chosen(
        self,
        w: Tensor,
        start: LocalStart,
        objective: Objective,
        steps: Steps,
    ) -> Mapping[str, Tensor]:
        """Return the mask, and for `kl` the attention, after local training to w.

        In rounds in which no choice is due it is empty.
        """
        due = steps.round >= self.warm_up and (steps.round - self.warm_up) % self.every == 0
        if not due or self.choose == "none":
            return {}
        return self._masked(w, start, objective)  # type: ignore[arg-type]

    def _masked(self, w: Tensor, start: LocalStart, probe: Probe) -> dict[str, Tensor]:
        if self.choose in FIXED:
            return {MASK: (start.mask(FIXED[self.choose]) & ~start.mask(*self.home)).to(w.dtype)}
        # Blocks that stay at home by role are one nameless block, which is never
        # scored.
        travels = {name for name in start.layout.names if start.roles[name] not in self.home}
        layout, blocks = (
            start.layout,
            {name: b if name in travels else "" for name, b in probe.blocks.items()},
        )
        sizes = {b: size for b, size in block_sizes(layout, blocks).items() if b}
        # The stream is named after the site, not the round: a hospital keeps its random
        # blocks.
        if self.choose == "random":
            found = drawn(sizes, self.most, stream(0, "random mask", probe.label))
            return {MASK: by_value(layout, blocks, dict.fromkeys(found, 1.0)).to(w)}
        # Compare with the model as it came, not with the start, in which personal
        # blocks are the site's own already.
        received = start.received if start.received is not None else start.variables["model"]
        names = {b: frozenset(n for n in layout.names if blocks[n] == b) for b in sizes}
        # Attention and mask are kept per value in the memory, so that both survive a
        # restart like any other vector.
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
        self,
        w: Tensor,
        received: Tensor,
        names: Mapping[str, Collection[str]],
        probe: Probe,
    ) -> dict[str, float]:
        batches = probe.calibration(self.batches)
        total = dict.fromkeys(names, 0.0)
        for batch in batches:
            outputs = probe.near(w, received, batch)
            p = outputs(())
            for b in total:
                total[b] += probe.divergence(p, outputs(names[b]), batch) / len(batches)
        return total


class HeldOut:
    """Mean losses on held-out batches, drawn only when the first loss is asked for."""

    def __init__(self, w: Tensor, received: Tensor, probe: Probe, count: int) -> None:
        self._w = w
        self._received = received
        self._probe = probe
        self._count = count

    @cached_property
    def _batches(self) -> list[tuple[Any, Outputs]]:
        batches = self._probe.held_out(self._count)
        return [(batch, self._probe.near(self._w, self._received, batch)) for batch in batches]

    def loss(self, names: Collection[str]) -> float:
        """Return the mean loss at w with these parameters as received."""
        return sum(self._probe.loss(outputs(names), batch) for batch, outputs in self._batches) / len(self._batches)


def block_sizes(layout: Layout, blocks: Mapping[str, str]) -> dict[str, int]:
    """Return the number of values of each block, in the order of the layout."""
    sizes: dict[str, int] = {}
    for name, size in zip(layout.names, layout.sizes, strict=True):
        sizes[blocks[name]] = sizes.get(blocks[name], 0) + size
    return sizes


def by_value(layout: Layout, blocks: Mapping[str, str], values: Mapping[str, float]) -> Tensor:
    """Return a vector [layout.total] that holds each block's value at all its places.

    Blocks without a value get 0.
    """
    each = torch.tensor([values.get(blocks[name], 0.0) for name in layout.names])
    return torch.repeat_interleave(each, torch.tensor(layout.sizes))


def read(
    layout: Layout,
    blocks: Mapping[str, str],
    vector: Tensor | None,
) -> dict[str, float] | None:
    """Return the value of each block from a vector that `by_value` wrote.

    A block that is marked only in part counts as marked. None gives None.
    """
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
    fix = "--set sharing.NAME=VALUE: `wardround jobs settings JOB` says what each setting may be"
    return ConfigRefused("KL masks", found=found, expected=expected, fix=fix)
