from __future__ import annotations

import math

import pytest
import torch

from wardround.tasks.loss import dice_bce, dice_bce_by_patient

ALL = torch.ones(2, 3, dtype=torch.bool)


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, 4, 5, 6, generator=generator)
    return logits.requires_grad_(), (torch.rand(2, 3, 4, 5, 6, generator=generator) < 0.3).to(torch.uint8)


def test_same_as_monai_dice_plus_bce_in_value_and_gradient():
    from monai.losses import DiceLoss

    logits, targets = example()
    dice_bce(logits, targets, ALL, smooth=0.7).backward()
    ours = logits.grad
    logits.grad = None
    truth = targets.float()
    oracle = DiceLoss(sigmoid=True, smooth_nr=0.7, smooth_dr=0.7)(logits, truth)
    oracle = oracle + torch.nn.BCEWithLogitsLoss()(logits, truth)
    oracle.backward()
    assert dice_bce(logits, targets, ALL, smooth=0.7).item() == pytest.approx(oracle.item(), rel=1e-5)
    torch.testing.assert_close(ours, logits.grad)


def test_closed_form_at_zero_logits():
    """p = 1/2 everywhere and n of N voxels true: Dice term 1 - (n + s) / (N / 2 + n + s), cross-entropy log 2."""
    targets = torch.zeros(1, 3, 2, 2, 2)
    targets[:, 0, 0] = 1
    targets[:, 1] = 1
    expected = sum(1 - (n + 1) / (4 + n + 1) + math.log(2) for n in (4, 8, 0)) / 3
    assert dice_bce(torch.zeros(1, 3, 2, 2, 2), targets, ALL[:1]).item() == pytest.approx(expected, rel=1e-6)


def test_a_perfect_answer_costs_nothing_and_an_empty_one_too():
    targets = torch.zeros(1, 3, 4, 4, 4)
    targets[0, 0, :2] = 1
    assert dice_bce(100 * (2 * targets - 1), targets, ALL[:1]).item() < 1e-6
    assert dice_bce(torch.full((1, 3, 4, 4, 4), -100.0), torch.zeros(1, 3, 4, 4, 4), ALL[:1]).item() < 1e-6


def test_unknown_regions_have_no_say_whatever_their_logits():
    logits, targets = example()
    known = torch.tensor([[True, True, True], [False, False, True]])
    loss = dice_bce(logits, targets, known)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[1, :2].any()
    assert logits.grad[1, 2].all()
    moved = logits.detach().clone()
    moved[1, :2] = 1e30
    assert dice_bce(moved, targets, known).item() == loss.item()
    changed = targets.clone()
    changed[1, :2] = 1
    assert dice_bce(logits, changed, known).item() == loss.item()


def test_mean_over_known_regions_then_patients():
    logits, targets = example()
    known = torch.tensor([[True, False, True], [False, False, True]])

    def one(patient: int, region: int) -> float:
        flag = torch.zeros(1, 3, dtype=torch.bool)
        flag[0, region] = True
        return dice_bce(logits[patient : patient + 1], targets[patient : patient + 1], flag).item()

    expected = ((one(0, 0) + one(0, 2)) / 2 + one(1, 2)) / 2
    assert dice_bce(logits, targets, known).item() == pytest.approx(expected, rel=1e-5)


def test_a_patient_without_known_regions_weighs_nothing():
    logits, targets = example()
    known = torch.tensor([[True, True, True], [False, False, False]])
    alone = dice_bce_by_patient(logits, targets, ALL)[0].item()
    assert dice_bce(logits, targets, known).item() == pytest.approx(alone / 2)
    assert dice_bce(logits, targets, ~ALL).item() == 0


def test_patients_never_mix():
    logits, targets = example()
    losses = dice_bce_by_patient(logits, targets, ALL)
    (grad,) = torch.autograd.grad(losses[0], logits)
    assert not grad[1].any()
    assert losses[0].item() == pytest.approx(dice_bce_by_patient(logits[:1], targets[:1], ALL[:1]).item(), rel=1e-6)


def test_memory_format_and_target_type_do_not_matter():
    logits, targets = example()
    other = logits.detach().contiguous(memory_format=torch.channels_last_3d)
    loss = dice_bce(logits, targets, ALL).item()
    assert dice_bce(other, targets.float(), ALL).item() == pytest.approx(loss, rel=1e-6)
    assert dice_bce(other, targets.bool(), ALL).item() == pytest.approx(loss, rel=1e-6)


def test_huge_logits_stay_finite():
    logits = torch.full((1, 3, 2, 2, 2), 1e4, requires_grad=True)
    loss = dice_bce(logits, torch.zeros(1, 3, 2, 2, 2), ALL[:1])
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
