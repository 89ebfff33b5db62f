"""How do hooks fill one row per sample during one forward and backward pass?

A hook at the output of every layer with wanted parameters computes their gradients for
all samples (layer_gradients.py) and drops x and g at once. What belongs to no wanted
parameter is neither kept nor computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wardround.core.arrays import Layout
from wardround.core.errors import ModelRefused
from wardround.core.threads import one_thread
from wardround.models.layer_gradients import formula, needs_input


class Wanted(NamedTuple):
    """A layer, and the names of its own parameters whose gradients are wanted."""

    part: nn.Module
    keys: frozenset[str]


class _Seen(NamedTuple):
    """What a layer was given: its rows, the input if a formula needs it, its version."""

    rows: int
    x: Tensor | None
    version: int


@dataclass
class Pass:
    """The hooks of one forward and backward pass, and the matrix they fill."""

    layers: Mapping[str, Wanted]
    at: Mapping[int, slice]
    rows: Tensor
    count: int
    shown: int
    serial: bool
    ran: set[str] = field(default_factory=set)

    @contextmanager
    def tapped(self) -> Iterator[None]:
        handles = [part.register_forward_hook(self._tap(name)) for name, (part, _) in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if skipped := sorted(set(self.layers) - self.ran):
            raise refused(
                f"layer {skipped[0]!r}, which has parameters but is not called",
                "call it, or remove it",
            )

    def _tap(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        needed = needs_input(self.layers[name].keys)

        def hook(part: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
            self.ran.add(name)
            seen = _Seen(len(given[0]), given[0].detach() if needed else None, given[0]._version)
            if not out.requires_grad:
                out = _Source.apply(out, torch.zeros((), requires_grad=True))  # type: ignore[no-untyped-call]
            out.register_hook(lambda g: self._collect(name, part, seen, g))  # type: ignore[no-untyped-call]
            return out

        return hook

    def _collect(self, name: str, part: nn.Module, seen: _Seen, g: Tensor) -> None:
        how, samples = formula(part), len(self.rows)
        # PyTorch counts changes in place: another version means that x is not what the
        # layer saw.
        changed = seen.x is not None and seen.x._version != seen.version
        if how is None or changed:
            raise refused(
                f"{name!r}, whose input is changed in place before its gradient is known",
                "inplace=False",
            )
        if len(g) % self.shown or seen.rows != len(g):
            raise refused(
                f"{name!r}, whose first axis is not the batch",
                "keep [B, ...] in every layer",
            )
        own = len(g) // self.shown * self.count
        # Where no input was kept, the formula of a shift does not look at it.
        x, g = (g if seen.x is None else seen.x)[:own], g[:own]
        with torch.no_grad(), one_thread() if self.serial else nullcontext():
            for key, block in how(part, x, g, samples, self.layers[name].keys).items():
                self.rows[:, self.at[id(getattr(part, key))]] += block.reshape(samples, -1)


class _Source(torch.autograd.Function):
    """The identity as a copy: where the graph begins if nothing asks for gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, start: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient inside; each asks as before afterwards."""
    blocks = list(module.parameters())
    asked = [block.requires_grad for block in blocks]
    for block in blocks:
        block.requires_grad_(False)
    try:
        yield
    finally:
        for block, flag in zip(blocks, asked, strict=True):
            block.requires_grad_(flag)


@contextmanager
def seeded(dropout_seed: int | None) -> Iterator[None]:
    """Draw dropout from this seed inside the block, and leave torch's generators as they
    were; None draws from them as they are.
    """
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices, enabled=dropout_seed is not None):
        if dropout_seed is not None:
            torch.manual_seed(dropout_seed)
        yield


def chosen_layout(whole: Layout, blocks: Collection[str] | None) -> Layout:
    """Return the part of a network's layout that these blocks make, in its own order.

    None is all of it. ModelRefused is raised for no block, and for an unknown name.
    """
    if blocks is None:
        return whole
    unknown = sorted(set(blocks) - set(whole.names))
    if unknown or not blocks:
        raise ModelRefused(
            "the parameters whose gradients are wanted",
            found=f"{unknown[0]!r}, which the network does not have" if unknown else "none",
            expected=f"one or more of its {len(whole.names)} blocks, such as {whole.names[0]!r}",
            fix="name blocks of this network, for example those that wardround.models.roles.shared_layout lists",
        )
    shapes = {name: shape for name, shape in zip(whole.names, whole.shapes, strict=True) if name in blocks}
    return Layout(tuple(shapes), tuple(shapes.values()))


def covered(
    module: nn.Module,
    wanted: Collection[nn.Parameter],
) -> tuple[dict[str, Wanted], dict[str, nn.Parameter]]:
    """Return (layers with a formula, parameters that every row is given), by name.

    Both hold what is wanted alone. ModelRefused is raised for a wanted parameter that
    is neither.
    """
    if without := without_formula(module, wanted):
        raise refused(*without)
    layers: dict[str, Wanted] = {}
    tokens: dict[str, nn.Parameter] = {}
    for name, part, own in _owners(module, wanted):
        if formula(part):
            layers[name] = Wanted(part, frozenset(own))
        else:
            tokens |= {f"{name}.{key}" if name else key: block for key, block in own.items()}
    return layers, tokens


def without_formula(module: nn.Module, wanted: Collection[nn.Parameter]) -> tuple[str, str] | None:
    """Return (the first wanted parameter that nothing covers, what to do); None if all are.

    Covered are layers with a formula, and parameters [1, ...] of any module.
    """
    for name, part, own in _owners(module, wanted):
        for key, block in own.items():
            if not formula(part) and (block.dim() < 2 or block.shape[0] != 1):
                fix = _FIXES.get(type(part).__name__, _FIX)
                return f"{type(part).__name__} at {name!r} ({key})", fix
    return None


def _owners(
    module: nn.Module,
    wanted: Collection[nn.Parameter],
) -> Iterator[tuple[str, nn.Module, dict[str, nn.Parameter]]]:
    ids = {id(block) for block in wanted}
    for name, part in module.named_modules():
        own = {key: block for key, block in part.named_parameters(recurse=False) if id(block) in ids}
        if own:
            yield name, part, own


_FIX = "build it of Linear, convolutions padded with zeros, GroupNorm, InstanceNorm, LayerNorm and PReLU"
_FIXES = {
    **dict.fromkeys(
        ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
        "replace it by nn.GroupNorm",
    ),
    "MultiheadAttention": "write the attention with nn.Linear and scaled_dot_product_attention, as timm does",
    "Embedding": "give positions as a parameter [1, N, D]",
}


def refused(found: str, fix: str) -> ModelRefused:
    """Return the refusal of a network without gradients of single patients."""
    return ModelRefused(
        "a network whose patients cannot be told apart",
        found=found,
        expected="layers that treat every row of the batch alone and have a formula for their weight gradients",
        fix=fix,
    )
