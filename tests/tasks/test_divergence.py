from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from wardround.tasks.loss import bernoulli_divergence

KNOWN = torch.tensor([[True, True, False], [True, False, True]])


def logits(seed, scale=2.0):
    return torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(seed)) * scale


def test_equals_torchs_own():
    p, q = logits(0), logits(1)
    each = kl_divergence(Bernoulli(logits=p.double()), Bernoulli(logits=q.double())).mean((2, 3, 4))
    assert bernoulli_divergence(p, q, KNOWN) == pytest.approx(float(each[KNOWN].mean()), rel=1e-5)


def test_of_equal_outputs_is_zero_and_unknown_regions_do_not_count():
    p, q = logits(0), logits(1)
    assert bernoulli_divergence(p, p, KNOWN) == 0
    changed = torch.where(KNOWN[:, :, None, None, None], p, q)
    assert bernoulli_divergence(p, changed, KNOWN) == 0
    assert bernoulli_divergence(p, q, torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_certain_voxels_stay_finite():
    p, q = torch.full((1, 3, 2, 2, 2), 80.0), torch.full((1, 3, 2, 2, 2), -80.0)
    known = torch.ones(1, 3, dtype=torch.bool)
    assert bernoulli_divergence(p, q, known) == pytest.approx(80.0, rel=1e-4)
    assert bernoulli_divergence(q, p, known) == pytest.approx(80.0, rel=1e-4)
