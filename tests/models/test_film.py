"""The U-Net with table columns: at first the U-Net itself; what columns change; gradients of single patients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wardround.algorithms.base import Steps, descend
from wardround.models.film import FilmUNet
from wardround.models.flat import FlatModel, first_weights
from wardround.models.monai_unet import UNet
from wardround.models.nets import UNet3d
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.models.roles import block_roles

SPECS = [
    UNet3d((4, 8), ehr_columns=3),
    UNet3d((4, 6, 8), residual_units=0, norm="group", ehr_columns=3),
    UNet3d((4, 6, 6, 8), residual_units=2, adapter_rank=1, ehr_columns=3),
]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


def given(spec: UNet3d, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return images [B, 8, ...], and with the columns behind them."""
    side = 2 * spec.divisor
    images = torch.randn(len(values), 8, side, side, side, generator=torch.Generator().manual_seed(0))
    table = torch.cat([values, known], 1)[..., None, None, None].expand(-1, -1, side, side, side)
    return images, torch.cat([images, table], 1)


def livened(spec: UNet3d) -> nn.Module:
    module = spec.build(0)
    torch.manual_seed(1)
    for block in module.parameters():
        block.data.add_(0.1 * torch.randn_like(block))
    return module


def without(spec: UNet3d) -> UNet3d:
    return UNet3d(spec.channels, spec.residual_units, spec.norm, spec.dropout, spec.adapter_rank)


@each_spec
def test_it_starts_as_the_unet_without_columns(spec: UNet3d) -> None:
    images, x = given(spec, torch.randn(2, 3), torch.ones(2, 3))
    plain, ours = without(spec).build(0), spec.build(0)
    assert isinstance(ours, FilmUNet)
    torch.testing.assert_close(ours(x), plain(images), rtol=0, atol=0)
    count = sum(block.numel() for block in plain.parameters())
    assert torch.equal(first_weights(spec, 0)[:count], first_weights(without(spec), 0))
    assert [name for name, _ in ours.named_parameters() if not name.startswith("film.")] == [
        name for name, _ in plain.named_parameters()
    ]


def test_without_columns_the_unet_is_monais() -> None:
    """test_monai_unet.py compares its blocks with MONAI's; here, nothing is added to them."""
    assert type(UNet3d((4, 8)).build(0)) is UNet


@each_spec
def test_known_columns_matter_and_unknown_ones_do_not(spec: UNet3d) -> None:
    net, known = livened(spec).eval(), torch.tensor([[1.0, 0, 1]])
    values = torch.tensor([[0.3, 0.0, -1.0]])

    def logits(values: Tensor, known: Tensor) -> Tensor:
        return net(given(spec, values, known)[1])

    base = logits(values, known)
    for spoiled in (7.0, float("nan")):
        assert torch.equal(logits(torch.tensor([[0.3, spoiled, -1.0]]), known), base)
    assert not torch.allclose(logits(torch.tensor([[0.4, 0.0, -1.0]]), known), base, atol=1e-5)
    assert not torch.allclose(logits(values, torch.ones(1, 3)), base, atol=1e-5)


@each_spec
def test_patients_are_told_apart(spec: UNet3d) -> None:
    model = FlatModel(livened(spec))
    known = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])
    x = given(spec, torch.randn(3, 3, generator=torch.Generator().manual_seed(2)), known)[1]
    x = x.contiguous(memory_format=torch.channels_last_3d)
    assert PerSample(model).require_exact(x) < TOLERANCE


@each_spec
def test_the_branch_learns_and_is_part_of_the_body(spec: UNet3d) -> None:
    model = FlatModel(livened(spec))
    x = given(spec, torch.randn(1, 3), torch.ones(1, 3))[1]
    model.value_and_grad(model.vector, x, lambda logits: logits.square().mean())
    roles = block_roles(model.module)
    for name, block in model.module.named_parameters():
        if name.startswith("film."):
            assert roles[name] == "body"
            assert block.grad is not None
            assert block.grad.any()
    plain = block_roles(without(spec).build(0))
    assert {name: role for name, role in roles.items() if not name.startswith("film.")} == plain


def test_activations_stay_channels_last() -> None:
    x = given(SPECS[0], torch.randn(2, 3), torch.ones(2, 3))[1].contiguous(memory_format=torch.channels_last_3d)
    assert SPECS[0].build(0)(x).is_contiguous(memory_format=torch.channels_last_3d)


def test_what_only_the_record_tells_is_learnt_from_it() -> None:
    """Four patients with the same image, two masks: no function of the image alone gets below ln 2; the record does."""
    values, known = torch.tensor([[1.0], [-1], [0.7], [-0.7]]), torch.ones(4, 1)
    image = torch.randn(1, 8, 8, 8, 8, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1, -1)
    target = (values > 0).float()[..., None, None, None].expand(-1, 3, 8, 8, 8)

    def end(known: Tensor) -> float:
        model = FlatModel(UNet3d((4, 8), ehr_columns=1).build(0))
        x = torch.cat([image, torch.cat([values, known], 1)[..., None, None, None].expand(-1, -1, 8, 8, 8)], 1)
        x = x.contiguous(memory_format=torch.channels_last_3d)

        def direction(w: Tensor) -> tuple[float, Tensor]:
            return model.value_and_grad(w, x, lambda out: nn.functional.binary_cross_entropy_with_logits(out, target))

        return descend(model.vector.clone(), direction, 150, Steps(150, 0.1, 0.9))[1][-1]

    assert end(known) < 0.1
    assert end(0 * known) >= math.log(2) - 1e-6
