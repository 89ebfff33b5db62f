from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wardround.tasks.brain_tumours import REGIONS
from wardround.tasks.inference import BACKGROUND, predict_logits, predict_regions

PRESENT = np.array([True, False, True, True])


class Pointwise(nn.Module):
    """Logits of a voxel depend on this voxel alone, so any covering by windows must give the same answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(8, 3, 1)
        self.drop = nn.Dropout(0.9)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(x.shape))
        return self.drop(self.conv(x))


def volume(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(4, *shape)).astype(np.float32)


def direct(module, image):
    flags = np.broadcast_to(PRESENT[:, None, None, None].astype(np.float32), image.shape)
    with torch.inference_mode():
        return module.conv(torch.from_numpy(np.concatenate([image, flags]))[None])[0].numpy()


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 6, 7), (20, 9, 8), (13, 17, 3)])
@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 8, 4), None])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_covering_gives_the_logits_of_the_voxel(shape, patch, batch):
    module, image = Pointwise(), volume(shape)
    logits = predict_logits(module, image, PRESENT, patch, "cpu", 3, batch=batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, direct(module, image), atol=1e-5)


def test_small_windows_on_a_cpu_never_come_alone():
    module = Pointwise()
    predict_logits(module, volume((20, 8, 8)), PRESENT, (8, 8, 8), "cpu", 3, batch=2)
    assert module.seen == [(2, 8, 8, 8, 8), (2, 8, 8, 8, 8)]


def test_one_window_around_everything_is_padded_to_sixteen():
    module = Pointwise()
    predict_logits(module, volume((17, 16, 3)), PRESENT, None, "cpu", 3)
    assert module.seen == [(2, 8, 32, 16, 16)]


def test_only_the_box_of_the_head_is_computed():
    module = Pointwise()
    image = np.zeros((4, 24, 24, 24), np.float32)
    image[:, 10:14, 3:11, 20:24] = volume((4, 8, 4))
    logits = predict_logits(module, image, PRESENT, (4, 8, 4), "cpu", 3)
    box = (slice(None), slice(10, 14), slice(3, 11), slice(20, 24))
    np.testing.assert_allclose(logits[box], direct(module, image[box]), atol=1e-5)
    outside = np.ones(logits.shape, bool)
    outside[box] = False
    assert (logits[outside] == BACKGROUND).all()
    assert module.seen == [(2, 8, 4, 8, 4)]


def test_an_image_of_zeros_is_background_and_the_network_is_not_run():
    module = Pointwise()
    logits = predict_logits(module, np.zeros((4, 5, 5, 5), np.float32), PRESENT, (4, 4, 4), "cpu", 3)
    assert (logits == BACKGROUND).all()
    assert not module.seen


def test_half_precision_memory_maps(tmp_path):
    module, image = Pointwise(), volume((6, 6, 6)).astype(np.float16)
    np.save(tmp_path / "image.npy", image)
    stored = np.load(tmp_path / "image.npy", mmap_mode="r")
    logits = predict_logits(module, stored, PRESENT, (8, 8, 8), "cpu", 3)
    np.testing.assert_allclose(logits, direct(module, image.astype(np.float32)), atol=1e-5)


def test_the_mode_of_every_part_comes_back():
    module = Pointwise().train()
    module.conv.eval()
    predict_logits(module, volume((4, 4, 4)), PRESENT, (4, 4, 4), "cpu", 3)
    assert (module.training, module.conv.training, module.drop.training) == (True, False, True)
    with pytest.raises(RuntimeError):
        predict_logits(module, volume((4, 4, 4))[:2], PRESENT, (4, 4, 4), "cpu", 3)
    assert module.drop.training


def test_regions_are_the_nested_signs_of_the_logits():
    module, image = Pointwise(), volume((6, 7, 8))
    et, tc, wt = direct(module, image) > 0
    regions = predict_regions(module, image, PRESENT, (8, 8, 8), "cpu", REGIONS)
    assert regions.dtype == bool
    np.testing.assert_array_equal(regions, np.stack([et & tc & wt, tc & wt, wt]))


def test_training_still_works_afterwards():
    """No tensor of inference mode stays behind in the module."""
    module = Pointwise()
    predict_logits(module, volume((4, 4, 4)), PRESENT, (4, 4, 4), "cpu", 3)
    module(torch.zeros(2, 8, 4, 4, 4)).sum().backward()
    assert module.conv.bias.grad is not None


def test_the_record_is_the_same_in_every_window():
    class Echo(nn.Module):
        def forward(self, x):
            return x[:, 8:11]

    record = np.array([0.25, -1.0, 1.0], np.float32)
    for patch in ((8, 8, 8), (16, 4, 8), None):
        logits = predict_logits(Echo(), volume((13, 6, 9)), PRESENT, patch, "cpu", 3, record=record)
        np.testing.assert_allclose(logits, np.broadcast_to(record[:, None, None, None], logits.shape), atol=1e-6)


class Place(nn.Module):
    """Says of each voxel where it lies in the window, by axis; it forgets the images."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        axes = [torch.arange(n, dtype=torch.float32) for n in x.shape[2:]]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].expand(len(x), -1, -1, -1, -1)


@pytest.mark.parametrize(("mirrored", "level"), [(1, ()), (4, (0, 1)), (8, (0, 1, 2))])
def test_mirror_images_are_averaged_over_their_axes(mirrored, level):
    """The place i on an axis of 16 and its mirror image 15 - i have the mean 7.5."""
    module = Place()
    logits = predict_logits(module, volume((16, 16, 16)), PRESENT, None, "cpu", 3, mirrored=mirrored)
    assert module.passes == mirrored
    for axis in range(3):
        place = np.arange(16.0).reshape([16 if other == axis else 1 for other in range(3)])
        expected = np.full((16, 16, 16), 7.5) if axis in level else np.broadcast_to(place, (16, 16, 16))
        np.testing.assert_allclose(logits[axis], expected, atol=1e-5)


@pytest.mark.parametrize("mirrored", [4, 8])
@pytest.mark.parametrize("patch", [(8, 8, 8), None])
def test_a_network_that_looks_at_voxels_alone_sees_the_same_in_every_mirror(patch, mirrored):
    module, image = Pointwise(), volume((13, 6, 9))
    logits = predict_logits(module, image, PRESENT, patch, "cpu", 3, mirrored=mirrored)
    np.testing.assert_allclose(logits, direct(module, image), atol=1e-5)
