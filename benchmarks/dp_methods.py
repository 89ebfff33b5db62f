"""Ways to the clipped sum of per-patient gradients, for dp_step.py: each returns a function that does one step.

plain            the gradient of the mean loss, no clipping: what DP-SGD is measured against
ours             models/per_sample.py, clipping on the grid, Gaussian noise from OS entropy, division
ours, no noise   the same without noise
affine           as ours, noise included, but scales, shifts and biases alone are trained (algorithms/train_only.py)
affine, no noise the same without noise
two passes       per-patient norms as ours but the rows dropped; a second backward pass with weighted losses
opacus hooks     GradSampleModule as it comes, rows clipped and summed; no noise
opacus ghost     GradSampleModuleFastGradientClipping: norms, then a second backward pass with weighted losses; no
                 noise. Opacus has a norm formula for Linear and Embedding only: here it makes rows layer by layer
functorch        torch.func.vmap over grad; no noise
pairs            one patient after the other, a copy beside him (a single volume is slow); no noise
singles          one patient after the other, as he is; no noise
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common import say

Step = Callable[[], Tensor]
CLIP = 1.0


@dataclass(frozen=True)
class Setting:
    """A network with its weights, and one batch of drawn patches."""

    model: Any
    w: Tensor
    images: Tensor
    targets: Tensor
    known: Tensor


def setting(patients: int, patch: int, seed: int = 0) -> Setting:
    """Return the flagship network and a batch of made-up patches."""
    from wardround.models.flat import FlatModel
    from wardround.models.nets import UNet3d

    torch.manual_seed(seed)
    model = FlatModel(UNet3d().build(seed))
    images = torch.randn(patients, 8, patch, patch, patch).contiguous(memory_format=torch.channels_last_3d)
    targets = (torch.rand(patients, 3, patch, patch, patch) < 0.2).to(torch.uint8)
    return Setting(model, model.vector.clone(), images, targets, torch.ones(patients, 3, dtype=torch.bool))


def _losses(s: Setting, logits: Tensor, rows: slice = slice(None)) -> Tensor:
    from wardround.tasks.loss import dice_bce_by_patient

    return dice_bce_by_patient(logits, s.targets[rows], s.known[rows])


def _sizes(s: Setting) -> list[tuple[str, int]]:
    return list(zip(s.model.layout.names, s.model.layout.sizes, strict=True))


def clipped(rows: Tensor) -> Tensor:
    """Return the sum of rows clipped to CLIP, float32."""
    return (CLIP / rows.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0) @ rows


def plain(s: Setting) -> Step:
    return lambda: s.model.value_and_grad(s.w, s.images, lambda out: _losses(s, out).mean())[1]


def _ours(s: Setting, noise: bool, blocks: Sequence[str] | None = None) -> Step:
    from wardround.dp.dp_sgd import PatientDP, clipped_sum, noised_mean
    from wardround.models.per_sample import PerSample

    many, promise = len(s.images), PatientDP(CLIP, 1.0, 0.05, 20 * len(s.images))
    per_sample = PerSample(s.model, torch.get_num_threads(), blocks)
    size = per_sample.layout.total
    say(f"formulas on {'one thread' if per_sample.pick_pace(s.images) else 'all threads'}")

    def step() -> Tensor:
        rows = per_sample.gradients(s.w, s.images, lambda out: _losses(s, out), many)[1]
        if noise:
            return noised_mean([rows], promise, size).float()
        return (clipped_sum([rows], promise, size) * promise.step(size)).float()

    return step


def ours(s: Setting) -> Step:
    return _ours(s, noise=True)


def ours_without_noise(s: Setting) -> Step:
    return _ours(s, noise=False)


def affine_blocks(s: Setting) -> tuple[str, ...]:
    """Return the names of the network's scales, shifts and biases."""
    from wardround.algorithms.train_only import TrainOnly
    from wardround.models.roles import shared_layout

    return shared_layout(s.model.module, TrainOnly(("affine",)).home_roles).names


def affine(s: Setting) -> Step:
    return _ours(s, True, affine_blocks(s))


def affine_without_noise(s: Setting) -> Step:
    return _ours(s, False, affine_blocks(s))


def two_passes(s: Setting) -> Step:
    from wardround.models.per_sample import PerSample

    per_sample, many = PerSample(s.model), len(s.images)

    def step() -> Tensor:
        norms = per_sample.gradients(s.w, s.images, lambda out: _losses(s, out), many)[1].norm(dim=1)
        weights = (CLIP / norms.clamp(min=1e-12)).clamp(max=1.0)
        return s.model.value_and_grad(s.w, s.images, lambda out: (weights * _losses(s, out)).sum())[1]

    return step


def _opacus(s: Setting, functorch: bool) -> Step:
    from opacus.grad_sample import GradSampleModule

    module = GradSampleModule(s.model.module, loss_reduction="sum", force_functorch=functorch)

    def step() -> Tensor:
        s.model.load(s.w)
        module.train()
        module.zero_grad()
        _losses(s, module(s.images)).sum().backward()
        return clipped(torch.cat([block.grad_sample.flatten(1) for block in s.model.module.parameters()], 1))

    return step


def opacus_hooks(s: Setting) -> Step:
    return _opacus(s, functorch=False)


def opacus_functorch(s: Setting) -> Step:
    return _opacus(s, functorch=True)


def opacus_ghost(s: Setting) -> Step:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    module = GradSampleModuleFastGradientClipping(s.model.module, loss_reduction="sum", max_grad_norm=CLIP)

    def step() -> Tensor:
        s.model.load(s.w)
        module.train()
        module.zero_grad()
        losses = _losses(s, module(s.images))
        losses.sum().backward(retain_graph=True)
        weights = module.get_clipping_coef()
        module.zero_grad()
        module.disable_hooks()
        (weights * losses).sum().backward()
        module.enable_hooks()
        return torch.cat([block.grad.flatten() for block in s.model.module.parameters()])

    return step


def functorch(s: Setting) -> Step:
    from torch.func import functional_call, grad, vmap

    from wardround.tasks.loss import dice_bce_by_patient

    module = s.model.module.train()
    blocks = {name: block.detach() for name, block in module.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor, target: Tensor, known: Tensor) -> Tensor:
        return dice_bce_by_patient(functional_call(module, values, (image[None],)), target[None], known[None])[0]

    rows = vmap(grad(loss), in_dims=(None, 0, 0, 0))

    def step() -> Tensor:
        s.model.load(s.w)
        found = rows(blocks, s.images, s.targets, s.known)
        return clipped(torch.cat([found[name].flatten(1) for name in blocks], 1))

    return step


def pairs(s: Setting, blocks: Sequence[str] | None = None) -> Step:
    kept = torch.cat([torch.full((n,), blocks is None or name in blocks) for name, n in _sizes(s)])

    def step() -> Tensor:
        total = torch.zeros(int(kept.sum()))
        for index in range(len(s.images)):
            at = slice(index, index + 1)
            _, g = s.model.value_and_grad(s.w, s.images[at], lambda out, at=at: _losses(s, out, at).sum())
            g = g if blocks is None else g[kept]
            total += g * (CLIP / g.norm().clamp(min=1e-12)).clamp(max=1.0)
        return total

    return step


def singles(s: Setting) -> Step:
    def step() -> Tensor:
        total = torch.zeros_like(s.w)
        for index in range(len(s.images)):
            at = slice(index, index + 1)
            s.model.load(s.w)
            s.model.grad.zero_()
            s.model.module.train()
            _losses(s, s.model.module(s.images[at]), at).sum().backward()
            total += s.model.grad * (CLIP / s.model.grad.norm().clamp(min=1e-12)).clamp(max=1.0)
        return total

    return step


METHODS: dict[str, Callable[[Setting], Step]] = {
    "plain": plain,
    "ours": ours,
    "ours, no noise": ours_without_noise,
    "affine": affine,
    "affine, no noise": affine_without_noise,
    "two passes": two_passes,
    "opacus hooks": opacus_hooks,
    "opacus functorch": opacus_functorch,
    "opacus ghost": opacus_ghost,
    "functorch": functorch,
    "pairs": pairs,
    "singles": singles,
}
NOT_COMPARED = ("plain", "ours", "affine")


def difference(name: str, patients: int, patch: int) -> float:
    """Return how far a method's clipped sum is from that of `pairs`, relative to its norm."""
    made = setting(patients, patch)
    blocks = affine_blocks(made) if name.startswith("affine") else None
    found, expected = METHODS[name](setting(patients, patch))(), pairs(made, blocks)()
    return float((found - expected).norm() / expected.norm())


def memory(name: str, patients: int, patch: int) -> dict[str, float]:
    """Return the peak memory of this process after three steps; run it in a process of its own."""
    from overhead_data import peak_rss_mb

    made = setting(patients, patch)
    before = peak_rss_mb()
    step = METHODS[name](made)
    for _ in range(3):
        step()
    return {"peak_mb": peak_rss_mb(), "steps_mb": peak_rss_mb() - before}
