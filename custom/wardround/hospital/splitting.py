"""Which split a hospital's patients get, in jobs, baselines, sweeps and benchmarks alike.

Images with masks: a function of the patient's id (data/splits.py, split_patients). Classes: the same within each class, so
that a small hospital tests every class that it can (split_classes). Classes under patient-level DP: the id alone. There
one patient more, the third of a class, could put others of that class into another part, and the promise is that the
training parts of two worlds differ in one patient.
"""

from __future__ import annotations

from typing import Any

from wardround.data.splits import Split, split_classes, split_patients


def split_of(cohort: Any, seed: int = 0, *, by_id: bool = False) -> Split:
    """Return training, validation and test cases of a cohort; a job has seed 0. Refusals: see data/splits.py.

    by_id: classes are not looked at, as under patient-level DP
    """
    if cohort.label_kind != "classes" or by_id:
        return split_patients(cohort.patients, seed=seed)
    return split_classes(cohort.patients, cohort.labels, seed=seed)
