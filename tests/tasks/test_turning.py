from __future__ import annotations

import math

import pytest
import torch

from wardround.tasks.turning import turned

SIZE = (6, 9, 4)


def patches(size=SIZE):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=generator)
    outer = (torch.rand(2, 1, *size, generator=generator) > 0.4).to(torch.uint8)
    inner = outer * (torch.rand(2, 1, *size, generator=generator) > 0.5).to(torch.uint8)
    return images, torch.cat([inner, outer], 1)


def run(angle=0.0, zoom=1.0, size=SIZE):
    images, targets = patches(size)
    found = turned(images, targets, torch.full((2,), math.radians(angle)), torch.full((2,), zoom))
    return (images, targets), found


def test_no_angle_and_no_zoom_are_the_patch_itself():
    before, after = run()
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-5)
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize("side", [6, 7])
def test_a_quarter_turn_is_rot90_of_every_slice(side):
    """It turns the first axis towards the second: what lay on +x lies on +y."""
    before, after = run(90.0, size=(side, side, 4))
    torch.testing.assert_close(after[0], torch.rot90(before[0], 1, (2, 3)), rtol=0, atol=1e-4)
    assert torch.equal(after[1], torch.rot90(before[1], 1, (2, 3)))
    image = torch.zeros(1, 1, 7, 7, 1)
    image[0, 0, 6, 3] = 1
    found, _ = turned(image, image, torch.tensor([math.pi / 2]), torch.ones(1))
    assert torch.nonzero(found[0, 0, :, :, 0] > 0.5).tolist() == [[3, 6]]


def test_half_a_turn_flips_both_axes_whatever_their_lengths():
    before, after = run(180.0)
    torch.testing.assert_close(after[0], before[0].flip(2, 3), rtol=0, atol=1e-4)
    assert torch.equal(after[1], before[1].flip(2, 3))


@pytest.mark.parametrize("angle", [0.0, 30.0, -75.0])
@pytest.mark.parametrize("zoom", [1.0, 1.25])
def test_a_ramp_is_turned_and_stretched_exactly(angle, zoom):
    """Linear interpolation is exact on f(x, y) = 2x - 3y, in voxels from the centre, away from the border."""
    n = 31
    x, y = torch.meshgrid(torch.arange(n) - 15.0, torch.arange(n) - 15.0, indexing="ij")
    ramp = (2 * x - 3 * y)[None, None, :, :, None].expand(1, 1, n, n, 2)
    turn = math.radians(angle)
    found, _ = turned(ramp, ramp, torch.tensor([turn]), torch.tensor([zoom]))
    back_x = (math.cos(turn) * x + math.sin(turn) * y) / zoom
    back_y = (-math.sin(turn) * x + math.cos(turn) * y) / zoom
    inside = (back_x.abs() < 14) & (back_y.abs() < 14)
    assert int(inside.sum()) > n * n / 2
    expected = 2 * back_x - 3 * back_y
    for slice_ in range(2):
        torch.testing.assert_close(found[0, 0, :, :, slice_][inside], expected[inside], rtol=0, atol=1e-4)


def test_targets_stay_whole_nested_and_with_their_image():
    images, targets = patches((24, 20, 3))
    images[:, 0] = targets[:, 1].float()
    angles, zooms = torch.tensor([0.5, -0.2]), torch.tensor([1.2, 0.8])
    found, masks = turned(images, targets, angles, zooms)
    assert masks.dtype == torch.uint8
    assert set(masks.unique().tolist()) == {0, 1}
    assert (masks[:, 0] <= masks[:, 1]).all()
    assert ((found[:, 0] > 0.5) == (masks[:, 1] > 0)).float().mean() > 0.8, "one grid, two ways to read it"
    alone, _ = turned(images[1:], targets[1:], angles[1:], zooms[1:])
    torch.testing.assert_close(alone[0], found[1])


def test_background_stays_exactly_zero_and_inputs_are_kept():
    images, targets = patches()
    images[:, 1] = 0
    copies = images.clone(), targets.clone()
    found, _ = turned(images, targets, torch.full((2,), 0.3), torch.full((2,), 0.7))
    assert not found[:, 1].any()
    assert torch.equal(images, copies[0])
    assert torch.equal(targets, copies[1])
