from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from wardround.models.blocks import MOST, blocks_of
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.vit import ViTFusion


def vit(depth: int = 0, **changed: Any) -> ViTFusion:
    given = {"name": "vit_tiny_patch16_224", "modalities": 2, "size": (32, 32), "columns": 3, "classes": 2}
    return ViTFusion(**{**given, "stems": "separate", "depth": depth, **changed})


SPECS = {
    "unet": (UNet3d(), 10),
    "unet, adapters": (UNet3d(adapter_rank=1), 10),
    "unet, deep": (UNet3d((2, 2, 2, 2, 2, 2), residual_units=3), 16),
    "unet, ehr": (UNet3d(ehr_columns=2), 11),
    "segresnet": (SegResNet3d(filters=4), 20),
    "segresnet, adapters": (SegResNet3d(filters=4, adapter_rank=1), 20),
    "vit": (vit(), 16),
    "vit, 4 blocks": (vit(4), 12),
    "vit, 7 blocks, 3 fusion blocks": (vit(7, fusion_depth=3), 18),
    "vit, 8 blocks": (vit(8), 12),
    "vit, deep": (vit(30, name="test_vit"), 19),
    "vit, volumes": (vit(size=(2, 32, 32), columns=0), 15),
    "vit, layer scales, registers": (vit(name="vit_little_patch16_reg4_gap_256"), 18),
}


@pytest.mark.parametrize("name", SPECS)
def test_every_parameter_has_one_block_and_there_are_neither_few_nor_many(name: str) -> None:
    spec, count = SPECS[name]
    module = spec.build(0)
    blocks = blocks_of(module)
    assert list(blocks) == [key for key, _ in module.named_parameters()]
    assert len(set(blocks.values())) == count
    assert 8 <= count <= MOST


@pytest.mark.parametrize("name", SPECS)
def test_a_layer_is_never_cut(name: str) -> None:
    module = SPECS[name][0].build(0)
    blocks = blocks_of(module)
    for place, part in module.named_modules():
        own = {blocks[f"{place}.{key}"] for key, _ in part.named_parameters(recurse=False)}
        assert len(own) <= 1, place


def test_norms_of_the_unet_are_with_their_convolution() -> None:
    blocks = blocks_of(UNet3d(adapter_rank=1).build(0))
    assert {key for key, block in blocks.items() if block == "model.2.0"} == {
        f"model.2.0.{end}"
        for end in ("conv.weight", "conv.bias", "conv.up", "adn.N.weight", "adn.N.bias", "adn.A.weight")
    }


def test_the_blocks_of_a_vit() -> None:
    blocks = blocks_of(vit(2, size=(2, 32, 32)).build(0))
    assert list(dict.fromkeys(blocks.values())) == [
        "stem",
        "block0.attention",
        "block0.mlp",
        "block1.attention",
        "block1.mlp",
        "fusion",
        "ehr",
        "head",
    ]
    for key, block in {
        "stems.1.proj.weight": "stem",
        "trunk.prefix.tokens": "stem",
        "trunk.inside.vector": "stem",
        "trunk.blocks.0.norm1.weight": "block0.attention",
        "trunk.blocks.0.norm2.weight": "block0.mlp",
        "trunk.norm.bias": "block1.mlp",
        "modality.vector": "fusion",
        "slice.vector": "fusion",
        "token.tokens": "fusion",
        "fusion.0.norm1.weight": "fusion",
        "norm.weight": "head",
        "head.bias": "head",
    }.items():
        assert blocks[key] == block


def test_the_blocks_of_another_network_are_its_outermost_modules() -> None:
    """test_any_network.py has networks of MONAI."""
    assert blocks_of(nn.Sequential(nn.Linear(2, 2))) == {"0.weight": "0", "0.bias": "0"}
