"""Which blocks a job trains: scales, shifts and biases, and roles beside them."""

from __future__ import annotations

import pytest
from torch import nn

from wardround.core.errors import ModelRefused
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.roles import block_roles
from wardround.models.trainable import trainable_blocks
from wardround.models.vit import ViTFusion

VIT = ViTFusion(
    name="test_vit2", modalities=2, size=(16, 16), columns=3, classes=4, stems="shared", depth=2, fusion_depth=1
)


def numbers(module: nn.Module, names: tuple[str, ...]) -> int:
    blocks = dict(module.named_parameters())
    return sum(blocks[name].numel() for name in names)


@pytest.mark.parametrize(("spec", "count"), [(UNet3d(), 556), (SegResNet3d(), 3363)], ids=str)
def test_affine_is_few_numbers(spec: UNet3d | SegResNet3d, count: int) -> None:
    module = spec.build(0)
    assert numbers(module, trainable_blocks(module, ("affine",))) == count


@pytest.mark.parametrize("spec", [UNet3d(), SegResNet3d(filters=4), VIT], ids=["unet", "segresnet", "vit"])
def test_affine_is_every_norm_and_bias_and_no_matrix(spec: UNet3d | SegResNet3d | ViTFusion) -> None:
    module = spec.build(0)
    names, roles = trainable_blocks(module, ("affine",)), block_roles(module)
    blocks = dict(module.named_parameters())
    assert all(blocks[name].dim() == 1 for name in names)
    assert {name for name, role in roles.items() if role == "norm" or name.endswith("bias")} <= set(names)
    assert list(names) == [name for name in roles if name in names]
    assert len([name for name in names if name.endswith("gamma")]) == sum(".gamma" in name for name in roles)


def test_parts_add_up_in_the_order_of_the_network() -> None:
    module = UNet3d(channels=(4, 8), adapter_rank=2).build(0)
    roles = block_roles(module)
    found = trainable_blocks(module, ("head", "adapter", "affine"))
    wanted = [name for name, role in roles.items() if role in ("head", "adapter", "norm") or name.endswith(".bias")]
    assert list(found) == wanted


@pytest.mark.parametrize(
    ("parts", "words"),
    [((), "found: 'none'"), (("body",), "found: 'body'$"), (("adapter",), "'adapter', of which it has no parameter")],
)
def test_refused(parts: tuple[str, ...], words: str) -> None:
    with pytest.raises(ModelRefused) as refusal:
        trainable_blocks(UNet3d(channels=(4, 8)).build(0), parts)
    assert words.removesuffix("$").removeprefix("found: ") in refusal.value.found
    assert ("of which" in refusal.value.found) == ("adapter" in parts)
