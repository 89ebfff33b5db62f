from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from wardround.core.errors import ConfigRefused
from wardround.tasks.augment import OFFSET, Augment

B, SIZE = 8, (6, 7, 8)
NONE = Augment.none()


def batch(seed: int = 0):
    """Brain with background 0, a tumour, and one missing modality per second patient."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(B, 4, *SIZE, generator=generator)
    images *= torch.rand(B, 1, *SIZE, generator=generator) > 0.4
    present = torch.ones(B, 4, dtype=torch.bool)
    present[::2, 2] = False
    images[::2, 2] = 0
    return images, present, (torch.rand(B, 3, *SIZE, generator=generator) > 0.8).to(torch.uint8)


def run(augment: Augment, seed: int = 1, data=None):
    return augment(*(data or batch()), torch.Generator().manual_seed(seed))


def only(**settings: float) -> Augment:
    return dataclasses.replace(NONE, **settings)


def test_none_changes_and_draws_nothing():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    data = batch()
    assert all(a is b for a, b in zip(NONE(*data, generator), data, strict=True))
    assert torch.equal(generator.get_state(), before)


def test_reproducible_from_the_generator_alone_and_inputs_are_kept():
    data, copy = batch(), batch()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = run(Augment(), 1, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(data, copy, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, run(Augment(), 1), strict=True))
    assert not torch.equal(first[0], run(Augment(), 2)[0])
    assert [(a.shape, a.dtype) for a in first] == [(a.shape, a.dtype) for a in data]


@pytest.mark.parametrize("name", ["curve", "scale", "shift", "bias", "noise"])
def test_intensity_changes_leave_background_missing_modalities_and_targets(name):
    images, present, targets = batch()
    new, flags, labels = run(only(**{name: 0.5, "noisy": 1.0}))
    assert torch.equal(new == 0, images == 0)
    assert torch.equal(flags, present)
    assert torch.equal(labels, targets)
    inside = images != 0
    assert ((new != images) & inside).sum() > 0.99 * inside.sum()


def test_everything_together_keeps_background_and_missing_modalities_at_zero():
    images, present, targets = batch()
    strong = Augment(flip=0.0, curve=0.9, scale=0.5, shift=0.9, bias=0.5, noise=0.9, noisy=1.0, drop=0.3)
    new, flags, _ = run(strong, 1, (images, present, targets))
    assert not new[images == 0].any()
    assert not new[~flags].any()
    assert not (flags & ~present).any()
    assert torch.isfinite(new).all()


def test_flips_move_images_and_targets_together():
    images, present, _ = batch()
    targets = (images[:, :3] > 0.5).to(torch.uint8)
    new, _, labels = run(only(flip=0.5), 1, (images, present, targets))
    assert torch.equal(labels, (new[:, :3] > 0.5).to(torch.uint8))
    for before, after in zip(images, new, strict=True):
        flips = [[1 + axis for axis in range(3) if code >> axis & 1] for code in range(8)]
        assert sum(torch.equal(before.flip(dims), after) for dims in flips) == 1
    assert not torch.equal(new, images)


def test_flip_always_is_the_mirror_image_along_all_axes():
    images, _, targets = batch()
    new, _, labels = run(only(flip=1.0))
    assert torch.equal(new, images.flip(2, 3, 4))
    assert torch.equal(labels, targets.flip(2, 3, 4))


def one_value(value: float):
    return torch.full((B, 4, *SIZE), value), torch.ones(B, 4, dtype=torch.bool), torch.zeros(B, 3, *SIZE)


def test_scale_and_shift_are_affine_per_patient_and_modality():
    at_one, at_three = (run(only(scale=0.2, shift=0.3), 1, one_value(value))[0] for value in (1.0, 3.0))
    assert torch.allclose(at_one, at_one[:, :, :1, :1, :1].expand_as(at_one))
    scale = (at_three - at_one)[:, :, 0, 0, 0] / 2
    shift = at_one[:, :, 0, 0, 0] - scale
    assert scale.min() >= 0.8 - 1e-5
    assert scale.max() <= 1.2 + 1e-5
    assert shift.abs().max() <= 0.3 + 1e-5
    assert len(scale.unique()) == len(shift.unique()) == 4 * B


def test_curve_is_monotone_and_within_its_bound():
    """z + a z^2 / (1 + |z|) with |a| <= 0.9 keeps the order, and differs from z by at most 0.9 |z|."""
    z = torch.linspace(-4, 4, 6 * 7 * 8).reshape(1, 1, *SIZE).expand(B, 4, *SIZE)
    new = run(only(curve=0.9), 1, (z, *one_value(0.0)[1:]))[0].flatten(2)
    assert (new.diff(dim=2) > 0).all()
    assert ((new - z.flatten(2)).abs() <= 0.9 * z.flatten(2).abs() + 1e-5).all()


def test_bias_is_a_smooth_positive_field_on_raw_intensities():
    """The ratio of raw intensities z + OFFSET is the same field for every z, and its logarithm is separable."""
    low, high = (run(only(bias=0.3), 1, one_value(value))[0] for value in (0.5, 2.0))
    field = (low + OFFSET) / (0.5 + OFFSET)
    torch.testing.assert_close(field, (high + OFFSET) / (2.0 + OFFSET))
    log = field.log()
    # two weights of at most 0.3 per axis, Legendre polynomials of at most 1
    assert log.abs().max() <= 6 * 0.3 + 1e-5
    corner = log[:, :, :1, :1, :1]
    parts = log[:, :, :, :1, :1] + log[:, :, :1, :, :1] + log[:, :, :1, :1, :] - 2 * corner
    torch.testing.assert_close(log, parts, atol=1e-5, rtol=0)
    # third differences of a quadratic vanish
    assert log[:, :, :, 0, 0].diff(n=3, dim=2).abs().max() < 1e-4


def test_noise_is_centred_with_the_drawn_strength_and_hits_its_share():
    data = (torch.ones(64, 4, 16, 16, 16), torch.ones(64, 4, dtype=torch.bool), torch.zeros(64, 1, 1, 1, 1))
    noise = run(only(noise=0.5, noisy=0.5), 1, data)[0].flatten(2) - 1
    hit = noise.abs().amax((1, 2)) > 0
    # Binomial(64, 1/2): four standard deviations are 16.
    assert abs(int(hit.sum()) - 32) < 16
    deviations = noise[hit].std(2)
    assert deviations.max() < 0.5 * 1.1
    # uniform on [0, 0.5]: mean 0.25, standard error at most 0.145 / sqrt(64)
    assert abs(deviations.mean().item() - 0.25) < 0.08
    assert (noise[hit].mean(2).abs() < 5 * deviations / math.sqrt(16**3) + 1e-6).all()


def test_dropped_modalities_are_zero_flagged_and_never_the_last():
    images, present, targets = batch()
    present[1] = torch.tensor([False, True, False, False])
    images[1, [0, 2, 3]] = 0
    lost = torch.zeros(B, 4)
    for seed in range(200):
        new, flags, _ = run(only(drop=0.9), seed, (images, present, targets))
        assert flags.any(1).all()
        assert not (flags & ~present).any()
        expected = images * flags[..., None, None, None]
        assert torch.equal(new, expected)
        lost += present & ~flags
    assert not lost[1].any()
    assert (lost[3] > 50).all()


def test_share_of_dropped_modalities():
    """With four present, one keeper and probability q each: 3 q / 4 of the modalities are lost."""
    data = (torch.ones(2000, 4, 1, 1, 1), torch.ones(2000, 4, dtype=torch.bool), torch.zeros(2000, 1, 1, 1, 1))
    flags = run(only(drop=0.4), 1, data)[1]
    # 8000 draws with mean 0.3: four standard deviations are 0.02
    assert abs((~flags).float().mean().item() - 0.3) < 0.02


def test_a_patient_without_modalities_stays_without():
    data = (torch.zeros(2, 4, *SIZE), torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 3, *SIZE))
    images, flags, _ = run(Augment(), 1, data)
    assert not images.any()
    assert not flags.any()


@pytest.mark.parametrize(
    "settings", [{"flip": 1.1}, {"drop": 1.0}, {"curve": 1.0}, {"noise": -0.1}, {"bias": float("nan")}]
)
def test_nonsense_is_refused(settings):
    with pytest.raises(ConfigRefused):
        Augment(**settings)


def test_a_share_of_the_patients_is_turned_whole():
    """Either a patient is as before, or every image and target of it is turned; nothing else is drawn without it."""
    images, present, targets = batch()
    changed, followed = [], 0
    for seed in range(60):
        new, flags, labels = run(only(turned=0.2, rotate=30.0, zoom=0.25), seed)
        assert torch.equal(flags, present)
        assert not new[::2, 2].any(), "a missing modality stays missing"
        moved = [not torch.equal(new[b, 0], images[b, 0]) for b in range(B)]
        for b in range(B):
            # A turn by less than half a voxel moves no target.
            assert torch.equal(labels[b], targets[b]) or moved[b]
            assert all(torch.equal(new[b, c], images[b, c]) != moved[b] for c in (0, 1, 3))
        changed += moved
        followed += sum(not torch.equal(*pair) for pair in zip(labels, targets, strict=True))
    assert followed > 0.8 * sum(changed)
    assert sum(changed) / len(changed) == pytest.approx(0.2, abs=0.06)


def test_without_a_share_rotation_and_zoom_draw_nothing():
    plain, idle = Augment(), dataclasses.replace(Augment(), rotate=30.0, zoom=0.25)
    assert all(torch.equal(a, b) for a, b in zip(run(plain), run(idle), strict=True))


@pytest.mark.parametrize("wrong", [{"turned": 1.1}, {"rotate": 181.0}, {"rotate": -1.0}, {"zoom": 1.0}], ids=str)
def test_a_senseless_turn_is_refused(wrong):
    with pytest.raises(ConfigRefused, match="augmentation"):
        Augment(**wrong)
