from __future__ import annotations

import numpy as np
import pytest

from wardround.tasks.patches import sample_patch

SHAPE = (7, 9, 11)


def volume(shape=SHAPE):
    """Every voxel of every channel is its own address, counted from 1."""
    image = np.arange(1, 4 * np.prod(shape) + 1, dtype=np.float32).reshape(4, *shape)
    labels = (image[0] % 251 + 1).astype(np.uint8)
    return image, labels


def expected(image, labels, start, size):
    """Slow oracle: voxel by voxel."""
    patch, label_patch = np.zeros((4, *size), np.float32), np.zeros(size, np.uint8)
    for place in np.ndindex(*size):
        at = tuple(int(s) + p for s, p in zip(start, place, strict=True))
        if all(0 <= a < n for a, n in zip(at, labels.shape, strict=True)):
            patch[(slice(None), *place)] = image[(slice(None), *at)]
            label_patch[place] = labels[at]
    return patch, label_patch


def start_of(patch, shape=SHAPE):
    """Read off where a patch came from by its first voxel that is not padding."""
    first = np.argwhere(patch[0])[0]
    return np.array(np.unravel_index(int(patch[(0, *first)]) - 1, shape)) - first


@pytest.mark.parametrize("size", [(4, 4, 4), (3, 5, 2), (7, 9, 11), (8, 4, 16), (12, 12, 12)])
@pytest.mark.parametrize("foreground", [[], [[0, 0, 0]], [[6, 8, 10]], [[3, 4, 5], [0, 8, 0]]])
def test_content_is_right_everywhere_also_at_borders(size, foreground):
    image, labels = volume()
    rng = np.random.default_rng(0)
    for _ in range(20):
        patch, label_patch = sample_patch(image, labels, np.array(foreground, int).reshape(-1, 3), size, rng)
        assert (patch.dtype, label_patch.dtype) == (np.float32, np.uint8)
        wanted = expected(image, labels, start_of(patch), size)
        np.testing.assert_array_equal(patch, wanted[0])
        np.testing.assert_array_equal(label_patch, wanted[1])


def test_no_padding_where_the_volume_is_large_enough():
    image, labels = volume()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        assert sample_patch(image, labels, np.array([[0, 0, 10]]), (4, 4, 4), rng)[0].all()


def test_a_small_volume_is_in_the_middle():
    image, labels = volume((2, 2, 3))
    patch, _ = sample_patch(image, labels, np.zeros((0, 3), int), (4, 2, 6), np.random.default_rng(0))
    np.testing.assert_array_equal(patch[:, 1:3, :, 2:5], image)
    assert np.count_nonzero(patch) == image.size


def test_the_tumour_voxel_is_in_the_patch_and_jittered():
    image, labels = volume()
    target = (3, 4, 5)
    starts = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        patch, _ = sample_patch(image, labels, np.array([target]), (4, 5, 6), rng, tumour_probability=1.0)
        assert image[(0, *target)] in patch[0]
        starts.add(tuple(start_of(patch)))
    assert len(starts) > 5


def test_every_uniform_place_is_drawn():
    image, labels = volume()
    rng = np.random.default_rng(1)
    drawn = [sample_patch(image, labels, np.array([[0, 0, 0]]), (5, 8, 11), rng, 0.0)[0] for _ in range(120)]
    assert {tuple(start_of(patch)) for patch in drawn} == {(a, b, 0) for a in range(3) for b in range(2)}


def test_share_of_tumour_patches():
    image, labels = np.ones((4, 200, 4, 4), np.float32), np.zeros((200, 4, 4), np.uint8)
    labels[100, 2, 2] = 1
    rng = np.random.default_rng(2)
    hits = [sample_patch(image, labels, np.array([[100, 2, 2]]), (4, 4, 4), rng, 0.67)[1].any() for _ in range(600)]
    # Expected 0.67 + 0.33 * 4 / 197 = 0.677; four standard deviations are 0.076.
    assert abs(np.mean(hits) - 0.677) < 0.076


def test_memory_maps_of_half_precision(tmp_path):
    image, labels = volume((4, 4, 4))
    np.save(tmp_path / "image.npy", image.astype(np.float16))
    stored = np.load(tmp_path / "image.npy", mmap_mode="r")
    patch, _ = sample_patch(stored, labels, np.zeros((0, 3), int), (4, 4, 4), np.random.default_rng(0))
    assert type(patch) is np.ndarray
    np.testing.assert_array_equal(patch, image)


def test_patches_are_new_arrays():
    image, labels = volume()
    patch, label_patch = sample_patch(image, labels, np.zeros((0, 3), int), SHAPE, np.random.default_rng(0))
    patch[:], label_patch[:] = 0, 0
    assert image.all()
    assert labels.all()
