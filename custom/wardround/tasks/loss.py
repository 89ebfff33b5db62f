"""What is the training loss of a segmentation?

It is soft Dice plus binary cross-entropy, per patient and region, over known regions
only.

    p = sigmoid(logits), s = smooth
    L(b, r) = 1 - (2 sum p t + s) / (sum p + sum t + s) + mean BCE(p, t)
    L(b) = mean of L(b, r) over the regions known in b (0 if none)
    L = mean of L(b) over the batch

Source: Milletari et al. 2016, arXiv:1606.04797; Isensee et al. 2021 (Dice +
cross-entropy).
Deviations: 1. No sum runs over several patients: the gradient of one does not depend on
the others in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# The axes D, H, W.
VOXELS = (2, 3, 4)


def dice_bce(logits: Tensor, targets: Tensor, known: Tensor, smooth: float = 1.0) -> Tensor:
    """Return the scalar loss of logits [B, R, D, H, W].

    targets: 0 or 1 of any type, in the shape of the logits.
    known: Which regions are known, bool [B, R].

    An unknown region adds no loss, and its gradient is exactly 0. For an empty target
    both terms fall to 0 with the predicted volume.
    """
    return dice_bce_by_patient(logits, targets, known, smooth).mean()


def dice_bce_by_patient(
    logits: Tensor,
    targets: Tensor,
    known: Tensor,
    smooth: float = 1.0,
) -> Tensor:
    """Return the loss of every patient, [B].

    The gradient of one does not reach the logits of the others.
    """
    logits = logits.contiguous()
    t, p = targets.to(logits.dtype).contiguous(), torch.sigmoid(logits)
    overlap = (p * t).sum(VOXELS)
    volume = p.sum(VOXELS)
    truth = t.sum(VOXELS)
    dice = 1 - (2 * overlap + smooth) / (volume + truth + smooth)
    cross_entropy = functional.binary_cross_entropy_with_logits(
        logits,
        t,
        reduction="none",
    ).mean(VOXELS)
    loss = torch.where(known, dice + cross_entropy, torch.zeros_like(dice))
    return loss.sum(1) / known.sum(1).clamp(min=1)


def bernoulli_divergence(p: Tensor, q: Tensor, known: Tensor) -> float:
    """Return KL(p || q) of independent voxels, from logits [B, R, D, H, W].

    It is a mean over voxels and the known regions, bool [B, R]; 0 if none is known. It
    is computed from log sigmoid, so that certain voxels neither overflow nor vanish.
    """
    log, chance = functional.logsigmoid, torch.sigmoid(p)
    each = chance * (log(p) - log(q)) + (1 - chance) * (log(-p) - log(-q))
    found = each.mean(VOXELS)[known]
    return float(found.double().mean()) if found.numel() else 0.0
