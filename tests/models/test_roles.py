from __future__ import annotations

import pytest
import torch
from torch import nn

from wardround.errors import ModelRefused
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.roles import block_roles


def of_role(module: nn.Module, role: str) -> list[str]:
    return [name for name, found in block_roles(module).items() if found == role]


@pytest.mark.parametrize("spec", [UNet3d(), UNet3d((4, 8), residual_units=0), SegResNet3d(filters=4)], ids=str)
def test_every_parameter_has_a_role_in_the_order_of_the_parameters(spec):
    module = spec.build(0)
    roles = block_roles(module)
    assert list(roles) == [name for name, _ in module.named_parameters()]
    assert set(roles.values()) == {"head", "norm", "body"}


@pytest.mark.parametrize("spec", [UNet3d(), SegResNet3d(filters=4)], ids=str)
def test_norm_is_every_affine_of_a_group_norm(spec):
    module = spec.build(0)
    norms = [part for part in module.modules() if isinstance(part, nn.GroupNorm)]
    assert len(of_role(module, "norm")) == 2 * len(norms)
    blocks = dict(module.named_parameters())
    found = {id(blocks[name]) for name in of_role(module, "norm")}
    assert found == {id(block) for part in norms for block in (part.weight, part.bias)}


def test_head_of_the_unet_is_the_last_up_step():
    assert of_role(UNet3d().build(0), "head") == [
        "model.2.0.conv.weight",
        "model.2.0.conv.bias",
        "model.2.0.adn.A.weight",
        "model.2.1.conv.unit0.conv.weight",
        "model.2.1.conv.unit0.conv.bias",
    ]


def test_head_of_the_segresnet_is_the_last_level_up():
    assert of_role(SegResNet3d(filters=4).build(0), "head") == [
        "up_layers.2.0.conv1.conv.weight",
        "up_layers.2.0.conv2.conv.weight",
        "up_samples.2.0.conv.weight",
        "conv_final.2.conv.weight",
        "conv_final.2.conv.bias",
    ]


@pytest.mark.parametrize("spec", [UNet3d(), SegResNet3d(filters=4)], ids=str)
def test_the_body_alone_determines_what_enters_the_head(spec):
    """The loss reaches the body through the head only: with all head weights at zero, the body has no gradient."""
    module = spec.build(0)
    roles = block_roles(module)
    for name, block in module.named_parameters():
        if roles[name] == "head":
            block.data.zero_()
    size = 2 * spec.divisor
    (module(torch.randn(2, 8, size, size, size)) ** 2).sum().backward()
    for name, block in module.named_parameters():
        if roles[name] == "body":
            assert block.grad is not None
            assert not block.grad.any()


def test_another_network_has_its_last_module_as_head():
    toy = nn.Sequential(nn.Conv3d(1, 2, 1), nn.GroupNorm(1, 2), nn.Conv3d(2, 3, 1), nn.GroupNorm(1, 3))
    assert list(block_roles(toy).values()) == ["body", "body", "norm", "norm", "head", "head", "norm", "norm"]
    assert block_roles(nn.Linear(2, 1)) == {"weight": "head", "bias": "head"}


def test_a_network_of_norms_is_refused():
    with pytest.raises(ModelRefused):
        block_roles(nn.GroupNorm(1, 2))
