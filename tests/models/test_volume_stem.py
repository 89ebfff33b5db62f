"""Tubelets against the 2D stem and against plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from wardround.models.timm_vit import build_vit
from wardround.models.vit import ViTFusion
from wardround.models.volume_stem import VolumePositions, VolumeStem

NAMES = ("test_vit", "vit_little_patch16_reg4_gap_256", "deit3_small_patch16_224")


def fusion(name: str, **changed: Any) -> ViTFusion:
    given = {"size": (1, 32, 32), "columns": 2, "depth": 1, **changed}
    return ViTFusion(name, 2, classes=3, stems="separate", **given)


@pytest.mark.parametrize("name", NAMES)
def test_one_plane_in_tubelets_of_one_plane_is_the_2d_stem(name: str) -> None:
    """With the same numbers, to the last bit: the class token has its own place in it, registers too."""
    flat, deep = (fusion(name, tubelet=tubelet).build(0).eval() for tubelet in (None, 1))
    generator = torch.Generator().manual_seed(0)
    for block in flat.parameters():
        block.data.add_(0.1 * torch.randn(block.shape, generator=generator))
    state = dict(flat.state_dict())
    for key in [key for key in state if key.startswith("stems.") and key.endswith("proj.weight")]:
        state[key] = state[key][:, :, None]
    places = state.pop("trunk.inside.vector", None)
    if places is None:
        state["trunk.outside.plane.vector"] = state.pop("trunk.outside.vector")[:, None]
    else:
        prefix = places.shape[1] - 4
        state["trunk.prefix.tokens"] = state["trunk.prefix.tokens"] + places[:, :prefix]
        state["trunk.outside.plane.vector"] = places[:, None, prefix:]
    deep.load_state_dict(state)
    images, values = torch.randn(5, 2, 1, 32, 32, generator=generator), torch.randn(5, 2, generator=generator)
    patients = flat.case.pack(images, torch.ones(5, 2), values, torch.ones(5, 2))
    assert torch.equal(flat(patients), deep(patients))


def test_a_token_is_one_tubelet_times_the_kernel() -> None:
    vit = build_vit("test_vit", (8, 12), 1, None, 4)
    stem = VolumeStem(vit.patch_embed, 2, inflate=False)
    volumes = torch.randn(3, 1, 6, 8, 12)
    kernels, bias = stem.proj.weight.flatten(1), stem.proj.bias
    wanted = [
        volumes[:, 0, 2 * d : 2 * d + 2, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten(1) @ kernels.T + bias
        for d in range(3)
        for y in range(2)
        for x in range(3)
    ]
    torch.testing.assert_close(stem(volumes), torch.stack(wanted, 1))


def test_kernels_of_a_file_see_a_volume_of_equal_planes_as_the_plane() -> None:
    vit = build_vit("test_vit", (16, 16), 1, None, 8)
    plane = torch.randn(2, 1, 16, 16)
    deep = VolumeStem(vit.patch_embed, 3, inflate=True)(plane[:, :, None].expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(deep, vit.patch_embed(plane))


def test_a_place_is_its_plane_plus_its_depth() -> None:
    plane, depth = torch.randn(1, 4, 5), torch.randn(1, 3, 1, 5)
    found = VolumePositions(plane, depth)(torch.zeros(2, 12, 5))
    for index in range(12):
        torch.testing.assert_close(found[1, index], plane[0, index % 4] + depth[0, index // 4, 0])
    assert isinstance(VolumePositions(plane, depth[:, :1]).depth, nn.Identity)


def test_depths_and_places_are_told_apart() -> None:
    spec = fusion("test_vit", size=(4, 32, 32), tubelet=2)
    net = spec.build(0).eval()
    for block in net.parameters():
        block.data.add_(0.1 * torch.randn(block.shape))
    images, rest = torch.randn(1, 2, 4, 32, 32), (torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    base = net(spec.case.pack(images, *rest))
    for axis in (2, 3, 4):
        assert not torch.allclose(net(spec.case.pack(images.roll(16 if axis > 2 else 2, axis), *rest)), base, atol=1e-5)
