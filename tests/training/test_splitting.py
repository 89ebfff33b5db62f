"""Which split a hospital gets: by the task, and under patient-level privacy by the patient's id alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wardround.core.errors import ConfigRefused
from wardround.data.splits import split_classes, split_patients, split_stratified
from wardround.training.splitting import split_of

LABELS = {f"p{k}": k % 3 for k in range(12)}
COHORT = SimpleNamespace(
    label_kind="classes", patients={case: case for case in LABELS}, labels=LABELS, stratified=False
)


def test_classes_are_looked_at_only_where_that_breaks_no_promise() -> None:
    by_class = split_classes(COHORT.patients, LABELS, seed=1)
    by_id = split_patients(COHORT.patients, seed=1)
    assert by_class != by_id
    assert split_of(COHORT, 1) == by_class
    assert split_of(COHORT, 1, patient_dp=True) == split_patients(COHORT.patients, seed=1, fixed_training=True)
    masks = SimpleNamespace(label_kind="brats", patients=COHORT.patients)
    assert split_of(masks, 1) == by_id


def test_even_parts_are_for_jobs_that_ask_for_them_and_never_under_patient_level_privacy() -> None:
    even = SimpleNamespace(**{**vars(COHORT), "stratified": True})
    assert split_of(even, 1) == split_stratified(COHORT.patients, LABELS, seed=1) != split_of(COHORT, 1)
    with pytest.raises(ConfigRefused, match=r"(?s)patient-level privacy.*sampling\.stratified=false"):
        split_of(even, 1, patient_dp=True)
