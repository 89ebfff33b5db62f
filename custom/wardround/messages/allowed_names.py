"""The words that a site may use in a message: which models it scored, by which metrics, and over how many patients at least.

Which regions, classes, images and kinds of masks there are is for a job's task to say; the names of that job, and no others,
pass its exit and the server (`allowed`). A name is compared with a list, never with a pattern.
Reports show what is listed here; a new column of a report does not widen what leaves a site.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

CANDIDATES = ("local", "fedavg", "fedavg_finetuned", "personalised")
"""The models that a site compares, the simplest first."""

OVERLAP, DISTANCES = "dice", ("hd95_mm", "surface_mm")
SHARES = ("missed", "invented")
MEASURES = (OVERLAP, *DISTANCES, *SHARES)
"""What is measured of a region; a score's name is MEASURE_REGION."""
WITH_MEAN = (OVERLAP, "hd95_mm")
CLASSIFICATION = ("balanced_accuracy", "accuracy", "auroc", "calibration_error", "log_loss")
CLASSES = "classes"
"""The kind of labels of a task that tells classes of patients."""
_LABELS = "labels "

LEAST_PATIENTS = 5
"""No statistic over fewer patients leaves: few_patients.py says why 5."""


def metric_names(regions: Sequence[str], measures: Sequence[str] = MEASURES) -> tuple[str, ...]:
    """Return the names of the scores of these regions: dice_mean, dice_A, ..., hd95_mm_mean, hd95_mm_A, ..."""
    return tuple(
        f"{measure}_{region}"
        for measure in MEASURES
        if measure in measures
        for region in (("mean", *regions) if measure in WITH_MEAN else regions)
    )


def measure_of(name: str) -> str | None:
    """Return what a score measures: one of MEASURES or CLASSIFICATION; a name that is no score's: None."""
    if name in CLASSIFICATION:
        return name
    return next((one for one in MEASURES if name.startswith(f"{one}_") and len(name) > len(one) + 1), None)


def regions_in(names: Iterable[str]) -> tuple[str, ...]:
    """Return the regions that scores are of, in the order in which they come; `mean` is none."""
    parts = ((name, measure_of(name)) for name in names)
    found = [name[len(measure) + 1 :] for name, measure in parts if measure in MEASURES]
    return tuple(dict.fromkeys(one for one in found if one != "mean"))


def label_name(kind: str) -> str:
    """Return the name under which a kind of masks stands in a list of allowed names."""
    return _LABELS + kind


@dataclass(frozen=True)
class Allowed:
    """The names of one job: its scores, its kinds of labels, and the others: images, classes, blocks."""

    metrics: tuple[str, ...]
    label_kinds: tuple[str, ...]
    others: tuple[str, ...] = ()


BRAIN_TUMOURS = Allowed(metric_names(("ET", "TC", "WT")), ("brats", "whole_tumour"))
"""What a job without a list of its own may say, beside CLASSIFICATION: its exit is older than tasks, or not ours."""
SHIPPED = Allowed((*BRAIN_TUMOURS.metrics, *CLASSIFICATION), (*BRAIN_TUMOURS.label_kinds, CLASSES))


def allowed(words: Collection[str] | None) -> Allowed:
    """Return a job's list of allowed names by what they are names of.

    a list without any score: those of SHIPPED; without any kind of labels: those of SHIPPED; no list at all: both
    """
    words = words or ()
    kinds = tuple(word.removeprefix(_LABELS) for word in words if word.startswith(_LABELS))
    metrics = tuple(word for word in words if measure_of(word))
    others = tuple(word for word in words if not (word.startswith(_LABELS) or measure_of(word)))
    return Allowed(metrics or SHIPPED.metrics, kinds or SHIPPED.label_kinds, others)
