"""Training, validation and test patients of a site.

If no patient may ever change its part when others come or go, the part is a function of
the patient alone: adding patients one by one to a set of one shows it. So a hash
decides, part sizes are binomial, and only an empty part is mended. Where patients have
classes, the same holds within each class, so that validation and test see them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import derive

Fractions = tuple[float, float, float]
SHARES: Fractions = (0.6, 0.2, 0.2)
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Case ids of each part, sorted. No patient is in two parts."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def split_patients(
    cases: Mapping[str, str],
    fractions: Fractions = SHARES,
    seed: int = 0,
    *,
    fixed_training: bool = False,
) -> Split:
    """Return the split of cases. Every patient has a place in [0, 1), from its id and
    the seed.

    cases: the patient id of each case id.
    fractions: the shares of train, val and test, all above 0 with sum 1; others are
      refused with ConfigRefused.
    seed: another seed gives another split.
    fixed_training: the training part neither lends nor borrows, so it is a function of
      each patient alone, on which patient-level DP relies. A part that then stays empty
      is refused with DataRefused.

    [0, train) is the training part, then val, then test; all cases of a patient are in
    the same part. The expected share of a part is its fraction; with n patients it
    varies by sqrt(f (1 - f) / n).

    A part without patients gets the patient nearest to its interval, out of a part that
    has more than one. This is the only case in which an added patient can change
    another's part: when it fills that part itself, or is nearer, the borrowed one goes
    back. Fewer than 3 patients are refused with DataRefused.
    """
    places = _places(cases, fractions, seed)
    part = _mended(
        places,
        fractions,
        range(1, len(PARTS)) if fixed_training else range(len(PARTS)),
    )
    if empty := [name for k, name in enumerate(PARTS) if k not in part.values()]:
        raise DataRefused(
            "a split in which no patient's place depends on others",
            found=f"no patient for {' and '.join(empty)} among {len(places)}",
            expected="patients in all three parts, as ids alone decide under patient-level privacy",
            fix="add patients to this site; a job without patient-level privacy can split so few",
        )
    return _split(cases, part)


def split_classes(
    cases: Mapping[str, str],
    labels: Mapping[str, int],
    fractions: Fractions = SHARES,
    seed: int = 0,
) -> Split:
    """Return the split of cases as `split_patients`, with parts mended within each
    class. A class with 3 patients or more is in every part.

    cases: the patient id of each case id.
    labels: the class of each case id. Cases of one patient with different labels are
      refused with DataRefused.

    A class whose patients reach all parts by themselves is split as by
    `split_patients`, patient by patient. Otherwise an added patient can change the
    parts of others, of its own class only: at the third patient of a class (before, the
    hash alone decides), and while a part of the class holds a borrowed one. A class
    with fewer than 3 patients is split by the hash alone; where no class has 3, all
    patients are split as by `split_patients`.
    """
    places = _places(cases, fractions, seed)
    classes = _by_class(places, cases, labels)
    large = [members for members in classes.values() if len(members) >= len(PARTS)]
    part = _by_place(places, fractions) if large else _mended(places, fractions)
    for members in large:
        part |= _mended(members, fractions)
    return _split(cases, part)


def split_stratified(
    cases: Mapping[str, str],
    labels: Mapping[str, int],
    fractions: Fractions = SHARES,
    seed: int = 0,
) -> Split:
    """Return a split whose parts hold, of every class, as near to their fractions as
    whole patients allow.

    cases, labels, fractions, seed, and what is refused: as in `split_classes`.

    Within a class patients are ordered by their place (a hash of id and seed). A class
    of n patients gives part f the integer nearest to f n by largest remainders, and one
    at least where it has enough: the third patient of a class is the first one for
    validation, the second one the first for test; a single patient trains. So every
    class with two patients or more is tested.

    The parts of a class depend on all its patients. One patient more can move others of
    its class, also from training to test: use it where a hospital's cases are fixed,
    never where models trained earlier are to be scored on later splits.
    """
    places = _places(cases, fractions, seed)
    part: dict[str, int] = {}
    for members in _by_class(places, cases, labels).values():
        counts = even_counts(len(members), fractions)
        parts = [k for k, count in enumerate(counts) for _ in range(count)]
        part |= dict(zip(sorted(members, key=members.__getitem__), parts, strict=True))
    return _split(cases, part)


def even_counts(n: int, fractions: Fractions) -> tuple[int, int, int]:
    """Return how many of n patients are in each part, with sum n.

    It is the largest-remainder rounding of the fractions, after which each part has a
    patient at least where n allows, training first, then test, then validation.
    """
    exact = [f * n for f in fractions]
    counts = [int(value) for value in exact]
    # A tie goes to the earlier part, whatever the last bits of the products are.
    by_rest = sorted(range(len(PARTS)), key=lambda k: (round(counts[k] - exact[k], 9), k))
    for k in by_rest[: n - sum(counts)]:
        counts[k] += 1
    for k in (0, 2, 1)[:n]:
        if not counts[k]:
            counts[counts.index(max(counts))] -= 1
            counts[k] += 1
    for k in (0, 2, 1)[n:]:
        counts[0], counts[k] = counts[0] + counts[k], 0
    return counts[0], counts[1], counts[2]


def _by_class(
    places: Mapping[str, float],
    cases: Mapping[str, str],
    labels: Mapping[str, int],
) -> dict[int, dict[str, float]]:
    """Return class -> patient -> place; a patient with two labels is refused."""
    kinds: dict[str, set[int]] = {}
    for case, patient in cases.items():
        kinds.setdefault(patient, set()).add(labels[case])
    if two := sum(len(found) > 1 for found in kinds.values()):
        raise DataRefused(
            "the split of labelled patients",
            found=f"{two} patients with two labels",
            expected="one class for each patient",
            fix="correct the table",
        )
    classes: dict[int, dict[str, float]] = {}
    for patient, found in kinds.items():
        classes.setdefault(min(found), {})[patient] = places[patient]
    return classes


def _places(
    cases: Mapping[str, str],
    fractions: Fractions,
    seed: int,
) -> dict[str, float]:
    """Return the place in [0, 1) of each patient, for enough patients and sound
    fractions.
    """
    # 1e-6: the sum of three decimal fractions, rounded.
    if len(fractions) != len(PARTS) or not all(f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigRefused(
            "the split's fractions",
            found=str(fractions),
            expected="three numbers above 0 with sum 1",
            fix="for example 0.6 0.2 0.2",
        )
    patients = sorted(set(cases.values()))
    if len(patients) < len(PARTS):
        raise DataRefused(
            "the split into training, validation and test",
            found=f"{len(patients)} patients ({len(cases)} cases)",
            expected="at least 3 patients",
            fix="add patients, or check patient_pattern in the site's file if it joins different patients",
        )
    return {patient: derive(seed, "split", patient) / 2**63 for patient in patients}


def part_of(patient: str, fractions: Fractions = SHARES, seed: int = 0) -> str:
    """Return the part of PARTS in which a patient lies, before an empty part is mended.

    In a cohort with patients in all parts, this is the part of `split_patients`.
    """
    return PARTS[_by_place({patient: derive(seed, "split", patient) / 2**63}, fractions)[patient]]


def _edges(fractions: Fractions) -> tuple[float, float, float, float]:
    return (0.0, fractions[0], fractions[0] + fractions[1], 1.0)


def _by_place(places: Mapping[str, float], fractions: Fractions) -> dict[str, int]:
    edges = _edges(fractions)
    return {patient: sum(place >= edge for edge in edges[1:3]) for patient, place in places.items()}


def _mended(
    places: Mapping[str, float],
    fractions: Fractions,
    mend: Sequence[int] = range(len(PARTS)),
) -> dict[str, int]:
    """Return the part of each patient.

    mend: the parts that lend and borrow. With all of them, and a patient for each, none
      is empty.
    """
    edges, part = _edges(fractions), _by_place(places, fractions)
    for empty in mend:
        members = list(part.values())
        lenders = [patient for patient in sorted(places) if part[patient] in mend and members.count(part[patient]) > 1]
        if empty not in members and lenders:
            part[
                min(
                    lenders,
                    key=lambda p: max(
                        edges[empty] - places[p],
                        places[p] - edges[empty + 1],
                    ),
                )
            ] = empty
    return part


def _split(cases: Mapping[str, str], part: Mapping[str, int]) -> Split:
    of = {name: tuple(sorted(case for case in cases if part[cases[case]] == k)) for k, name in enumerate(PARTS)}
    return Split(of["train"], of["val"], of["test"])
