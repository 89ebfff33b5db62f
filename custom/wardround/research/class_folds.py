"""How is every labelled patient of a hospital tested once? By folds that are even within
each class.

One split tests a fifth of the patients, which are too few to tell two models apart.
With K folds every patient is tested by a model that has not seen the patient, and the
paired difference of two methods is over all of them.

Sources: Kohavi 1995 (stratified cross-validation).
Deviations: 1. A class with few patients is trained on and never tested, so that no
patient is tested by a hospital that has no other patient of the class to learn from.
"""

from __future__ import annotations

from collections.abc import Mapping

from wardround.core.errors import ConfigRefused
from wardround.core.rng import derive
from wardround.data.splits import Split

# One patient for each part, as in data/splits.py.
LEAST = 3


def class_folds(
    cases: Mapping[str, str],
    labels: Mapping[str, int],
    folds: int,
    seed: int,
) -> dict[str, int]:
    """Return the fold, 0 to folds - 1, of every patient of a class with LEAST or more.

    cases: The patient of each case.
    labels: The class of each case; all cases of a patient have the same.
    folds: 3 or more; fewer raise ConfigRefused.

    The sizes of the folds differ by at most one patient, over all classes as within
    each. The order within a class is a hash of id and seed.
    """
    if folds < LEAST:
        raise ConfigRefused(
            "the folds of a cross-validation",
            found=str(folds),
            expected=f"{LEAST} or more: one each for training, validation and test",
            fix=f"ask for {LEAST} folds or more",
        )
    classes: dict[int, set[str]] = {}
    for case, patient in cases.items():
        classes.setdefault(labels[case], set()).add(patient)
    found: dict[str, int] = {}
    for label in sorted(classes):
        if len(classes[label]) >= LEAST:
            for patient in sorted(classes[label], key=lambda who: derive(seed, "folds", who)):
                # Each class goes on where the one before it ended.
                found[patient] = len(found) % folds
    return found


def fold_split(cases: Mapping[str, str], of: Mapping[str, int], folds: int, fold: int) -> Split:
    """Return the split that tests one fold, validates on the next one, and trains on the rest.

    of: The folds of the patients (`class_folds`); a patient without one trains.
    fold: 0 to folds - 1; another raises ConfigRefused.

    A hospital with fewer patients than folds has splits whose test or validation part is
    empty.
    """
    if not 0 <= fold < folds:
        raise ConfigRefused(
            "a fold",
            found=str(fold),
            expected=f"0 to {folds - 1}",
            fix="number the folds from 0",
        )
    part: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for case in sorted(cases):
        away = (of[cases[case]] - fold) % folds if cases[case] in of else -1
        part[{0: "test", 1: "val"}.get(away, "train")].append(case)
    return Split(*(tuple(part[name]) for name in ("train", "val", "test")))
