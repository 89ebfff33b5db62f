"""Images of a patient are moved alike, their intensities each by itself; what is empty stays empty."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused
from wardround.tasks.picture_augment import Images, PictureAugment, turned

NONE = PictureAugment(*([0.0] * len(astuple(PictureAugment()))))


def only(**strengths: float) -> PictureAugment:
    return PictureAugment(**{**{name: 0.0 for name in PictureAugment.__dataclass_fields__}, **strengths})


def pictures(*shape: int) -> Images:
    """Two sequences with a bright block of their own brightness, and a missing one."""
    images = np.zeros((3, *shape), np.float32)
    images[0, ..., 10:20, 6:18] = 1.0
    images[1, ..., 10:20, 6:18] = 3.0
    return images


def applied(augment: PictureAugment, images: Images, seed: int = 0) -> Images:
    return augment(images, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", [(32, 40), (4, 32, 40)], ids=["flat", "volume"])
def test_sequences_are_moved_alike_and_missing_ones_stay_empty(shape: tuple[int, ...]) -> None:
    everything = PictureAugment(flip=0.5, shift=0.1, rotation=20, zoom=0.1, scale=0.1, offset=0.1, noise=0.1)
    images = pictures(*shape)
    for seed in range(20):
        found = applied(everything, images, seed)
        assert found.shape == images.shape
        assert found.dtype == np.float32
        assert not found[2].any()
        np.testing.assert_array_equal(found[0] != 0, found[1] != 0)
    np.testing.assert_array_equal(images, pictures(*shape))


def test_no_strength_changes_nothing() -> None:
    np.testing.assert_array_equal(applied(NONE, pictures(32, 40)), pictures(32, 40))


def test_the_same_state_gives_the_same_images() -> None:
    augment = PictureAugment(flip=0.5, rotation=20, zoom=0.1, noise=0.1)
    np.testing.assert_array_equal(applied(augment, pictures(32, 40), 1), applied(augment, pictures(32, 40), 1))
    assert (applied(augment, pictures(32, 40), 1) != applied(augment, pictures(32, 40), 2)).any()


def test_left_and_right_change_places() -> None:
    images = pictures(32, 40)
    np.testing.assert_array_equal(applied(only(flip=1.0), images), images[..., ::-1])


def test_a_shift_is_whole_pixels_and_brings_in_zeros() -> None:
    images, seen = pictures(32, 40), set()
    for seed in range(200):
        found = applied(only(shift=0.1), images, seed)
        assert found.sum() == images.sum()
        seen.add(tuple(np.argwhere(found[0])[0] - (10, 6)))
    assert {row for row, _ in seen} == set(range(-3, 4))
    assert {column for _, column in seen} == set(range(-4, 5))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_those_of_numpy(quarters: int) -> None:
    images = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(turned(images, quarters * np.pi / 2, 1.0), np.rot90(images, quarters, (1, 2)), atol=1e-5)


def test_a_turn_keeps_right_angles_where_sides_differ() -> None:
    """A square of pixels in an oblong image is a square of the same size after a quarter turn."""
    images = np.zeros((1, 21, 41), np.float32)
    images[0, 8:13, 18:23] = 1.0
    np.testing.assert_allclose(turned(images, np.pi / 2, 1.0), images, atol=1e-5)
    images[0, 8:13, 26:31] = 1.0  # eight pixels to the right: eight pixels up or down after the turn
    found = turned(images, np.pi / 2, 1.0)
    np.testing.assert_allclose(found[0, 0:5, 18:23], 1.0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_zoom_changes_the_area_by_its_square(factor: float) -> None:
    images = np.zeros((1, 64, 48), np.float32)
    images[0, 22:42, 14:34] = 1.0
    assert turned(images, 0.0, factor).sum() == pytest.approx(images.sum() * factor**2, rel=0.02)


def test_the_values_of_a_sequence_are_scaled_offset_and_noised_within_their_strengths() -> None:
    images = pictures(32, 40)
    inside = images != 0
    for seed in range(50):
        scaled = applied(only(scale=0.2), images, seed)
        ratios = [scaled[k][inside[k]] / images[k][inside[k]] for k in (0, 1)]
        for ratio in ratios:
            assert np.ptp(ratio) < 1e-6
            assert 0.8 <= ratio[0] <= 1.2
        assert ratios[0][0] != ratios[1][0]
        added = (applied(only(offset=0.3), images, seed) - images)[inside]
        assert np.abs(added).max() <= 0.3 + 1e-6
        noise = (applied(only(noise=0.5), images, seed) - images)[inside]
        assert noise.std() < 0.7


def test_usual_strengths_draw_what_they_drew_before_the_others_existed() -> None:
    """Rotation, zoom, flip and noise draw nothing while they are 0."""
    rng = np.random.default_rng(4)
    applied_ = PictureAugment()(pictures(32, 40), rng)
    again = np.random.default_rng(4)
    rows, columns = int(again.integers(-1, 2)), int(again.integers(-2, 3))
    factor, offset = (again.uniform(low, high, (3, 1, 1)).astype(np.float32) for low, high in ((0.9, 1.1), (-0.1, 0.1)))
    moved = np.roll(pictures(32, 40), (rows, columns), (1, 2))
    np.testing.assert_array_equal(applied_, moved * factor + offset * (moved != 0))
    assert rng.random() == again.random()


def test_settings_name_strengths_other_than_the_usual_ones() -> None:
    assert PictureAugment.of({}) == PictureAugment()
    assert PictureAugment.of({"flip": 1, "rotation": 10.0}) == PictureAugment(flip=1.0, rotation=10.0)


@pytest.mark.parametrize(
    "said",
    [{"turn": 1.0}, {"flip": "often"}, {"flip": True}, [0.5], None, {"flip": 1.5}, {"zoom": 1.0}, {"noise": -0.1},
     {"shift": 0.6}, {"rotation": float("nan")}],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused(said: object) -> None:
    with pytest.raises(ConfigRefused, match=r"sampling\.augmentation"):
        PictureAugment.of(said)
