"""Small convolutions in place of one large one: as many tokens, in the same order, each from its neighbourhood."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from wardround.models.conv_stem import ConvStem, halvings, stem_widths
from wardround.models.flat import FlatModel
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.models.timm_vit import build_vit
from wardround.models.vit import ViTFusion


@pytest.mark.parametrize(("patch", "layers"), [(2, 1), (4, 2), (8, 3), (16, 4), (1, None), (6, None), (14, None)])
def test_a_patch_is_a_power_of_two(patch: int, layers: int | None) -> None:
    assert halvings(patch) == layers


def test_channels_double_up_to_the_width() -> None:
    assert stem_widths(192, 4) == (24, 48, 96, 192)
    assert stem_widths(192, 3) == (48, 96, 192)
    assert stem_widths(2, 3) == (1, 1, 2)


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_as_many_tokens_as_one_large_convolution_makes(patch: int) -> None:
    images = torch.randn(3, 1, 16, 24)
    large = build_vit("test_vit", (16, 24), 1, None, patch).patch_embed
    assert ConvStem(64, halvings(patch) or 0)(images).shape == large(images).shape


def test_a_token_stands_where_its_patch_is() -> None:
    """Two layers see 7 x 7 pixels around the corner of a patch: a pixel reaches its own token and the next ones only."""
    stem = ConvStem(32, 2)
    for index, part in enumerate(stem.layers):
        if isinstance(part, nn.GroupNorm):  # the one part that looks at the whole image
            stem.layers[index] = nn.Identity()
    dark = torch.zeros(1, 1, 16, 24)
    for row, column in ((0, 0), (1, 4), (3, 5)):
        bright = dark.clone()
        bright[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
        moved = (stem(bright) - stem(dark)).abs().amax(2)[0].view(4, 6)
        expected = torch.zeros(4, 6, dtype=torch.bool)
        expected[row : row + 2, column : column + 2] = True
        assert torch.equal(moved > 0, expected)


def test_it_is_the_convolutions_that_the_paper_names() -> None:
    kinds = [type(part) for part in ConvStem(64, 4).modules() if not next(part.children(), None)]
    assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 4 + [nn.Conv2d]
    sizes = [part.kernel_size for part in ConvStem(64, 4).modules() if isinstance(part, nn.Conv2d)]
    assert sizes == [(3, 3)] * 4 + [(1, 1)]


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    images = torch.randn(4, 1, 32, 32)
    stem = ConvStem(64, 3)
    for train in (True, False):
        torch.testing.assert_close(stem.train(train)(images)[:1], stem(images[:1]))


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_what_is_drawn_behind_the_stems_does_not_depend_on_how_many_there_are(stem: Literal["patch", "conv"]) -> None:
    """A shared stem draws for the others too, as it did before there was a choice: jobs keep their first weights."""
    one, each = (
        ViTFusion("test_vit", 2, (16, 16), 3, 4, stems, 1, patch=4, stem=stem).build(0).state_dict()
        for stems in ("shared", "separate")
    )
    for name, block in one.items():
        assert torch.equal(block, each[name]), name
    assert len(each) > len(one)


def test_gradients_of_single_patients_are_exact() -> None:
    """Differential privacy per patient clips them one by one."""
    spec = ViTFusion("test_vit", 2, (16, 16), 0, 3, "separate", 1, patch=4, stem="conv")
    model = FlatModel(spec.build(0))
    table = torch.zeros(5, 0)
    patients = spec.case.pack(torch.randn(5, 2, 16, 16), torch.ones(5, 2), table, table)
    assert PerSample(model).require_exact(patients) < TOLERANCE
