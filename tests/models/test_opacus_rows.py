"""The slow road: equal to a loop over patients, chosen where there is no formula, refused where Opacus is not exact."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from wardround.core.errors import ModelRefused
from wardround.models.flat import FlatModel
from wardround.models.nets import UNet3d
from wardround.models.opacus_rows import GradSamples, patient_rows, slow_reason
from wardround.models.per_sample import TOLERANCE, PerSample

Net = Callable[[], nn.Module]
RELU = ("leakyrelu", {"negative_slope": 0.1, "inplace": False})


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def losses(logits: Tensor) -> Tensor:
    """A loss per row that is smooth and not linear."""
    return (logits.sin() * torch.linspace(0.5, 1.5, logits[0].numel()).view(logits.shape[1:])).flatten(1).sum(1)


def slow_loop(module: nn.Module, images: Tensor, samples: int) -> Tensor:
    """One patient at a time by autograd in float64; a patient's loss is the mean over its rows."""
    module = deepcopy(module).double().train()
    rows = []
    for patient in images.double().chunk(samples):
        found = torch.autograd.grad(losses(module(patient)).mean(), list(module.parameters()))
        rows.append(torch.cat([block.flatten() for block in found]))
    return torch.stack(rows)


class Reflecting(nn.Conv3d):
    """A class of the user's own: whatever its parent's formula is, it does not hold here."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(2 * input)


class Calibrated(nn.Module):
    """A bare parameter that is not [1, ...], beside a layer inside the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.inner = nn.Parameter(torch.full((4,), 1.5)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.tanh(x)) * self.gain


def monai_unet() -> nn.Module:
    """MONAI's UNet with borders that are replicated, which no formula covers."""
    module = UNet(3, 2, 3, (4, 8), (2,), num_res_units=1, act=RELU, norm=("instance", {"affine": True}))
    for part in module.modules():
        if type(part) is nn.Conv3d and any(part.padding):
            part.padding_mode = "replicate"
    return module


NETWORKS: dict[str, tuple[Net, tuple[int, ...]]] = {
    "a monai unet that replicates its borders": (monai_unet, (2, 8, 8, 8)),
    "reflecting convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.PReLU(), nn.Conv2d(4, 2, 1)),
        (3, 6, 5),
    ),
    "padding same": (lambda: nn.Sequential(nn.Conv3d(2, 3, 3, padding="same"), nn.GroupNorm(1, 3)), (2, 4, 5, 6)),
    "a subclass": (lambda: nn.Sequential(Reflecting(2, 3, 3), nn.PReLU(3)), (2, 4, 5, 6)),
    "a bare parameter": (lambda: nn.Sequential(nn.Linear(4, 4), Calibrated()), (4,)),
    "called twice": (lambda: (lambda one: nn.Sequential(one, nn.Tanh(), one))(Calibrated()), (4,)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("samples", "rows", "pad_multiple"), [(3, 1, 1), (2, 2, 1), (3, 1, 2)])
def test_a_row_is_the_gradient_of_its_patient(name: str, samples: int, rows: int, pad_multiple: int) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    model = FlatModel(make())
    images = randn(samples * rows, *shape)
    per_sample = patient_rows(model, pad_multiple)
    assert isinstance(per_sample, GradSamples)
    assert per_sample.layout == model.layout
    found = per_sample.gradients(model.vector, images, losses, samples)[1]
    truth = slow_loop(model.module, images, samples)
    assert float(((found.double() - truth).norm(dim=1) / truth.norm(dim=1)).max()) < TOLERANCE
    assert per_sample.require_exact(randn(5, *shape)) < TOLERANCE


def test_chosen_blocks_alone() -> None:
    model = FlatModel(nn.Sequential(Reflecting(2, 3, 3), nn.GroupNorm(1, 3)))
    images = randn(4, 2, 4, 5, 6)
    names = ("0.bias", "0.weight")
    found = patient_rows(model, blocks=names)
    assert found.layout.names == names[::-1]
    rows = found.gradients(model.vector, images, losses, 2)[1]
    truth = slow_loop(model.module, images, 2)[:, : found.layout.total]
    torch.testing.assert_close(rows.double(), truth, rtol=1e-4, atol=1e-5)


def test_both_roads_agree_and_the_fast_one_is_taken_where_it_is_known() -> None:
    model = FlatModel(UNet3d(channels=(4, 8), norm="group").build(0))
    assert slow_reason(model) is None
    assert isinstance(patient_rows(model), PerSample)
    unknown = FlatModel(nn.Sequential(Reflecting(2, 3, 3), nn.GroupNorm(1, 3)))
    assert slow_reason(unknown) == "Reflecting at '0' (weight)"
    assert slow_reason(unknown, ("1.weight", "1.bias")) is None
    assert isinstance(patient_rows(unknown, blocks=("1.weight",)), PerSample)
    same = FlatModel(nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.PReLU()))
    images = randn(4, 2, 4, 5, 6)
    fast, slow = (road(same).gradients(same.vector, images, losses, 2) for road in (PerSample, GradSamples))
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    model = FlatModel(nn.Sequential(Reflecting(2, 3, 3), nn.GroupNorm(1, 3)))
    model.grad.fill_(7.0)
    images = randn(3, 2, 4, 5, 6)
    before = [dict(part.__dict__) for part in model.module.modules()]
    first = GradSamples(model).gradients(model.vector, images, losses, 3)[1]
    assert torch.equal(model.grad, torch.full_like(model.grad, 7.0))
    for part, kept in zip(model.module.modules(), before, strict=True):
        assert part.__dict__.keys() == kept.keys()
        assert not part._forward_hooks
        assert not part._backward_hooks
    assert all(block.requires_grad and not vars(block) for block in model.module.parameters())
    mean = model.value_and_grad(model.vector, images, lambda out: losses(out).mean())[1]
    torch.testing.assert_close(first.mean(0), mean, rtol=1e-4, atol=1e-5)
    assert torch.equal(first, GradSamples(model).gradients(model.vector, images, losses, 3)[1])


def test_with_as_many_rows_in_every_pass_a_row_does_not_depend_on_who_is_there() -> None:
    model = FlatModel(monai_unet())
    per_sample, images = patient_rows(model, 1, slow_multiple=4), randn(4, 2, 8, 8, 8)
    alone = [per_sample.gradients(model.vector, images[i : i + 1], losses, 1)[1][0] for i in range(4)]
    for chosen in ((0, 1, 2, 3), (2, 1), (3, 0, 1)):
        rows = per_sample.gradients(model.vector, images[list(chosen)], losses, len(chosen))[1]
        for index, row in zip(chosen, rows, strict=True):
            torch.testing.assert_close(row, alone[index], rtol=1e-5, atol=1e-6)


def test_no_sample() -> None:
    model = FlatModel(nn.Sequential(Reflecting(2, 3, 3)))
    values, rows = GradSamples(model).gradients(model.vector, torch.zeros(0, 2, 4, 4, 4), losses, 0)
    assert (values.shape, rows.shape) == ((0,), (0, model.layout.total))


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Calibrated()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - x.mean(0, keepdim=True)) ** 2 + self.inner(x)


class Bypassing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Calibrated()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.inner.gain


class Constant(nn.Module):
    """A parameter and a constant table in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((4,), 1.5))
        self.register_buffer("order", torch.arange(4).flip(0))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.order] * self.gain


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = Calibrated(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Calibrated()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.inner(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(Calibrated(), nn.ReLU(inplace=True)), "ReLU at '1', which changes its input in place"),
        (lambda: nn.Sequential(Calibrated(), nn.Dropout(0.5)), "Dropout at '1'"),
    ],
)
def test_refused_before_anything_runs(make: Net, words: str) -> None:
    with pytest.raises(ModelRefused, match=words):
        patient_rows(FlatModel(make()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Mixing, "differ from autograd"),
        (Bypassing, "differ from autograd"),
        (InPlace, "Opacus cannot compute"),
        (Constant, "Opacus cannot compute"),
        (Skipping, "'idle.weight', which no layer uses"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2)), "Opacus cannot compute"),
    ],
)
def test_refused_when_it_is_tried(make: Net, words: str) -> None:
    model = FlatModel(make())
    with pytest.raises(ModelRefused, match=words):
        patient_rows(model).require_exact(randn(5, 4))
    assert not any(part._forward_hooks for part in model.module.modules())


def test_batch_norms_are_refused_on_every_road() -> None:
    with pytest.raises(ModelRefused, match="BatchNorm3d"):
        patient_rows(FlatModel(nn.Sequential(Reflecting(2, 3, 3), nn.BatchNorm3d(3))))


def test_nothing_loads_opacus_where_every_layer_has_a_formula() -> None:
    program = (
        "import sys, torch\n"
        "from wardround.models.flat import FlatModel\n"
        "from wardround.models.nets import UNet3d\n"
        "from wardround.models.opacus_rows import patient_rows\n"
        "import wardround.training.dp_training, wardround.training.client\n"
        "patient_rows(FlatModel(UNet3d(channels=(4, 8)).build(0))).require_exact(torch.randn(2, 8, 8, 8, 8))\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'opacus']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
