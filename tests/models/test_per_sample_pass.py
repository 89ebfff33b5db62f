"""Gradients of chosen blocks: equal to a slow loop over patients, and nothing is computed for the others."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wardround.algorithms.train_only import TrainOnly
from wardround.core.errors import ModelRefused
from wardround.models.flat import FlatModel
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.models.roles import shared_layout
from wardround.models.vectors import AddVector, Prepend, Scale
from wardround.models.vit import ViTFusion

Net = Callable[[], nn.Module]
VIT = ViTFusion(
    name="test_vit2", modalities=2, size=(16, 16), columns=3, classes=4, stems="shared", depth=2, fusion_depth=1
)
NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "unet, instance": (UNet3d(channels=(4, 8), residual_units=1), (8, 16, 16, 16)),
    "unet, group": (UNet3d(channels=(4, 8, 16), residual_units=2, norm="group"), (8, 16, 16, 16)),
    "unet, adapters": (UNet3d(channels=(4, 8), adapter_rank=2), (8, 16, 16, 16)),
    "segresnet (in place)": (SegResNet3d(filters=4), (8, 16, 16, 16)),
    "vit, layer scales": (VIT, ()),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(name: str, seed: int) -> nn.Module:
    """A network none of whose parameters is zero: a layer scale of zero would hide what is behind it."""
    module: nn.Module = NETWORKS[name][0].build(seed)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in module.parameters():
            block += 0.05 * torch.randn(block.shape, generator=drawn)
    return module


def inputs(name: str, count: int, seed: int = 0) -> Tensor:
    """Patches, or packed cases of which everything is there."""
    shape = NETWORKS[name][1]
    if shape:
        return randn(count, *shape, seed=seed)
    images, values = randn(count, 2, 16, 16, seed=seed), randn(count, 3, seed=seed)
    return VIT.case.pack(images, torch.ones(count, 2), values, torch.ones(count, 3))


def trainable_blocks(module: nn.Module, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The names of what a job trains that trains these parts alone."""
    return shared_layout(module, TrainOnly(parts).home_roles).names


def losses(logits: Tensor) -> Tensor:
    """A loss per row that is smooth and not linear."""
    return (logits.sin() * torch.linspace(0.5, 1.5, logits[0].numel()).view(logits.shape[1:])).flatten(1).sum(1)


def slow_loop(module: nn.Module, images: Tensor, samples: int, names: tuple[str, ...]) -> Tensor:
    """One patient at a time and one patch at a time by autograd in float64; the patches' mean is the patient's row."""
    module = deepcopy(module).double().train()
    blocks = dict(module.named_parameters())
    rows = []
    for patient in images.double().chunk(samples):
        patches = []
        for patch in patient.split(1):
            asked = [blocks[name] for name in names]
            # asking for the patch's gradient too: PyTorch 2.13 crashes in a GroupNorm that need not go on to its input
            found = torch.autograd.grad(losses(module(patch.requires_grad_())).sum(), [*asked, patch])[:-1]
            patches.append(torch.cat([block.flatten() for block in found]))
        rows.append(torch.stack(patches).mean(0))
    return torch.stack(rows)


@each_network
@pytest.mark.parametrize(("samples", "patches"), [(3, 1), (2, 3), (1, 2)])
@pytest.mark.parametrize("parts", [("affine",), ("head",), ("affine", "head")])
def test_chosen_blocks_of_a_patient_with_several_patches(
    name: str, samples: int, patches: int, parts: tuple[str, ...]
) -> None:
    """Kinks: float32 may tip an activation that float64 does not, so most of the seeds, not all, must agree closely."""
    errors = []
    for seed in range(3):
        module = built(name, seed)
        names = trainable_blocks(module, parts)
        images = inputs(name, samples * patches, seed)
        truth = slow_loop(module, images, samples, names)
        model = FlatModel(module)
        per_sample = PerSample(model, 2, names)
        rows = per_sample.gradients(model.vector, images, losses, samples)[1]
        assert per_sample.layout.names == names
        assert rows.shape == (samples, per_sample.layout.total) == truth.shape
        errors.append(float(((rows.double() - truth).norm(dim=1) / truth.norm(dim=1)).max()))
    assert sorted(errors)[1] < TOLERANCE
    assert max(errors) < 0.05


@each_network
def test_the_chosen_columns_are_those_among_all(name: str) -> None:
    module = built(name, 0)
    model, images = FlatModel(module), inputs(name, 3)
    names = trainable_blocks(module, ("affine",))
    whole = PerSample(model).gradients(model.vector, images, losses, 3)[1]
    some = PerSample(model, blocks=names[::-1]).gradients(model.vector, images, losses, 3)[1]
    at = dict(zip(model.layout.names, torch.split(whole, list(model.layout.sizes), dim=1), strict=True))
    torch.testing.assert_close(some, torch.cat([at[one] for one in names], 1), rtol=1e-4, atol=1e-5)


class Products(TorchDispatchMode):
    """Notes which convolutions are asked for the gradient of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.inputs = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            mask = args[-1]
            self.inputs += mask[0]
            self.weights += mask[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["unet, instance", "segresnet (in place)"])
def test_no_weight_gradient_is_computed_where_no_weight_is_wanted(name: str) -> None:
    module = built(name, 0)
    model, images = FlatModel(module), inputs(name, 2)
    counts = []
    for blocks in (trainable_blocks(module, ("affine",)), None):
        with Products() as seen:
            PerSample(model, blocks=blocks).gradients(model.vector, images, losses, 2)
        counts.append((seen.weights, seen.inputs))
    assert counts[0][0] == 0 < counts[1][0]
    assert 0 < counts[0][1] <= counts[1][1]


class Bypassed(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(2 * input)


LAYERS: dict[str, tuple[Net, tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv3d(4, 6, 3, padding=1), (4, 5, 6, 4)),
    "transposed": (lambda: nn.ConvTranspose3d(4, 6, 3, stride=2), (4, 3, 4, 4)),
    "linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 3, 4)),
    "layer norm": (lambda: nn.LayerNorm((3, 5)), (4, 3, 5)),
    "vectors": (lambda: nn.Sequential(AddVector(torch.ones(1, 4, 5)), Prepend(torch.ones(1, 2, 5))), (4, 5)),
    "scale": (lambda: nn.Sequential(Scale(torch.ones(5)), nn.PReLU()), (4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_single_parameter_alone(name: str) -> None:
    make, shape = LAYERS[name]
    module = make()
    for block in module.parameters():
        nn.init.normal_(block, 0.1, 0.3)
    images = randn(4, *shape)
    for one in dict(module.named_parameters()):
        truth = slow_loop(module, images, 2, (one,))
        model = FlatModel(module)
        rows = PerSample(model, blocks=(one,)).gradients(model.vector, images, losses, 2)[1]
        torch.testing.assert_close(rows.double(), truth, rtol=1e-4, atol=1e-5)


def test_a_layer_of_which_nothing_is_wanted_needs_no_formula() -> None:
    module = nn.Sequential(Bypassed(4, 4), nn.Linear(4, 2))
    with pytest.raises(ModelRefused, match="Bypassed at '0'"):
        PerSample(FlatModel(module))
    model = FlatModel(module)
    per_sample = PerSample(model, blocks=("1.bias", "1.weight"))
    assert per_sample.layout.names == ("1.weight", "1.bias")
    assert per_sample.require_exact(randn(5, 4)) < 1e-6


class Spoiling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y)
        y += 1
        return z


def test_an_input_changed_in_place_matters_where_the_input_is_needed() -> None:
    model = FlatModel(Spoiling())
    with pytest.raises(ModelRefused, match="changed in place"):
        PerSample(model, blocks=("b.weight",)).gradients(model.vector, randn(3, 4), losses, 3)
    images = randn(3, 4)
    rows = PerSample(model, blocks=("b.bias",)).gradients(model.vector, images, losses, 3)[1]
    with torch.no_grad():
        truth = model.module(images).cos() * torch.linspace(0.5, 1.5, 4)
    torch.testing.assert_close(rows, truth)


@pytest.mark.parametrize(("blocks", "word"), [((), "none"), (("0.weight", "0.wieght"), "'0.wieght'")])
def test_blocks_that_the_network_does_not_have_are_refused(blocks: tuple[str, ...], word: str) -> None:
    with pytest.raises(ModelRefused, match=word):
        PerSample(FlatModel(nn.Sequential(nn.Linear(3, 2))), blocks=blocks)


def test_no_sample_of_chosen_blocks() -> None:
    model = FlatModel(nn.Linear(3, 2))
    values, rows = PerSample(model, blocks=("bias",)).gradients(model.vector, torch.zeros(0, 3), losses, 0)
    assert (values.shape, rows.shape) == ((0,), (0, 2))
