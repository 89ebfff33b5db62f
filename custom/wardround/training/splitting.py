"""Which split does each of a hospital's patients get?

Jobs, baselines, sweeps and benchmarks all ask here. With masks the split is a function
of the patient's id (data/splits.py, split_patients). With classes it is the same within
each class, so that a small hospital tests every class that it can (split_classes).

Under patient-level DP the id alone decides, and the training part neither lends
patients nor borrows any. Otherwise one additional patient could move others (the third
of a class, or one who fills a part that had borrowed), whereas the guarantee compares
two worlds whose training parts differ in one patient.

A job may ask for even parts within each class (`sampling.stratified`,
split_stratified): every class that a hospital has twice is tested there. The price is
that new patients move others between the parts, so it is for hospitals whose cases are
fixed, and refused under patient-level DP.
"""

from __future__ import annotations

from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.data.splits import (
    Split,
    split_classes,
    split_patients,
    split_stratified,
)
from wardround.messages.allowed_names import CLASSES


def split_of(cohort: Any, seed: int = 0, *, patient_dp: bool = False) -> Split:
    """Return the training, validation and test cases of a cohort.

    seed: 0 in every job.
    patient_dp: Whether a patient's id alone decides if the patient trains. A cohort
        that is to be split evenly within classes is then refused with ConfigRefused.

    Other refusals are those of data/splits.py.
    """
    classes = cohort.label_kind == CLASSES
    # Neither labels nor other patients may decide here; see above.
    if patient_dp:
        require_ids_decide(classes and cohort.stratified)
        return split_patients(cohort.patients, seed=seed, fixed_training=True)
    if not classes:
        return split_patients(cohort.patients, seed=seed)
    if cohort.stratified:
        return split_stratified(cohort.patients, cohort.labels, seed=seed)
    return split_classes(cohort.patients, cohort.labels, seed=seed)


def require_ids_decide(stratified: bool) -> None:
    """Raise ConfigRefused where a job with patient-level privacy splits within classes."""
    if stratified:
        raise ConfigRefused(
            "a split that is even within classes",
            found="patient-level privacy",
            expected="no promise that a patient's id alone decides whether the patient trains",
            fix="--set sampling.stratified=false",
        )


def require_equal_weights(balanced: bool) -> None:
    """Raise ConfigRefused where a job with patient-level privacy weighs classes.

    One patient more would change the weight of all others, so clipping their gradients
    one by one would not bound what that patient does to the sum.
    """
    if balanced:
        raise ConfigRefused(
            "classes that weigh the same",
            found="patient-level privacy",
            expected="a loss in which no patient's weight depends on the others",
            fix="--set sampling.balanced=false",
        )
