"""What is the gradient of every sample of a batch, in ONE forward and backward pass?

The parameters are frozen for the pass, so autograd computes no summed weight gradient.
Instead, a hook at the output of every layer with parameters computes the gradients of
all samples (per_sample_pass.py). Where a job trains some of the parameters alone
(roles.py), nothing is computed for the others: a step that trains scales, shifts
and biases forms no weight gradient at all, and costs less than a plain one. Two passes (norms first,
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
from collections.abc import Callable, Collection, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wardround.core.arrays import Layout
from wardround.models.flat import FlatModel
from wardround.models.per_sample_pass import Pass, chosen_layout, covered, frozen, refused, seeded

Losses = Callable[[Tensor], Tensor]
Run = Callable[[Tensor, Losses, int], tuple[Tensor, Tensor]]
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
    blocks: The names of the parameters whose gradients are wanted, in any order; None
        for all. A layer of which nothing is wanted needs no formula. ModelRefused is
        raised for a name that the network does not have, and for no name.
    layout: Names and shapes of a row, in the order of the model's own layout.
    """

    def __init__(
        self,
        model: FlatModel,
        pad_multiple: int = 1,
        blocks: Collection[str] | None = None,
    ) -> None:
        self._model, self._pad_multiple = model, pad_multiple
        self._serial = True
        self.layout: Layout = chosen_layout(model.layout, blocks)
        wanted = dict(model.module.named_parameters())
        self._wanted = [wanted[name] for name in self.layout.names]
        self._layers, self._tokens = covered(model.module, self._wanted)
        stops = torch.tensor(self.layout.sizes).cumsum(0).tolist()
        ends = zip(self._wanted, [0, *stops], stops, strict=False)
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

        w: all of the model's weights, also where some blocks alone are wanted.
        images: [S x R, ...]; sample s owns the rows s R .. s R + R - 1.
        losses: Returns one loss per row of logits, each a function of its own row. A
            sample's loss is the mean over its rows, and its gradient the mean of
            theirs: R patches of one patient are averaged before anybody takes a norm.
        samples: S; with 0 nothing runs.

        Both results are new tensors. One volume on a CPU is computed beside a copy even
        if pad_multiple = 1, because PyTorch is slow at single small volumes.
        ModelRefused is raised for a layer that is skipped, or whose input is changed in
        place before its gradient is known.
        """
        self._model.load(w)
        self._model.module.train()
        if samples == 0:
            return w.new_zeros(0), w.new_zeros(0, self.layout.total)
        with seeded(dropout_seed):
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
        return exactness(self._model.module.eval(), self._wanted, images, self._run)

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
        rows = torch.zeros(samples, self.layout.total, device=images.device)
        tokens = {
            name: block.detach().expand(len(images), *block.shape[1:]).contiguous().requires_grad_()
            for name, block in self._tokens.items()
        }
        with (
            frozen(module),
            Pass(self._layers, self._at, rows, count, shown, self._serial).tapped(),
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


def exactness(module: nn.Module, wanted: Sequence[nn.Parameter], images: Tensor, run: Run) -> float:
    """Return the median relative difference of `run` to autograd over images [S, ...].

    ModelRefused is raised above TOLERANCE (PerSample.require_exact says why the median).

    wanted: the parameters of a row, in their order.
    run: returns (losses, rows) of images, a loss per row of logits, and S.
    """
    direction = torch.Generator().manual_seed(0)

    def losses(logits: Tensor) -> Tensor:
        weights = torch.randn(
            logits.shape[1:],
            generator=direction.manual_seed(0),
        ).to(logits)
        return (logits * weights).flatten(1).sum(1)

    _, found = run(images, losses, len(images))
    errors = []
    for index, row in enumerate(found):
        # asking for the image's gradient too: PyTorch 2.13 crashes in a GroupNorm that need not go on to its input
        image = images[index : index + 1].clone(memory_format=torch.preserve_format).requires_grad_()
        alone = torch.autograd.grad(
            losses(module(image).float()).sum(),
            [*wanted, image],
        )[:-1]
        truth = torch.cat([block.reshape(-1) for block in alone])
        errors.append(float((row - truth).norm() / truth.norm().clamp(min=1e-30)))
    error = statistics.median(errors)
    if not error <= TOLERANCE:
        raise refused(
            f"gradients that differ from autograd by {error:.1e}",
            "remove what mixes patients, or changes values in place",
        )
    return error
