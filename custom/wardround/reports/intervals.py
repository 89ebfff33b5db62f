"""95 % intervals by the percentile bootstrap over patients, and over seeds and patients
inside fixed sites.

Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile),
  ch. 8.3 (more than one sample);
crossed factors: Owen 2007, The pigeonhole bootstrap, arXiv:0712.1111.
Deviations: none. Known weakness: with few cases a percentile interval is too narrow;
  its closed-form variance is the population variance / n, a factor (n - 1) / n below
  the unbiased one. The case count is therefore always printed beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import derive, stream

Floats = NDArray[np.float64]
# More replicates make the ends steadier from seed to seed, and cost time in proportion.
REPEATS = 2000
# Replicates are drawn in blocks of at most this many numbers (16 MB), so that memory
# does not grow with repeats.
_BLOCK_NUMBERS = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over `cases` patients with its 95 % interval. Both ends are None where
    there is no interval.
    """

    value: float
    low: float | None
    high: float | None
    cases: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f} ({count_of_cases(self.cases)}: no interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] ({count_of_cases(self.cases)})"


def count_of_cases(cases: int) -> str:
    """Return "1 case" or "n cases"."""
    return "1 case" if cases == 1 else f"{cases} cases"


def bootstrap_mean(
    values: Sequence[float],
    seed: int,
    repeats: int = REPEATS,
) -> Interval:
    """Return the mean of one number per patient with its 95 % interval over patients.

    Guarantees: the same seed gives the same answer; the order of the values does not
      matter; a shift or a positive factor moves the interval with the values.

    One value gives no interval: low and high are None. Equal values give low and high
    equal to the value. No value, and a value that is NaN or inf, are refused with
    DataRefused; fewer than 100 repeats are refused with ConfigRefused.
    """
    row = _sorted_row(values, "a mean over patients")
    _require_repeats(repeats)
    if row.size == 1:
        return Interval(float(row[0]), None, None, 1)
    return _interval(
        float(row.mean()),
        _resampled_means(row[None], stream(seed, "bootstrap"), repeats)[:, 0],
        row.size,
    )


def paired_gain(
    a: Sequence[float],
    b: Sequence[float],
    seed: int,
    repeats: int = REPEATS,
) -> Interval:
    """Return the mean of a[i] - b[i] with its interval, for two models on the SAME
    patients in the same order.

    Different lengths are refused with DataRefused; otherwise as bootstrap_mean of the
    differences.
    """
    if len(a) != len(b):
        raise DataRefused(
            "a paired comparison of two models",
            found=f"{len(a)} and {len(b)} patients",
            expected="the same patients in the same order",
            fix="score both models on the same test split",
        )
    return bootstrap_mean(
        [float(x) - float(y) for x, y in zip(a, b, strict=True)],
        seed,
        repeats,
    )


def hierarchical_mean(
    values: Mapping[str, Mapping[int, Sequence[float]]],
    seed: int = 0,
    repeats: int = REPEATS,
) -> Interval:
    """Return the unweighted mean over sites of values[site][seed], one number per
    patient, with its 95 % interval.

    Patients are averaged within a training seed, seeds within a site, and sites without
    weights. One replicate:
    1. Every site is kept: the interval speaks about these hospitals, not about other
    ones.
    2. S of S seeds are drawn with replacement: once for all sites when all have the
    same seeds (a seed is one federated run, its luck is shared), otherwise for each
    site on its own.
    3. In each site n of n patients are drawn with replacement: the same patients for
    every seed when the seeds hold equally many (value i belongs to patient i),
    otherwise for each seed on its own. A seed that is drawn twice brings the same
    patients twice.

    The result's `cases` are patients summed over sites, of each site the largest count
    over its seeds. With one seed only patients are resampled. A site with one case and
    one seed adds no spread; where every site is like that, low and high are None.

    No site, no seed, no value, and NaN or inf are refused with DataRefused; fewer than
    100 repeats are refused with ConfigRefused.
    """
    _require_repeats(repeats)
    sites = {
        site: {key: _row(cases, f"site {site}, seed {key}") for key, cases in seeds.items()}
        for site, seeds in values.items()
    }
    if not sites or any(not seeds for seeds in sites.values()):
        raise DataRefused(
            "a mean over sites",
            found="no site or no seed",
            expected="at least 1",
            fix="see the sites' logs",
        )
    shared = len({frozenset(seeds) for seeds in sites.values()}) == 1
    total = np.zeros(repeats)
    for site in sorted(sites):
        rows = [sites[site][key] for key in sorted(sites[site])]
        generator = stream(seed, "patients", site)
        if len({row.size for row in rows}) == 1:
            means = _resampled_means(np.stack(rows), generator, repeats)
        else:
            means = np.concatenate(
                [_resampled_means(row[None], generator, repeats) for row in rows],
                axis=1,
            )
        drawn = _draw_counts(
            stream(derive(seed, "seeds"), "" if shared else site),
            len(rows),
            repeats,
        )
        total += (means * drawn).sum(axis=1) / len(rows)
    value = float(
        np.mean(
            [np.mean([row.mean() for row in seeds.values()]) for seeds in sites.values()],
        ),
    )
    cases = sum(max(row.size for row in seeds.values()) for seeds in sites.values())
    if all(len(seeds) == 1 and row.size == 1 for seeds in sites.values() for row in seeds.values()):
        return Interval(value, None, None, cases)
    return _interval(value, total / len(sites), cases)


def over_seeds(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean of one number per seed and its 95 % t-interval, which speaks
    about other seeds alone.

    One value gives (value, None, None). No value, and NaN or inf, are refused with
    DataRefused.
    """
    from scipy.stats import t

    row = _row(values, "a mean over seeds")
    mean, n = float(row.mean()), row.size
    if n == 1:
        return mean, None, None
    half = float(t.ppf(0.975, n - 1)) * float(row.std(ddof=1)) / n**0.5
    return mean, mean - half, mean + half


def _interval(value: float, replicates: Floats, cases: int) -> Interval:
    low, high = np.percentile(replicates, (2.5, 97.5))
    return Interval(value, float(low), float(high), cases)


def _resampled_means(
    rows: Floats,
    generator: np.random.Generator,
    repeats: int,
) -> Floats:
    """Return [repeats, S]: the means of rows [S, n] over n columns drawn with
    replacement, the same columns in every row.
    """
    n = rows.shape[1]
    block = max(1, _BLOCK_NUMBERS // n)
    centre = rows.mean(axis=1)
    parts = [
        _draw_counts(generator, n, min(block, repeats - start)) @ (rows - centre[:, None]).T / n
        for start in range(0, repeats, block)
    ]
    means: Floats = np.concatenate(parts) + centre
    return means


def _draw_counts(generator: np.random.Generator, n: int, repeats: int) -> Floats:
    """Return [repeats, n]: how often each of n things is drawn in n draws with
    replacement.
    """
    counts: Floats = generator.multinomial(n, np.full(n, 1.0 / n), size=repeats).astype(
        np.float64,
    )
    return counts


def _sorted_row(values: Sequence[float], what: str) -> Floats:
    return np.sort(_row(values, what))


def _row(values: Sequence[float], what: str) -> Floats:
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or row.size == 0 or not np.isfinite(row).all():
        raise DataRefused(
            what,
            found=f"an array of shape {row.shape}"
            + (" with NaN or inf" if row.size and not np.isfinite(row).all() else ""),
            expected="one finite number per patient, at least one patient",
            fix="score the test split first; leave out regions that the site's labels do not know",
        )
    return row


def _require_repeats(repeats: int) -> None:
    if repeats < 100:
        raise ConfigRefused(
            "bootstrap repeats",
            found=str(repeats),
            expected="at least 100",
            fix="leave the default of 2000",
        )
