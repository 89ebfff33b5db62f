"""Which split a hospital's patients get, in jobs, baselines, sweeps and benchmarks alike.

Images with masks: a function of the patient's id (data/splits.py, split_patients). Classes: the same within each class, so
that a small hospital tests every class that it can (split_classes). Under patient-level DP: the id alone, and the training
part neither lends patients nor borrows any. Otherwise one patient more could move others (the third of a class, or one who
fills a part that had borrowed), and the promise is that the training parts of two worlds differ in one patient.
"""

from __future__ import annotations

from typing import Any

from wardround.data.splits import Split, split_classes, split_patients


def split_of(cohort: Any, seed: int = 0, *, patient_dp: bool = False) -> Split:
    """Return training, validation and test cases of a cohort; a job has seed 0. Refusals: see data/splits.py.

    patient_dp: whether a patient trains follows from its id alone
    """
    if patient_dp:
        return split_patients(cohort.patients, seed=seed, fixed_training=True)
    if cohort.label_kind != "classes":
        return split_patients(cohort.patients, seed=seed)
    return split_classes(cohort.patients, cohort.labels, seed=seed)
