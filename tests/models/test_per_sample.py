"""Rows against the naive oracle (one sample at a time, autograd), for every layer that is covered; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.core.errors import ModelRefused
from wardround.models.adapters import adapt
from wardround.models.flat import FlatModel
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.models.vectors import AddVector, Prepend, Scale

Net = Callable[[], nn.Module]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def losses(logits: Tensor) -> Tensor:
    """A loss per row that is smooth and not linear."""
    return (logits.sin() * torch.linspace(0.5, 1.5, logits[0].numel()).view(logits.shape[1:])).flatten(1).sum(1)


def naive(module: nn.Module, images: Tensor, samples: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """One sample at a time by autograd. (PyTorch 2.13 crashes in GroupNorm, channels last, if images need no gradient.)"""
    module = deepcopy(module).to(dtype).train()
    rows = []
    for part in images.to(dtype).requires_grad_().chunk(samples):
        module.zero_grad()
        losses(module(part)).mean().backward()
        rows.append(torch.cat([block.grad.flatten() for block in module.parameters()]))
    return torch.stack(rows)


def distance(found: Tensor, truth: Tensor) -> float:
    """The largest distance of a row from the true one, relative to the row."""
    return float(((found.double() - truth).norm(dim=1) / truth.norm(dim=1)).max())


def errors(module: nn.Module, images: Tensor, samples: int, pad_multiple: int = 1) -> tuple[float, float]:
    """The distances from float64 of our rows, and of autograd's own in float32."""
    truth = naive(module, images, samples)
    own = distance(naive(module, images, samples, torch.float32), truth)
    model = FlatModel(module)
    return distance(PerSample(model, pad_multiple).gradients(model.vector, images, losses, samples)[1], truth), own


class Block(nn.Module):
    """A ViT block with a class token and positions, as timm writes it."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 5, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        b, n, c = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        x = x + self.down(functional.gelu(self.up(self.second(x))))
        return self.head(x[:, 0])


class Twice(nn.Module):
    """One layer called twice, and one parameter held by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))


def conv(**changed: object) -> Net:
    return lambda: nn.Conv3d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1, **changed})


def transposed(**changed: object) -> Net:
    return lambda: nn.ConvTranspose3d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **changed})


def adapted(make: Net, rank: int) -> Net:
    def made() -> nn.Module:
        layer = make()
        adapt(layer, rank)
        return layer

    return made


VOLUME = (4, 7, 6, 8)
LAYERS: dict[str, tuple[Net, tuple[int, ...]]] = {
    "conv3d": (conv(), VOLUME),
    "conv3d, stride": (conv(stride=2), VOLUME),
    "conv3d, uneven": (conv(kernel_size=(3, 1, 5), stride=(1, 2, 3), padding=(0, 2, 1), bias=False), VOLUME),
    "conv3d, dilated": (conv(dilation=2, padding=2), VOLUME),
    "conv3d, groups": (conv(groups=2), VOLUME),
    "conv3d, 1": (conv(kernel_size=1, padding=0), VOLUME),
    "conv3d, one slice": (conv(), (4, 1, 6, 8)),
    "transposed3d": (transposed(stride=2, padding=1, output_padding=1), VOLUME),
    "transposed3d, groups": (transposed(stride=(1, 2, 2), groups=2), VOLUME),
    "transposed3d, 1": (transposed(kernel_size=1), VOLUME),
    "conv3d, adapted": (adapted(conv(stride=2), 2), VOLUME),
    "conv3d, 1, adapted": (adapted(conv(kernel_size=1, padding=0, bias=False), 9), VOLUME),
    "transposed3d, adapted": (adapted(transposed(stride=2, padding=1, output_padding=1), 2), VOLUME),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1), (3, 9, 8)),
    "transposed2d": (lambda: nn.ConvTranspose2d(3, 5, 2, stride=2), (3, 5, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3, padding=1), (3, 9)),
    "transposed1d": (lambda: nn.ConvTranspose1d(3, 5, 3, stride=2), (3, 9)),
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear over tokens": (lambda: nn.Linear(5, 3, bias=False), (4, 2, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), VOLUME),
    "group norm of features": (lambda: nn.GroupNorm(2, 8), (8,)),
    "instance norm": (lambda: nn.InstanceNorm3d(4, affine=True), VOLUME),
    "layer norm": (lambda: nn.LayerNorm((3, 5)), (4, 3, 5)),
    "layer norm without shift": (lambda: nn.LayerNorm(5, bias=False), (4, 5)),
    "prelu": (lambda: nn.PReLU(), VOLUME),
    "prelu per channel": (lambda: nn.PReLU(4), VOLUME),
    "prelu of features": (lambda: nn.PReLU(4), (4,)),
    "added positions": (lambda: AddVector(torch.zeros(1, 4, 5)), (4, 5)),
    "an added vector per modality": (lambda: AddVector(torch.zeros(1, 2, 1, 5)), (2, 3, 5)),
    "prepended tokens": (lambda: Prepend(torch.zeros(1, 2, 5)), (4, 5)),
    "scale": (lambda: Scale(torch.zeros(5)), (4, 3, 5)),
    "scale of features": (lambda: Scale(torch.zeros(5)), (5,)),
    "called twice": (Twice, (4,)),
    "in place behind the first layer": (lambda: nn.Sequential(conv()(), nn.ReLU(inplace=True), nn.Flatten()), VOLUME),
    "a vit block": (Block, (3, 8, 8)),
    "frozen norms without parameters": (lambda: nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3, False)), (5,)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("samples", "rows", "pad_multiple"), [(3, 1, 1), (1, 1, 1), (2, 2, 1), (3, 1, 2), (1, 2, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_row_is_the_gradient_of_its_sample(
    name: str, samples: int, rows: int, pad_multiple: int, channels_last: bool
) -> None:
    make, shape = LAYERS[name]
    images = randn(samples * rows, *shape)
    if channels_last and images.dim() == 5:
        images = images.contiguous(memory_format=torch.channels_last_3d)
    module = make()
    torch.manual_seed(1)
    for block in module.parameters():
        nn.init.normal_(block, 0.1, 0.3)
    found, own = errors(module, images, samples, pad_multiple)
    assert found < max(1e-5, 3 * own)


NETWORKS = {
    "unet, instance": UNet3d(channels=(4, 8), residual_units=1, norm="instance"),
    "unet, group": UNet3d(channels=(4, 8, 16), residual_units=2, norm="group"),
    "unet, plain": UNet3d(channels=(4, 8), residual_units=0),
    "segresnet (in place)": SegResNet3d(filters=4),
    "unet, adapters": UNet3d(channels=(4, 8), adapter_rank=2),
    "segresnet, adapters": SegResNet3d(filters=4, adapter_rank=1),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("samples", "rows"), [(3, 1), (1, 1), (2, 2)])
def test_whole_networks(name: str, samples: int, rows: int) -> None:
    """Kinks: float32 may tip an activation that float64 does not; so most of the seeds, not all, must agree closely."""
    spec = NETWORKS[name]
    found = []
    for seed in range(3):
        images = randn(samples * rows, 8, 16, 16, 16, seed=seed).contiguous(memory_format=torch.channels_last_3d)
        found.append(errors(spec.build(seed), images, samples)[0])
    assert sorted(found)[1] < TOLERANCE
    assert max(found) < 0.05


def test_the_flagship_with_the_losses_of_training() -> None:
    model = FlatModel(UNet3d().build(0))
    images = randn(3, 8, 16, 16, 16).contiguous(memory_format=torch.channels_last_3d)
    per_sample = PerSample(model)
    values, rows = per_sample.gradients(model.vector, images, losses, 3)
    loss, mean = model.value_and_grad(model.vector, images, lambda out: losses(out).mean())
    torch.testing.assert_close(rows.mean(0), mean, rtol=1e-3, atol=1e-4 * float(mean.abs().max()))
    assert float(values.mean()) == pytest.approx(loss, rel=1e-5)


def test_no_sample() -> None:
    model = FlatModel(nn.Linear(3, 2))
    values, rows = PerSample(model).gradients(model.vector, torch.zeros(0, 3), losses, 0)
    assert (values.shape, rows.shape) == ((0,), (0, 8))


def test_the_model_is_left_as_it_was() -> None:
    model = FlatModel(UNet3d(channels=(4, 8)).build(0))
    model.grad.fill_(7.0)
    images = randn(2, 8, 8, 8, 8)
    first = PerSample(model).gradients(model.vector, images, losses, 2)[1]
    assert torch.equal(model.grad, torch.full_like(model.grad, 7.0))
    assert all(block.requires_grad for block in model.module.parameters())
    assert not any(part._forward_hooks for part in model.module.modules())
    again = PerSample(model).gradients(model.vector, images, losses, 2)[1]
    assert torch.equal(first, again)
    assert first.data_ptr() != again.data_ptr()


def test_the_pace_changes_time_only() -> None:
    model = FlatModel(UNet3d(channels=(4, 8)).build(0))
    per_sample, images = PerSample(model), randn(2, 8, 8, 8, 8)
    rows = []
    for serial in (True, False):
        per_sample._serial = serial
        rows.append(per_sample.gradients(model.vector, images, losses, 2)[1])
    torch.testing.assert_close(*rows, rtol=1e-4, atol=1e-5)
    assert per_sample.pick_pace(images) is per_sample._serial


@pytest.mark.parametrize("serial", [True, False])
@pytest.mark.parametrize("pad_multiple", [1, 2])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_row_is_the_same_bits_whoever_else_is_there(rank: int, pad_multiple: int, serial: bool) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(pad_multiple)
    try:
        model = FlatModel(UNet3d(channels=(8, 16), adapter_rank=rank).build(0))
        per_sample, images = PerSample(model, pad_multiple), randn(7, 8, 16, 16, 16)
        per_sample._serial = serial
        images = images.contiguous(memory_format=torch.channels_last_3d)

        def rows(*chosen: int) -> Tensor:
            return per_sample.gradients(model.vector, images[list(chosen)], losses, len(chosen))[1]

        alone = [rows(i)[0] for i in range(7)]
        for chosen in [(0, 1), (2, 1, 0), (5, 3, 6, 0), (4, 3, 2, 1, 0), tuple(range(7))]:
            for index, row in zip(chosen, rows(*chosen), strict=True):
                assert torch.equal(row, alone[index])
    finally:
        torch.set_num_threads(threads)


def test_dropout_repeats_with_its_seed_and_leaves_the_global_state() -> None:
    model = FlatModel(nn.Sequential(nn.Linear(20, 20), nn.Dropout(0.5), nn.Linear(20, 2)))
    per_sample, images = PerSample(model), randn(3, 20)
    torch.manual_seed(5)
    a, b, c = (per_sample.gradients(model.vector, images, losses, 3, dropout_seed=s)[1] for s in (1, 1, 2))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(drawn, torch.rand(1))


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - x.mean(0, keepdim=True)) ** 2 + self.inner(x)


class Bypassing(nn.Module):
    """Uses a covered layer's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.inner(x), self.inner.weight)


@pytest.mark.parametrize("make", [Mixing, Bypassing])
def test_require_exact_finds_what_the_types_do_not_tell(make: Net) -> None:
    with pytest.raises(ModelRefused, match="differ from autograd"):
        PerSample(FlatModel(make())).require_exact(randn(5, 4))


@pytest.mark.parametrize("spec", [UNet3d(), UNet3d(norm="group", dropout=0.3), SegResNet3d(filters=8)])
def test_require_exact_passes_our_networks(spec: UNet3d | SegResNet3d) -> None:
    assert PerSample(FlatModel(spec.build(0))).require_exact(randn(5, 8, 16, 16, 16)) < 1e-5


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Spoiling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y)
        y += 1
        return z


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:1].expand(5, -1))[: len(x)]


class OwnLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(2 * input)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Embedding(3, 4)), "Embedding at '1'"),
        (lambda: nn.MultiheadAttention(4, 2), "MultiheadAttention"),
        (lambda: nn.Sequential(nn.LSTM(4, 4)), "LSTM at '0'"),
        (lambda: nn.Sequential(OwnLinear(4, 4)), "OwnLinear at '0'"),
        (lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "Conv2d"),
        (lambda: nn.Conv2d(3, 3, 3, padding="same"), "Conv2d"),
        (lambda: nn.Bilinear(2, 2, 2), "Bilinear"),
    ],
)
def test_refused_by_name_before_anything_runs(make: Net, name: str) -> None:
    with pytest.raises(ModelRefused, match=name):
        PerSample(FlatModel(make()))


def test_batch_norm_is_refused_by_the_model_itself() -> None:
    with pytest.raises(ModelRefused, match="BatchNorm3d"):
        FlatModel(nn.BatchNorm3d(4))


@pytest.mark.parametrize(
    ("make", "words"), [(Skipping, "'idle'"), (Spoiling, "'b', whose input is changed"), (Turned, "not the batch")]
)
def test_refused_when_it_runs(make: Net, words: str) -> None:
    model = FlatModel(make())
    with pytest.raises(ModelRefused, match=words):
        PerSample(model).gradients(model.vector, randn(3, 4), losses, 3)
    assert all(block.requires_grad for block in model.module.parameters())
