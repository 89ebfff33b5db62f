"""Scores of classified patients: classes weigh the same, two models are compared patient by patient, hospitals are fixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from wardround.reports.intervals import hierarchical_mean

# (site, class) -> seed -> one number per patient, in the order of the patients.
Scores = dict[tuple[str, int], dict[int, np.ndarray]]
Ends = tuple[float, float | None, float | None]


def gaps(a: Scores, b: Scores) -> Scores:
    """Return a - b of every patient."""
    return {stratum: {seed: row - b[stratum][seed] for seed, row in seeds.items()} for stratum, seeds in a.items()}


def mean(mine: Scores) -> Ends:
    """Return the mean over sites of the mean over classes of the mean over patients and seeds, and its 95 % interval.

    Sites and classes are fixed; patients are drawn with replacement within site and class, and seeds.
    """
    classes = Counter(site for site, _ in mine)
    # hierarchical_mean gives every stratum the same weight: the factor makes it one for every site, and class of a site.
    factor = {site: len(mine) / (len(classes) * count) for site, count in classes.items()}
    strata = {
        f"{site} {label}": {seed: (row * factor[site]).tolist() for seed, row in seeds.items()}
        for (site, label), seeds in mine.items()
    }
    found = hierarchical_mean(strata)
    return found.value, found.low, found.high


def at_sites(mine: Scores) -> dict[str, Ends]:
    """Return site -> value with its interval."""
    sites = sorted({site for site, _ in mine})
    return {name: mean({stratum: seeds for stratum, seeds in mine.items() if stratum[0] == name}) for name in sites}


def above(found: Sequence[float | None]) -> bool:
    """Return whether an interval lies above 0; without an interval it does not."""
    return found[1] is not None and found[1] > 0
