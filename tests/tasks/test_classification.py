"""Metrics of classes against closed forms, scikit-free oracles, and the cases in which a number has no meaning."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from wardround.tasks.classification import (
    METRICS,
    auroc,
    balanced_accuracy,
    balancing_weights,
    by_patient,
    calibration_error,
    categorical_divergence,
    cross_entropy,
    cross_entropy_by_patient,
    intervals,
    metrics,
    paired_gain,
    softmax,
)


def rows(seed=0, n=40, classes=3):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(classes), n)
    return chances, rng.integers(classes, size=n)


def test_loss_is_per_patient():
    logits = torch.randn(5, 3, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1, 0])
    each = cross_entropy_by_patient(logits, labels)
    assert cross_entropy(logits, labels).item() == pytest.approx(each.mean().item())
    (gradient,) = torch.autograd.grad(each[2], logits)
    assert gradient[2].any()
    assert not gradient[[0, 1, 3, 4]].any()


def test_divergence_is_torchs_own():
    p, q = torch.randn(6, 4) * 3, torch.randn(6, 4) * 3
    each = kl_divergence(Categorical(logits=p.double()), Categorical(logits=q.double()))
    assert categorical_divergence(p, q) == pytest.approx(float(each.mean()))
    assert categorical_divergence(p, p) == 0


def test_softmax_adds_up_to_one():
    assert softmax(torch.tensor([[1000.0, 0.0, -1000.0]])).tolist() == [[1.0, 0.0, 0.0]]


def test_balanced_accuracy_counts_every_class_the_same():
    chances = np.array([[0.9, 0.1]] * 9 + [[0.8, 0.2]])
    labels = np.array([0] * 9 + [1])
    assert metrics(chances, labels)["accuracy"] == pytest.approx(0.9)
    assert balanced_accuracy(chances, labels) == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_auroc_is_the_share_of_pairs_in_order(seed):
    chances, labels = rows(seed, 15)
    chances = np.round(chances, 1)  # ties
    if len(np.unique(labels)) < 2:
        return
    each = []
    for k in np.unique(labels):
        pairs = itertools.product(chances[labels == k, k], chances[labels != k, k])
        each.append(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]))
    assert auroc(chances, labels) == pytest.approx(np.mean(each))


def test_one_class_only():
    chances, labels = rows()
    labels[:] = 1
    found = metrics(chances, labels)
    assert found["auroc"] is None
    assert found["balanced_accuracy"] == found["accuracy"]
    told = intervals(chances, labels, 0, 100)
    assert told["auroc"] == {"value": None, "low": None, "high": None, "cases": 40}
    assert told["accuracy"]["low"] is not None


def test_an_absent_class_is_left_out_of_the_means():
    chances, labels = rows()
    keep = labels != 2
    found = metrics(chances[keep], labels[keep])
    each = [np.mean(chances[keep][labels[keep] == k].argmax(1) == k) for k in (0, 1)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(each))


def test_calibration_of_what_is_right_as_often_as_it_says():
    chances = np.array([[0.75, 0.25]] * 100)
    labels = np.array([0] * 75 + [1] * 25)
    assert calibration_error(chances, labels) == pytest.approx(0)
    assert calibration_error(chances, np.zeros(100, np.int64)) == pytest.approx(0.25)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1.0


def test_intervals_hold_the_value_and_shrink():
    few, many = (intervals(*rows(1, n), 0, 300) for n in (30, 480))
    for name in METRICS:
        one, other = few[name], many[name]
        assert one["low"] <= one["value"] <= one["high"] or name == "calibration_error"
        assert other["high"] - other["low"] < one["high"] - one["low"]
    assert intervals(*rows(1, 30), 0, 300) == few


def test_a_single_patient_has_no_interval():
    told = intervals(np.array([[0.2, 0.8]]), np.array([1]), 0)
    assert told["accuracy"] == {"value": 1.0, "low": None, "high": None, "cases": 1}
    gain = paired_gain(np.array([[0.2, 0.8]]), np.array([[0.8, 0.2]]), np.array([1]), 0)
    assert gain == {"value": 1.0, "low": None, "high": None, "cases": 1}


def test_a_model_gains_nothing_over_itself():
    chances, labels = rows()
    gain = paired_gain(chances, chances, labels, 0)
    assert (gain["value"], gain["low"], gain["high"]) == (0, 0, 0)


def test_a_patient_with_several_images_is_one_row():
    chances = {"b1": np.array([0.2, 0.8]), "a": np.array([0.9, 0.1]), "b2": np.array([0.6, 0.4])}
    names, means, labels = by_patient(chances, {"a": 0, "b1": 1, "b2": 1}, {"a": "A", "b1": "B", "b2": "B"})
    assert names == ["A", "B"]
    np.testing.assert_allclose(means, [[0.9, 0.1], [0.4, 0.6]])
    assert labels.tolist() == [0, 1]


def test_every_class_weighs_the_same_in_a_balanced_loss() -> None:
    """The weighted sum of one loss per patient is the mean over classes of each class's mean, times the patients."""
    weights = balancing_weights([6, 3, 0])
    assert weights.tolist() == [9 / (2 * 6), 9 / (2 * 3), 0]
    assert (weights * [6, 3, 0]).sum() == 9
    labels = torch.tensor([0] * 6 + [1] * 3)
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double()
    each = cross_entropy_by_patient(logits, labels)
    found = cross_entropy(logits, labels, torch.from_numpy(weights)[labels])
    torch.testing.assert_close(found, (each[:6].mean() + each[6:].mean()) / 2)
    torch.testing.assert_close(cross_entropy(logits, labels, torch.ones(9)), cross_entropy(logits, labels))
