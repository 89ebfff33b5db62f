"""How well are patients assigned to classes, and what is the loss?

There is one row of probabilities per patient. Metrics say so when a class is absent.

    accuracy            share of patients whose most likely class is theirs
    balanced accuracy   mean recall of the classes that are present
    AUROC               mean over the classes present of one against the rest; not
                        defined with fewer than two classes present
    calibration error   ECE: 10 equal bins of the top probability,
                        |mean probability - accuracy| weighted by patients
    log loss            mean of -log p of the true class, p at least 1e-7

Intervals resample patients WITHIN each class, so that no class vanishes by chance; a
class with one patient adds no spread.

Sources: Brodersen et al. 2010 (balanced accuracy); Fawcett 2006 (AUROC with ties as
1/2); Guo et al. 2017, arXiv:1706.04599.
Deviations: 1. Absent classes are left out of means, and the classes that were present
are counted beside the number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wardround.core.rng import stream

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
METRICS = ("balanced_accuracy", "accuracy", "auroc", "calibration_error", "log_loss")
BINS, REPEATS = 10, 1000


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of logits [B, C] against labels int64 [B].

    weights: What each row counts, [B]; None: 1. The sum is divided by B and not by the
        weights, so that the mean over batches is that of the weighted loss.
    """
    each = cross_entropy_by_patient(logits, labels)
    return each.mean() if weights is None else (each * weights).mean()


def balancing_weights(counts: Sequence[int]) -> Floats:
    """Return what a patient of each class counts so that every class weighs the same.

    counts: Patients of each class. Their mean weight is 1; an absent class has 0.
    """
    n = np.asarray(counts, np.float64)
    present = n > 0
    found = np.zeros(len(n))
    found[present] = n.sum() / (present.sum() * n[present])
    return found


def cross_entropy_by_patient(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every row, [B].

    The gradient of one row does not depend on the others.
    """
    return functional.cross_entropy(logits, labels, reduction="none")


def categorical_divergence(p: Tensor, q: Tensor) -> float:
    """Return the mean over rows of KL(p || q), from logits [B, C], in float64."""
    a, b = functional.log_softmax(p.double(), 1), functional.log_softmax(q.double(), 1)
    return float((a.exp() * (a - b)).sum(1).mean())


def metrics(chances: Floats, labels: Ints) -> dict[str, float | None]:
    """Return METRICS of probabilities [N, C] and labels [N], N at least 1.

    A metric that is not defined for these labels is None.
    """
    true = chances[np.arange(len(labels)), labels]
    return {
        "balanced_accuracy": balanced_accuracy(chances, labels),
        "accuracy": float(np.mean(chances.argmax(1) == labels)),
        "auroc": auroc(chances, labels),
        "calibration_error": calibration_error(chances, labels),
        "log_loss": float(-np.log(np.maximum(true, 1e-7)).mean()),
    }


def balanced_accuracy(chances: Floats, labels: Ints) -> float:
    """Return the mean recall of the classes present."""
    hit = chances.argmax(1) == labels
    return float(np.mean([hit[labels == k].mean() for k in np.unique(labels)]))


def recalls(chances: Floats, labels: Ints) -> list[float]:
    """Return what each patient adds to the balanced accuracy.

    It is 0 for a patient in the wrong class, else N / (classes present * patients of
    its class), so that the mean over patients is the balanced accuracy.
    """
    present, counts = np.unique(labels, return_counts=True)
    each = dict(zip(present.tolist(), len(labels) / (len(present) * counts), strict=True))
    hit = chances.argmax(1) == labels
    return [float(each[int(label)]) if right else 0.0 for label, right in zip(labels, hit, strict=True)]


def auroc(chances: Floats, labels: Ints) -> float | None:
    """Return the mean one-against-rest AUROC of the classes present.

    With one class only it is None.
    """
    present = np.unique(labels)
    if len(present) < 2:
        return None
    return float(np.mean([_auroc_of(chances[:, k], labels == k) for k in present]))


def calibration_error(chances: Floats, labels: Ints) -> float:
    """Return the expected calibration error of the most likely class."""
    # A probability of exactly 1 belongs to the last bin.
    top, hit = chances.max(1), chances.argmax(1) == labels
    place = np.minimum((top * BINS).astype(np.int64), BINS - 1)
    total = 0.0
    for index in np.unique(place):
        inside = place == index
        total += float(inside.mean()) * abs(
            float(top[inside].mean()) - float(hit[inside].mean()),
        )
    return total


def intervals(
    chances: Floats,
    labels: Ints,
    seed: int,
    repeats: int = REPEATS,
) -> dict[str, dict[str, float | int | None]]:
    """Return value, low, high and cases of each metric.

    low and high bound the 95 % percentile bootstrap interval within classes. All but
    `cases` is None where a metric is not defined. There is no interval if every class
    has at most one patient.
    """
    value = metrics(chances, labels)
    rng = stream(seed, "bootstrap")
    drawn: dict[str, list[float]] = {name: [] for name in METRICS}
    if max(np.bincount(labels)) > 1:
        for _ in range(repeats):
            rows = _resampled(labels, rng)
            for name, one in metrics(chances[rows], labels[rows]).items():
                if one is not None:
                    drawn[name].append(one)
    found: dict[str, dict[str, float | int | None]] = {}
    for name in METRICS:
        low, high = (float(np.percentile(drawn[name], q)) for q in (2.5, 97.5)) if drawn[name] else (None, None)
        found[name] = {
            "value": value[name],
            "low": low,
            "high": high,
            "cases": len(labels),
        }
    return found


def paired_gain(
    a: Floats,
    b: Floats,
    labels: Ints,
    seed: int,
    metric: Callable[[Floats, Ints], float] = balanced_accuracy,
) -> dict[str, float | int | None]:
    """Return metric(a) - metric(b) on the same patients, with its 95 % interval.

    Patients are resampled as in `intervals`.
    """
    rng, value = stream(seed, "bootstrap"), metric(a, labels) - metric(b, labels)
    if max(np.bincount(labels)) < 2:
        return {"value": value, "low": None, "high": None, "cases": len(labels)}
    drawn = []
    for _ in range(REPEATS):
        rows = _resampled(labels, rng)
        drawn.append(metric(a[rows], labels[rows]) - metric(b[rows], labels[rows]))
    low, high = (float(np.percentile(drawn, q)) for q in (2.5, 97.5))
    return {"value": value, "low": low, "high": high, "cases": len(labels)}


def by_patient(
    chances: Mapping[str, Floats],
    labels: Mapping[str, int],
    patients: Mapping[str, str],
) -> tuple[list[str], Floats, Ints]:
    """Return (patients, mean probabilities [N, C] over their cases, labels [N]).

    Patients are sorted.
    """
    groups: dict[str, list[str]] = {}
    for case in sorted(chances):
        groups.setdefault(patients[case], []).append(case)
    names = sorted(groups)
    means = np.stack(
        [np.mean([chances[case] for case in groups[name]], axis=0) for name in names],
    )
    return names, means, np.array([labels[groups[name][0]] for name in names], np.int64)


def softmax(logits: Tensor) -> Floats:
    """Return probabilities, float64 [B, C]."""
    found: Floats = torch.softmax(logits.double(), 1).cpu().numpy()
    return found


def _auroc_of(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the share of (positive, negative) pairs in the right order.

    Ties count one half (the Mann-Whitney statistic).
    """
    from scipy.stats import rankdata

    many, rest = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - many * (many + 1) / 2) / (many * rest))


def _resampled(labels: Ints, rng: np.random.Generator) -> Ints:
    """Return row numbers drawn with replacement within each class."""
    parts = []
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        parts.append(rows[rng.integers(len(rows), size=len(rows))])
    return np.concatenate(parts).astype(np.int64)


def arrays(rows: Sequence[Mapping[str, float]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the probabilities [N, C] and the classes [N] of rows of patients."""
    names = [key for key in rows[0] if key.startswith("p ")]
    chances = np.array([[row[name] for name in names] for row in rows], np.float64)
    return chances, np.array([int(row["class"]) for row in rows], np.int64)
