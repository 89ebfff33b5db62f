"""Which split a hospital gets: by the task, and under patient-level privacy by the patient's id alone."""

from __future__ import annotations

from types import SimpleNamespace

from wardround.data.splits import split_classes, split_patients
from wardround.training.splitting import split_of

LABELS = {f"p{k}": k % 3 for k in range(12)}
COHORT = SimpleNamespace(label_kind="classes", patients={case: case for case in LABELS}, labels=LABELS)


def test_classes_are_looked_at_only_where_that_breaks_no_promise() -> None:
    by_class = split_classes(COHORT.patients, LABELS, seed=1)
    by_id = split_patients(COHORT.patients, seed=1)
    assert by_class != by_id
    assert split_of(COHORT, 1) == by_class
    assert split_of(COHORT, 1, patient_dp=True) == split_patients(COHORT.patients, seed=1, fixed_training=True)
    masks = SimpleNamespace(label_kind="brats", patients=COHORT.patients)
    assert split_of(masks, 1) == by_id
