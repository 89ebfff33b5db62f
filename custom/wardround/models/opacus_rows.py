"""Gradients of single patients where a layer has no formula: the slow road, by Opacus.

`patient_rows` chooses. PerSample (per_sample.py) is the road of every network that it
knows. Any other network goes through Opacus' GradSampleModule, which computes each
layer once more for every row by torch.func: on the U-Net of the jobs that takes 1.7
times as long as PerSample (docs/results.md). It costs time and changes no promise.

Opacus is not exact for every network either. Refused at once are layers that change
their input in place (its hooks do not see the old values) and dropout; batch norms,
which no patient owns alone, FlatModel refuses already. `require_exact` refuses layers
with parameters and buffers, and everything whose rows differ from autograd on made-up
images.
Source: Yousefpour et al. 2021, arXiv:2109.12298.
Deviations: 1. The hooks are there during a pass alone, so that plain training of the
same network goes its usual way. 2. torch.func for every layer: Opacus' own formulas
ignore, for example, how a convolution is padded.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from wardround.core.arrays import Layout
from wardround.core.errors import ModelRefused
from wardround.models.flat import FlatModel
from wardround.models.per_sample import Losses, PerSample, exactness
from wardround.models.per_sample_pass import chosen_layout, refused, seeded, without_formula


def patient_rows(
    model: FlatModel,
    pad_multiple: int = 1,
    blocks: Collection[str] | None = None,
    *,
    slow_multiple: int | None = None,
) -> PerSample | GradSamples:
    """Return the fast road where every wanted layer has a formula, the slow one elsewhere.

    ModelRefused is raised where neither is exact.

    pad_multiple, blocks: as in PerSample.
    slow_multiple: pad_multiple of the slow road; None: the same.
    """
    if slow_reason(model, blocks) is None:
        return PerSample(model, pad_multiple, blocks)
    return GradSamples(model, pad_multiple if slow_multiple is None else slow_multiple, blocks)


def slow_reason(model: FlatModel, blocks: Collection[str] | None = None) -> str | None:
    """Return the first wanted layer without a formula, as a person reads it; None if there is none."""
    found = without_formula(model.module, _wanted(model, chosen_layout(model.layout, blocks)))
    return None if found is None else found[0]


@final
class GradSamples:
    """What PerSample is, by Opacus; the arguments and results are the same.

    ModelRefused is raised at once for layers that change their input in place, and for
    dropout.
    pad_multiple: Every pass is filled up to a multiple of this with copies of the first
        row. With as many rows in every pass, a row does not depend on how many patients
        are there.
    """

    def __init__(
        self,
        model: FlatModel,
        pad_multiple: int = 1,
        blocks: Collection[str] | None = None,
    ) -> None:
        self._model, self._pad_multiple = model, pad_multiple
        self.layout: Layout = chosen_layout(model.layout, blocks)
        self._wanted = _wanted(model, self.layout)
        for name, part in model.module.named_modules():
            if isinstance(part, _DropoutNd) and part.p > 0:
                raise refused(f"{type(part).__name__} at {name!r}, beside a layer without a formula", "dropout 0")
            if getattr(part, "inplace", False):
                raise refused(
                    f"{type(part).__name__} at {name!r}, which changes its input in place, beside a layer without a formula",
                    "inplace=False (in MONAI: an activation as a list of its name and its settings)",
                )

    def gradients(
        self,
        w: Tensor,
        images: Tensor,
        losses: Losses,
        samples: int,
        *,
        dropout_seed: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (losses [S], gradients [S, layout.total]) at w, as PerSample does."""
        self._model.load(w)
        self._model.module.train()
        if samples == 0:
            return w.new_zeros(0), w.new_zeros(0, self.layout.total)
        with seeded(dropout_seed):
            return self._run(images, losses, samples)

    def pick_pace(self, images: Tensor, repeats: int = 3) -> bool:
        """Return False: torch.func shares its work out as PyTorch does, and there is no choice."""
        return False

    def require_exact(self, images: Tensor) -> float:
        """Return the median relative difference to autograd over images [S, ...].

        ModelRefused is raised above TOLERANCE, as PerSample does, and for a network that
        Opacus cannot compute at all.
        """
        # In train mode: Opacus looks at nothing in evaluation, and no dropout is there.
        module = self._model.module.train()
        try:
            return exactness(module, self._wanted, images, self._run)
        except (RuntimeError, TypeError, AttributeError, ValueError, NotImplementedError) as error:
            if isinstance(error, ModelRefused):
                raise
            raise refused(
                f"a network that Opacus cannot compute ({str(error).partition(chr(10))[0][:160]})",
                "give every layer one tensor [B, ...] in and one out, without changes in place",
            ) from error

    def _run(self, images: Tensor, losses: Losses, samples: int) -> tuple[Tensor, Tensor]:
        count = len(images)
        shown = -(-count // self._pad_multiple) * self._pad_multiple
        if shown > count:
            images = torch.cat([images, images[:1].expand(shown - count, *images.shape[1:])])
            if images.dim() == 5:
                images = images.contiguous(memory_format=torch.channels_last_3d)
        with self._hooked() as module:
            by_sample = losses(module(images)[:count].float()).reshape(samples, -1).mean(1)
            by_sample.sum().backward()  # type: ignore[no-untyped-call]
            rows = [self._row(block, count, shown, samples) for block in self._wanted]
        return by_sample.detach(), torch.cat(rows, 1)

    def _row(self, block: nn.Parameter, count: int, shown: int, samples: int) -> Tensor:
        found = getattr(block, "grad_sample", None)
        if not isinstance(found, Tensor):
            name = self.layout.names[[id(one) for one in self._wanted].index(id(block))]
            raise refused(f"parameter {name!r}, which no layer uses", "call its layer, or remove it")
        if len(found) % shown:
            raise refused(
                "a layer whose first axis is not the batch",
                "keep [B, ...] in every layer",
            )
        # Rows of one patient lie side by side, also where a layer splits a row into several.
        own = found[: len(found) // shown * count]
        return own.reshape(samples, -1, block.numel()).sum(1)

    @contextmanager
    def _hooked(self) -> Iterator[Any]:
        """Give the network Opacus' hooks, and take them and their results away again."""
        # A job without differential privacy never loads it.
        from opacus.grad_sample import GradSampleModule

        module = self._model.module
        blocks = list(module.parameters())
        kept = [(block.requires_grad, block.grad) for block in blocks]
        asked = {id(block) for block in self._wanted}
        for block in blocks:
            block.requires_grad_(id(block) in asked)
            block.grad = None
        with warnings.catch_warnings():
            # The first layer's input asks for no gradient, which PyTorch remarks on.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            wrapped = GradSampleModule(module, loss_reduction="sum", force_functorch=True)
            try:
                yield wrapped
            finally:
                wrapped.remove_hooks()
                for part in module.modules():
                    part.__dict__.pop("activations", None)
                    part.__dict__.pop("max_batch_len", None)
                for block, (flag, grad) in zip(blocks, kept, strict=True):
                    for name in ("grad_sample", "_current_grad_sample", "_forward_counter"):
                        block.__dict__.pop(name, None)
                    block.requires_grad_(flag)
                    block.grad = grad


def _wanted(model: FlatModel, layout: Layout) -> list[nn.Parameter]:
    blocks = dict(model.module.named_parameters())
    return [blocks[name] for name in layout.names]
