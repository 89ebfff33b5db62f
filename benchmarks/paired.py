"""Paired comparisons of the rows of a benchmark: by patient, over folds, seeds and hospitals.

Scores are site -> seed -> number of a patient -> Dice. A difference is taken where both rows have the patient with the
same seed; the interval is reports/intervals.py's: hospitals fixed, seeds and patients resampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wardround.core.errors import DataRefused
from wardround.reports.intervals import Interval, hierarchical_mean

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]


def merged(
    rows: Iterable[tuple[str, int, Mapping[str, float]]],
) -> dict[str, dict[int, dict[str, float]]]:
    """Return the scores of (site, seed, patients of one fold); a patient twice: DataRefused."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for site, seed, patients in rows:
        mine = found.setdefault(site, {}).setdefault(seed, {})
        if twice := mine.keys() & patients.keys():
            raise DataRefused(
                f"the folds at {site} with seed {seed}",
                found=f"{len(twice)} patients that are tested twice",
                expected="every patient in one fold",
                fix="delete the parts that were measured with other folds",
            )
        mine.update(patients)
    return found


def means(scores: Scores) -> dict[str, float]:
    """Return the mean of each site: of seeds, and of patients within a seed."""
    return {
        site: sum(sum(one.values()) / len(one) for one in seeds.values()) / len(seeds) for site, seeds in scores.items()
    }


@dataclass(frozen=True)
class Gain:
    """A paired difference.

    whole: over all hospitals, unweighted
    sites: of each hospital
    complete: whether both rows have the same patients with the same seeds, so that nothing of either is left out
    """

    whole: Interval
    sites: Mapping[str, Interval]
    complete: bool

    @property
    def worst(self) -> tuple[str, Interval]:
        """Return the hospital that gains least."""
        return min(self.sites.items(), key=lambda item: item[1].value)


def gain(one: Scores, other: Scores) -> Gain | None:
    """Return one less the other; None where they have no patient in common."""
    differences: dict[str, dict[int, list[float]]] = {}
    for site in one:
        for seed, patients in one[site].items():
            theirs = other.get(site, {}).get(seed, {})
            both = sorted(patients.keys() & theirs.keys(), key=int)
            if both:
                differences.setdefault(site, {})[seed] = [patients[who] - theirs[who] for who in both]
    if not differences:
        return None
    sites = {site: hierarchical_mean({site: seeds}) for site, seeds in differences.items()}
    return Gain(hierarchical_mean(differences), sites, _same(one, other))


def _same(one: Scores, other: Scores) -> bool:
    keys = [
        {(site, seed, who) for site, seeds in scores.items() for seed, found in seeds.items() for who in found}
        for scores in (one, other)
    ]
    return keys[0] == keys[1]


def span(found: Interval, sign: str = "+") -> str:
    """Return "mean [low, high]", or the mean alone where there is no interval."""
    if found.low is None or found.high is None:
        return f"{found.value:{sign}.3f}"
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def above(found: Interval | None, least: float = 0.0) -> bool:
    """Return whether the mean reaches `least` and the interval lies above 0."""
    return found is not None and found.value >= least and found.low is not None and found.low > 0
