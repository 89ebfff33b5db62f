"""Which split does each of a hospital's patients get?

Jobs, baselines, sweeps and benchmarks all ask here. With masks the split is a function
of the patient's id (data/splits.py, split_patients). With classes it is the same within
each class, so that a small hospital tests every class that it can (split_classes).

Under patient-level DP the id alone decides, and the training part neither lends
patients nor borrows any. Otherwise one additional patient could move others (the third
of a class, or one who fills a part that had borrowed), whereas the guarantee compares
two worlds whose training parts differ in one patient.
"""

from __future__ import annotations

from typing import Any

from wardround.data.splits import Split, split_classes, split_patients


def split_of(cohort: Any, seed: int = 0, *, patient_dp: bool = False) -> Split:
    """Return the training, validation and test cases of a cohort.

    seed: 0 in every job.
    patient_dp: Whether a patient's id alone decides if the patient trains.

    Refusals are those of data/splits.py.
    """
    # Neither labels nor other patients may decide here; see above.
    if patient_dp:
        return split_patients(cohort.patients, seed=seed, fixed_training=True)
    if cohort.label_kind != "classes":
        return split_patients(cohort.patients, seed=seed)
    return split_classes(cohort.patients, cohort.labels, seed=seed)
