"""Arithmetic on the updates of a round as a matrix of n sites x d values, in float64.

Everything works on slices of CHUNK columns, so that beside the matrix itself (float32
or float64) no second one of its size is ever made. Values whose squares leave float64
give the distance inf, never NaN, as long as the matrix itself is finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
# 64 sites x 65,536 columns are 32 MB in float64: small beside a model, large for
# numpy's loops.
CHUNK = 2**16


def norms(rows: Rows) -> Floats:
    """Return the Euclidean norm of every row, float64 [n]."""
    return distances(rows, np.zeros(rows.shape[1]))


def distances(rows: Rows, point: NDArray[np.floating[Any]]) -> Floats:
    """Return the Euclidean distance of every row to `point` [d], float64 [n]."""
    total = np.zeros(len(rows))
    with np.errstate(over="ignore"):
        for columns in _chunks(rows):
            gap = rows[:, columns].astype(np.float64) - point[columns]
            total += np.einsum("nd,nd->n", gap, gap)
    return np.sqrt(total)


def pairwise(rows: Rows) -> Floats:
    """Return the squared distances between all rows, float64 [n, n].

    The diagonal holds exact zeros. Differences are squared and not expanded into scalar
    products: |a|^2 + |b|^2 - 2ab loses the distance of two long rows that lie close
    together, and that is what Krum ranks by.
    """
    found = np.zeros((len(rows), len(rows)))
    with np.errstate(over="ignore"):
        for columns in _chunks(rows):
            part = rows[:, columns].astype(np.float64)
            for i, j in combinations(range(len(rows)), 2):
                gap = part[i] - part[j]
                found[i, j] += gap @ gap
    return found + found.T


def weighted_mean(rows: Rows, weights: NDArray[np.floating[Any]]) -> Floats:
    """Return the mean of the rows, float64 [d].

    weights: [n], each 0 or more, and not all 0.
    """
    shares = weights / weights.sum()
    return columnwise(rows, lambda part: shares @ part)


def columnwise(rows: Rows, function: Callable[[Floats], Floats]) -> Floats:
    """Return function(float64 [n, c]) -> [c], applied to all columns, float64 [d]."""
    found = np.empty(rows.shape[1])
    for columns in _chunks(rows):
        found[columns] = function(rows[:, columns].astype(np.float64))
    return found


def _chunks(rows: Rows) -> Iterator[slice]:
    for begin in range(0, rows.shape[1], CHUNK):
        yield slice(begin, begin + CHUNK)
