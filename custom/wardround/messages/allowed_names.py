"""Which names a site may use in a message: of the models that it scored, of the
metrics, and of how many patients at least a statistic must cover.

A job's task says which regions, classes, images and kinds of labels there are. Only the
names of that job pass the site's outbound filter and the server (`allowed`). A name is
compared with a list, never with a pattern. Reports show what is listed here; a new
column of a report does not widen what leaves a site.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

CANDIDATES = ("local", "fedavg", "fedavg_finetuned", "personalised", "interpolated", "blend", "warm_start")
"""The models that a site compares, the simplest first. A blend is two networks."""

OVERLAP, DISTANCES = "dice", ("hd95_mm", "surface_mm")
SHARES = ("missed", "invented")
MEASURES = (OVERLAP, *DISTANCES, *SHARES)
"""What is measured of a region. The name of a score is MEASURE_REGION."""
WITH_MEAN = (OVERLAP, "hd95_mm")
CLASSIFICATION = ("balanced_accuracy", "accuracy", "auroc", "calibration_error", "log_loss")
CLASSES = "classes"
"""The kind of labels of a task that sorts patients into classes."""
# A list of allowed names is flat; this prefix keeps label kinds apart from all others.
_LABELS = "labels "

LEAST_PATIENTS = 5
"""No statistic over fewer patients leaves. few_patients.py says why it is 5."""


def metric_names(regions: Sequence[str], measures: Sequence[str] = MEASURES) -> tuple[str, ...]:
    """Return the names of the scores of these regions.

    They are dice_mean, dice_A, ..., hd95_mm_mean, hd95_mm_A, ..., in the order of
    MEASURES. Only the measures in WITH_MEAN have a mean over regions.
    """
    return tuple(
        f"{measure}_{region}"
        for measure in MEASURES
        if measure in measures
        for region in (("mean", *regions) if measure in WITH_MEAN else regions)
    )


def measure_of(name: str) -> str | None:
    """Return what a score measures: one of MEASURES or CLASSIFICATION. For a name that
    is not the name of a score, return None.
    """
    if name in CLASSIFICATION:
        return name
    return next((one for one in MEASURES if name.startswith(f"{one}_") and len(name) > len(one) + 1), None)


def regions_in(names: Iterable[str]) -> tuple[str, ...]:
    """Return the regions that the scores cover, in the order in which they come.

    `mean` is not a region, and is left out.
    """
    parts = ((name, measure_of(name)) for name in names)
    found = [name[len(measure) + 1 :] for name, measure in parts if measure in MEASURES]
    return tuple(dict.fromkeys(one for one in found if one != "mean"))


def label_name(kind: str) -> str:
    """Return the name of a kind of labels in a list of allowed names."""
    return _LABELS + kind


@dataclass(frozen=True)
class Allowed:
    """The names of one job.

    metrics: the names of its scores.
    label_kinds: its kinds of labels.
    others: all its other names, of images, classes and blocks.
    """

    metrics: tuple[str, ...]
    label_kinds: tuple[str, ...]
    others: tuple[str, ...] = ()


BRAIN_TUMOURS = Allowed(metric_names(("ET", "TC", "WT")), ("brats", "whole_tumour"))
"""What a job without a list of its own may say, beside CLASSIFICATION.

Such a job is older than tasks, or its outbound filter is not ours.
"""
SHIPPED = Allowed((*BRAIN_TUMOURS.metrics, *CLASSIFICATION), (*BRAIN_TUMOURS.label_kinds, CLASSES))


def allowed(words: Collection[str] | None) -> Allowed:
    """Return a job's list of allowed names, sorted by what they name.

    A list without any score, or without any kind of labels, gets those of SHIPPED for
    that part. No list at all gets both.
    """
    words = words or ()
    kinds = tuple(word.removeprefix(_LABELS) for word in words if word.startswith(_LABELS))
    metrics = tuple(word for word in words if measure_of(word))
    others = tuple(word for word in words if not (word.startswith(_LABELS) or measure_of(word)))
    return Allowed(metrics or SHIPPED.metrics, kinds or SHIPPED.label_kinds, others)
