from __future__ import annotations

import pytest
import torch
from torch import nn

from wardround.core.errors import ModelRefused
from wardround.models.adapters import adapt
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


@pytest.mark.parametrize(
    ("plain", "spec"),
    [(UNet3d(), UNet3d(adapter_rank=2)), (SegResNet3d(filters=4), SegResNet3d(filters=4, adapter_rank=1))],
    ids=str,
)
def test_adapters_are_a_role_wherever_they_are_and_change_no_other(plain, spec):
    without, module = plain.build(0), spec.build(0)
    roles = block_roles(module)
    assert list(roles) == [name for name, _ in module.named_parameters()]
    assert {name: role for name, role in roles.items() if role != "adapter"} == block_roles(without)
    convolutions = [name for name, part in module.named_modules() if isinstance(part, nn.modules.conv._ConvNd)]
    assert set(of_role(module, "adapter")) == {f"{name}.up" for name in convolutions}


def test_adapters_of_the_unet_are_few_and_some_are_in_the_head():
    module = UNet3d(adapter_rank=1).build(0)
    blocks = dict(module.named_parameters())
    assert sum(blocks[name].numel() for name in of_role(module, "adapter")) == 262
    assert [name for name in of_role(module, "adapter") if name.startswith("model.2.")] == [
        "model.2.0.conv.up",
        "model.2.1.conv.unit0.conv.up",
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


def test_another_network_with_adapters_keeps_its_head():
    toy = nn.Sequential(nn.Conv3d(1, 2, 1), nn.GroupNorm(1, 2), nn.Conv3d(2, 3, 1))
    adapt(toy, 1)
    assert list(block_roles(toy).values()) == ["body", "body", "adapter", "norm", "norm", "head", "head", "adapter"]
    layer = nn.Conv3d(1, 2, 1)
    adapt(layer, 1)
    assert block_roles(layer) == {"weight": "head", "bias": "head", "up": "adapter"}


def test_a_name_alone_makes_no_adapter():
    toy = nn.Linear(2, 2)
    toy.register_parameter("up", nn.Parameter(torch.zeros(2)))
    assert set(block_roles(toy).values()) == {"head"}


def test_a_network_of_norms_is_refused():
    with pytest.raises(ModelRefused):
        block_roles(nn.GroupNorm(1, 2))
