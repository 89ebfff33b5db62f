"""What is the gradient of every sample of a batch, in ONE forward and backward pass?

The parameters are frozen for the pass, so autograd computes no summed weight gradient.
Instead, a hook at the output of every layer with parameters computes the gradients of
all samples (layer_gradients.py) and drops x and g at once. Two passes (norms first,
then a reweighted loss, as ghost clipping does) go through the network backwards twice;
they pay only where S x parameters does not fit the memory, for which fewer samples at a
time can be asked for.

A row is the gradient of THAT sample alone only if no layer mixes samples.
`require_exact` tests this against autograd on made-up images, one sample at a time, for
the network at hand: a job should call it once. Bit for bit a row can still depend on
the others: where a sum is shared out among the threads of a CPU, the places of the cuts
depend on the size of the batch. Passes whose number of rows is a multiple of the
threads (`pad_multiple`) cut between rows.

Sources: Goodfellow 2015, arXiv:1510.01799; Yousefpour et al. 2021, arXiv:2109.12298
(Opacus: hooks per layer).
Deviations: 1. There is no summed gradient beside the single ones. 2. The formulas of
convolutions (layer_gradients.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wardround.core.errors import ModelRefused
from wardround.core.threads import one_thread
from wardround.models.flat import FlatModel
from wardround.models.layer_gradients import formula

Losses = Callable[[Tensor], Tensor]
# Far above float32 rounding, far below what a layer that mixes samples shows.
TOLERANCE = 1e-4


@final
class PerSample:
    """The gradients of single samples of a FlatModel, float32 without autocast.

    A parameter [1, ...] of a module without a formula (a class token, positions) is
    given to every row as a copy, which is exact where the module broadcasts it over the
    batch. Any other such parameter raises ModelRefused, by name, at once.
    pad_multiple: Every pass is filled up to a multiple of this with copies of the first
        row, whose logits are unused. On the U-Net, pad_multiple = threads gives a row
        the same bits on a CPU whoever else is in the batch.
    """

    def __init__(self, model: FlatModel, pad_multiple: int = 1) -> None:
        self._model, self._pad_multiple = model, pad_multiple
        self._serial = True
        self._layers, self._tokens = _covered(model.module)
        stops = torch.tensor(model.layout.sizes).cumsum(0).tolist()
        ends = zip(model.module.parameters(), [0, *stops], stops, strict=False)
        self._at = {id(block): slice(start, stop) for block, start, stop in ends}

    def gradients(
        self,
        w: Tensor,
        images: Tensor,
        losses: Losses,
        samples: int,
        *,
        dropout_seed: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (losses [S], gradients [S, layout.total]) at w, in train mode.

        images: [S x R, ...]; sample s owns the rows s R .. s R + R - 1.
        losses: Returns one loss per row of logits, each a function of its own row. A
            sample's loss is the mean over its rows.
        samples: S; with 0 nothing runs.

        Both results are new tensors. One volume on a CPU is computed beside a copy even
        if pad_multiple = 1, because PyTorch is slow at single small volumes.
        ModelRefused is raised for a layer that is skipped, or whose input is changed in
        place before its gradient is known.
        """
        self._model.load(w)
        self._model.module.train()
        if samples == 0:
            return w.new_zeros(0), w.new_zeros(0, len(w))
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices=devices, enabled=dropout_seed is not None):
            if dropout_seed is not None:
                torch.manual_seed(dropout_seed)
            return self._run(images, losses, samples)

    def pick_pace(self, images: Tensor, repeats: int = 3) -> bool:
        """Time the formulas on one thread and on all; return whether one is faster.

        The formulas are many small steps: sharing them out among threads pays where
        cores are free, and costs more than it saves where others want them (on two busy
        cores 118 ms for 30 ms). Rows change in their last bits at most.
        """
        spent = {True: 0.0, False: 0.0}
        for turn in range(2 * repeats + 2):
            self._serial = turn % 2 == 0
            begun = time.perf_counter()
            self._run(images, lambda logits: logits.flatten(1).mean(1), len(images))
            spent[self._serial] += time.perf_counter() - begun if turn > 1 else 0.0
        self._serial = spent[True] <= spent[False]
        return self._serial

    def require_exact(self, images: Tensor) -> float:
        """Return the median relative difference to autograd over images [S, ...].

        Use five or so made-up images, no patient's; each is tried alone, without
        dropout. It is the median, since float32 alone can tip one activation over its
        kink, which shows at about 1e-3. ModelRefused is raised above TOLERANCE.
        """
        module = self._model.module.eval()
        blocks = list(module.parameters())
        direction = torch.Generator().manual_seed(0)

        def losses(logits: Tensor) -> Tensor:
            weights = torch.randn(
                logits.shape[1:],
                generator=direction.manual_seed(0),
            ).to(logits)
            return (logits * weights).flatten(1).sum(1)

        _, found = self._run(images, losses, len(images))
        errors = []
        for index, row in enumerate(found):
            # asking for the image's gradient too: PyTorch 2.13 crashes in a GroupNorm that need not go on to its input
            image = images[index : index + 1].clone(memory_format=torch.preserve_format).requires_grad_()
            alone = torch.autograd.grad(
                losses(module(image).float()).sum(),
                [*blocks, image],
            )[:-1]
            truth = torch.cat([block.reshape(-1) for block in alone])
            errors.append(float((row - truth).norm() / truth.norm().clamp(min=1e-30)))
        error = statistics.median(errors)
        if not error <= TOLERANCE:
            raise _refused(
                f"gradients that differ from autograd by {error:.1e}",
                "remove what mixes patients, or changes values in place",
            )
        return error

    def _run(self, images: Tensor, losses: Losses, samples: int) -> tuple[Tensor, Tensor]:
        module, count = self._model.module, len(images)
        volumes = images.dim() == 5
        shown = max(
            -(-count // self._pad_multiple) * self._pad_multiple,
            2 if volumes and images.device.type == "cpu" else 1,
        )
        if shown > count:
            images = torch.cat([images, images[:1].expand(shown - count, *images.shape[1:])])
            images = images.contiguous(memory_format=torch.channels_last_3d) if volumes else images
        rows = torch.zeros(samples, self._model.layout.total, device=images.device)
        tokens = {
            name: block.detach().expand(len(images), *block.shape[1:]).contiguous().requires_grad_()
            for name, block in self._tokens.items()
        }
        with (
            _frozen(module),
            _Pass(self._layers, self._at, rows, count, shown, self._serial).tapped(),
        ):
            logits = functional_call(module, tokens, (images,)) if tokens else module(images)
            by_sample = losses(logits[:count].float()).reshape(samples, -1).mean(1)
            by_sample.sum().backward()  # type: ignore[no-untyped-call]
        for name, token in tokens.items():
            if token.grad is not None:
                rows[:, self._at[id(self._tokens[name])]] = (
                    token.grad[:count].reshape(samples, count // samples, -1).sum(1)
                )
        return by_sample.detach(), rows


@dataclass
class _Pass:
    """The hooks of one forward and backward pass, and the matrix they fill."""

    layers: Mapping[str, nn.Module]
    at: Mapping[int, slice]
    rows: Tensor
    count: int
    shown: int
    serial: bool
    ran: set[str] = field(default_factory=set)

    @contextmanager
    def tapped(self) -> Iterator[None]:
        handles = [part.register_forward_hook(self._tap(name)) for name, part in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if skipped := sorted(set(self.layers) - self.ran):
            raise _refused(
                f"layer {skipped[0]!r}, which has parameters but is not called",
                "call it, or remove it",
            )

    def _tap(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(part: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
            x = given[0].detach()
            version = x._version
            self.ran.add(name)
            if not out.requires_grad:
                out = _Source.apply(out, torch.zeros((), requires_grad=True))  # type: ignore[no-untyped-call]
            out.register_hook(lambda g: self._collect(name, part, x, version, g))  # type: ignore[no-untyped-call]
            return out

        return hook

    def _collect(self, name: str, part: nn.Module, x: Tensor, version: int, g: Tensor) -> None:
        how, samples = formula(part), len(self.rows)
        # PyTorch counts changes in place: another version means that x is not what the
        # layer saw.
        if how is None or x._version != version:
            raise _refused(
                f"{name!r}, whose input is changed in place before its gradient is known",
                "inplace=False",
            )
        if len(g) % self.shown or len(x) != len(g):
            raise _refused(
                f"{name!r}, whose first axis is not the batch",
                "keep [B, ...] in every layer",
            )
        own = len(g) // self.shown * self.count
        x, g = x[:own], g[:own]
        with torch.no_grad(), one_thread() if self.serial else nullcontext():
            for key, block in how(part, x, g, samples).items():
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
def _frozen(module: nn.Module) -> Iterator[None]:
    blocks = list(module.parameters())
    asked = [block.requires_grad for block in blocks]
    for block in blocks:
        block.requires_grad_(False)
    try:
        yield
    finally:
        for block, flag in zip(blocks, asked, strict=True):
            block.requires_grad_(flag)


def _covered(module: nn.Module) -> tuple[dict[str, nn.Module], dict[str, nn.Parameter]]:
    """Return (layers with a formula, parameters that every row is given), by name."""
    layers: dict[str, nn.Module] = {}
    tokens: dict[str, nn.Parameter] = {}
    for name, part in module.named_modules():
        own = dict(part.named_parameters(recurse=False))
        if own and formula(part):
            layers[name] = part
            continue
        for key, block in own.items():
            if block.dim() < 2 or block.shape[0] != 1:
                raise _refused(
                    f"{type(part).__name__} at {name!r} ({key})",
                    _FIXES.get(type(part).__name__, _FIX),
                )
            tokens[f"{name}.{key}" if name else key] = block
    return layers, tokens


_FIX = "build it of Linear, convolutions padded with zeros, GroupNorm, InstanceNorm, LayerNorm and PReLU"
_FIXES = {
    **dict.fromkeys(
        ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
        "replace it by nn.GroupNorm",
    ),
    "MultiheadAttention": "write the attention with nn.Linear and scaled_dot_product_attention, as timm does",
    "Embedding": "give positions as a parameter [1, N, D]",
}


def _refused(found: str, fix: str) -> ModelRefused:
    return ModelRefused(
        "a network whose patients cannot be told apart",
        found=found,
        expected="layers that treat every row of the batch alone and have a formula for their weight gradients",
        fix=fix,
    )
