"""Gaussian noise from operating-system entropy, on a grid: no seed exists, so no job can choose it.

    U uniform 64-bit words (ChaCha20 under a fresh key of 32 bytes),  N = +-Phi^-1((U' + 1/2) / 2^64),  noise = round(s N)

One word gives one number, whatever its value: no rejection, so the time does not depend on the noise. 63 bits of U are
the tail probability, one is the sign; numbers beyond 9.1 standard deviations cannot occur (probability 1e-19 each).

Floating point (Mironov 2012: the low bits of a float32 sum betray the summands). The sum that is protected consists of
whole numbers, and round(sum + s N) = sum + round(s N): the release is an exact post-processing of the Gaussian mechanism
with real N, and every whole number near enough can occur for every neighbour. What is left: N is computed in float64, so
the probability of one whole number is off by a relative 1e-14 s (s: standard deviation in grid steps). Not proved away.
Sources: Mironov 2012, doi:10.1145/2382196.2382264; RFC 8439 (ChaCha20).
Deviations: 1. a rounded Gaussian instead of Mironov's snapping: its privacy is the Gaussian mechanism's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from wardround.core.keystream import KEY_BYTES, WORD, Words, expand
from wardround.core.rng import secret


def secret_words(count: int) -> Words:
    """Return `count` uniform 64-bit words that nobody can compute again."""
    return expand(secret(KEY_BYTES), count, WORD)


def normal(words: Words) -> NDArray[np.float64]:
    """Return one standard normal number for every word."""
    tail = ((words >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64
    sign = 1.0 - 2.0 * (words & np.uint64(1)).astype(np.float64)
    return np.asarray(sign * ndtri(tail), np.float64)


def whole_noise(count: int, deviation: float) -> NDArray[np.float64]:
    """Return `count` fresh whole numbers: a Gaussian of that standard deviation, rounded."""
    return np.rint(normal(secret_words(count)) * deviation)
