"""How is every patient of a hospital tested exactly once?

Cross-validation by patient inside one hospital: the patients are shuffled and dealt
into folds; each fold is the test part of one split, and validation patients are drawn
from the others. All cases of a patient are in the same part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from wardround.core.errors import DataRefused
from wardround.core.rng import stream
from wardround.data.splits import Split

# Of the patients that are not tested. With five folds this is the 60, 20, 20 of a job.
VAL_SHARE = 0.25


def folds(cases: Mapping[str, str], count: int, seed: int) -> tuple[Split, ...]:
    """Return `count` splits. Every patient is tested in one of them.

    cases: The patient of each case.
    seed: Another seed deals other folds and draws other validation patients.

    Test parts differ by one patient at most. DataRefused is raised for fewer than two
    folds, and unless two patients or more are left beside every test part.
    """
    order = _shuffled(cases, seed, "folds")
    if count < 2 or len(order) < count or len(order) - -(-len(order) // count) < 2:
        raise DataRefused(
            "cross-validation by patient",
            found=f"{len(order)} patients for {count} folds",
            expected="2 folds or more, a patient for each, and 2 patients beside each test part",
            fix="use fewer folds or more patients",
        )
    tested = [frozenset(order[number::count]) for number in range(count)]
    return tuple(_split(cases, seed, number, test) for number, test in enumerate(tested))


def whole(cases: Mapping[str, str], seed: int) -> Split:
    """Return a split without test patients, for a model that is tested elsewhere.

    cases, seed: As in `folds`. DataRefused is raised for fewer than two patients.
    """
    if len(set(cases.values())) < 2:
        raise DataRefused(
            "a split into training and validation",
            found="fewer than 2 patients",
            expected="2 patients or more",
            fix="use a hospital with more patients",
        )
    return _split(cases, seed, "whole", frozenset())


def indices(cases: Mapping[str, str]) -> dict[str, str]:
    """Return a number, as text, for each patient: their places in an order that only
    the holder of the identifiers can make again.

    It does not depend on seeds or folds, so that results of one patient can be paired.
    """
    return {patient: str(place) for place, patient in enumerate(_shuffled(cases, 0, "indices"))}


def _split(cases: Mapping[str, str], seed: int, number: int | str, test: Collection[str]) -> Split:
    order = _shuffled(cases, seed, "validation", number)
    rest = [patient for patient in order if patient not in test]
    validate = frozenset(rest[: max(1, round(VAL_SHARE * len(rest)))])
    train = frozenset(rest) - validate
    parts = (train, validate, test)
    return Split(*(tuple(sorted(c for c in cases if cases[c] in part)) for part in parts))


def _shuffled(cases: Mapping[str, str], seed: int, *purpose: str | int) -> list[str]:
    patients = sorted(set(cases.values()))
    return [patients[place] for place in stream(seed, *purpose).permutation(len(patients))]
