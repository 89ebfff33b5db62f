"""How are sites drawn or computed? By unequal numbers, tumour size, or Dirichlet.

Patients are dealt, not cases. Every method returns {"site-1": patients, ...}, disjoint
and complete, the same for the same arguments on every machine. More sites than
patients, or fewer than two sites, raise ConfigRefused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.research.partition_files import Sites

# Enough for any split that has a fair chance; an impossible one is refused after it.
TRIES = 1000


def by_quantity(patients: Sequence[str], sites: int, seed: int, ratio: float) -> Sites:
    """Deal shuffled patients into sites whose sizes fall geometrically.

    The first site has `ratio` times the patients of the last. Sizes are rounded to
    whole patients (largest remainder) and are at least 1. With ratio 1 sites are equal,
    up to one patient. ConfigRefused is raised for a ratio below 1 or not finite.
    """
    _require_sites(len(patients), sites)
    if not 1 <= ratio < np.inf:
        raise ConfigRefused(
            "the ratio of the sites' sizes",
            found=str(ratio),
            expected="a number of at least 1: largest site / smallest site",
            fix="give for example 4",
        )
    weights = ratio ** (1 - np.arange(sites) / (sites - 1))
    exact = weights / weights.sum() * (len(patients) - sites)
    counts = 1 + np.floor(exact).astype(int)
    order = np.argsort(-(exact - np.floor(exact)), kind="stable")
    counts[order[: len(patients) - counts.sum()]] += 1
    return _cut(_shuffled(patients, seed, "quantity"), counts)


def by_equal_parts(patients: Sequence[str], sites: int, seed: int) -> Sites:
    """Deal shuffled patients into equal sites (up to one patient)."""
    return by_quantity(patients, sites, seed, 1.0)


def by_tumour_size(volumes: Mapping[str, float], sites: int) -> Sites:
    """Return quantile bands of the patients' tumour volumes.

    site-1 has the smallest, the last site the largest. Equal volumes are ordered by
    patient id. There is no seed, because nothing is drawn.
    """
    _require_sites(len(volumes), sites)
    order = sorted(volumes, key=lambda patient: (volumes[patient], patient))
    return _cut(order, [len(part) for part in np.array_split(np.arange(len(order)), sites)])


def by_dirichlet(
    labels: Mapping[str, str],
    sites: int,
    alpha: float,
    seed: int,
    min_patients: int = 3,
) -> Sites:
    """Deal the patients of each label in shares from Dirichlet(alpha, ..., alpha).

    With a small alpha each label sits at few sites; with a large alpha sites are alike.
    The split is drawn again until every site has min_patients. ConfigRefused is raised
    for an alpha not above 0, and if 1000 draws do not find such a split.

    Source: the experiments of Yurochkin et al. 2019, arXiv:1905.12022.
    Deviations: 1. There is a minimum of patients per site. 2. Shares become whole
    patients by systematic sampling: each site gets its share rounded up or down, at
    random and without bias (rounding would send every label with a single patient to a
    middle site).
    """
    _require_sites(len(labels), sites)
    if not 0 < alpha < np.inf:
        raise ConfigRefused(
            "Dirichlet's alpha",
            found=str(alpha),
            expected="a number above 0",
            fix="0.1 is very uneven, 100 nearly even",
        )
    groups = {label: [p for p in sorted(labels) if labels[p] == label] for label in sorted(set(labels.values()))}
    for attempt in range(TRIES):
        rng = stream(seed, "partition dirichlet", attempt)
        found: list[list[str]] = [[] for _ in range(sites)]
        for group in groups.values():
            ends = np.cumsum(rng.dirichlet(np.full(sites, alpha)))[:-1]
            for i, place in zip(
                rng.permutation(len(group)),
                np.arange(len(group)) + rng.uniform(),
                strict=True,
            ):
                found[int(np.searchsorted(ends, place / len(group), side="right"))].append(group[i])
        if min(map(len, found)) >= min_patients:
            return {f"site-{i + 1}": tuple(sorted(site)) for i, site in enumerate(found)}
    raise ConfigRefused(
        "the Dirichlet split",
        found=f"no split of {len(labels)} patients into {sites} sites in {TRIES} draws with alpha {alpha}",
        expected=f"at least {min_patients} patients at every site",
        fix="use a larger alpha or fewer sites",
    )


def terciles(volumes: Mapping[str, float]) -> dict[str, str]:
    """Return `small`, `medium` or `large` for each patient, by rank of the volume."""
    order = sorted(volumes, key=lambda patient: (volumes[patient], patient))
    return {patient: ("small", "medium", "large")[3 * rank // len(order)] for rank, patient in enumerate(order)}


def _require_sites(patients: int, sites: int) -> None:
    if not 2 <= sites <= patients:
        raise ConfigRefused(
            "the number of sites",
            found=f"{sites} sites for {patients} patients",
            expected="at least 2 sites, and no more sites than patients",
            fix="give another number of sites",
        )


def _shuffled(patients: Sequence[str], seed: int, purpose: str) -> list[str]:
    ordered = sorted(patients)
    return [ordered[i] for i in stream(seed, "partition", purpose).permutation(len(ordered))]


def _cut(
    order: Sequence[str],
    counts: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]],
) -> Sites:
    ends = np.cumsum(counts)
    return {
        f"site-{i + 1}": tuple(sorted(order[end - n : end]))
        for i, (end, n) in enumerate(zip(ends, counts, strict=True))
    }
