"""How is Gaussian noise drawn so that no job can choose or reconstruct it?

    U = uniform 64-bit words: ChaCha20 under a fresh key of 32 bytes
    N = +-Phi^-1((U' + 1/2) / 2^64)
    noise = round(s N)

No seed exists: the key is operating-system entropy. One word gives one number, whatever
its value. There is no rejection, so the time does not depend on the noise. 63 bits of U
are the tail probability, and one is the sign. Numbers beyond 9.1 standard deviations
cannot occur (probability 1e-19 each).

Floating point: the low bits of a float32 sum betray its summands (Mironov 2012). Here
the protected sum consists of whole numbers, and round(sum + s N) = sum + round(s N).
The release is therefore an exact post-processing of the Gaussian mechanism with real N,
and every whole number near enough can occur for every neighbour. What is left is not
proved away: N is computed in float64, so the probability of one whole number is off by
a relative 1e-14 s, where s is the standard deviation in grid steps.
Sources: Mironov 2012, doi:10.1145/2382196.2382264; RFC 8439 (ChaCha20).
Deviations: 1. A rounded Gaussian instead of Mironov's snapping: its privacy is that of
the Gaussian mechanism.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wardround.core.keystream import KEY_BYTES, WORD, Words, expand
from wardround.core.rng import secret


def secret_words(count: int) -> Words:
    """Return `count` uniform 64-bit words that nobody can compute a second time."""
    return expand(secret(KEY_BYTES), count, WORD)


def normal(words: Words) -> NDArray[np.float64]:
    """Return one standard normal number for every word."""
    # scipy takes long to load, and most jobs add no noise.
    from scipy.special import ndtri

    # The tail is drawn, not the whole distribution: float64 is finest near zero, so the
    # rarest numbers are the most exact. The half keeps the tail above zero.
    tail = ((words >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64
    sign = 1.0 - 2.0 * (words & np.uint64(1)).astype(np.float64)
    return np.asarray(sign * ndtri(tail), np.float64)


def whole_noise(count: int, deviation: float) -> NDArray[np.float64]:
    """Return `count` fresh whole numbers: a Gaussian, rounded."""
    return np.rint(normal(secret_words(count)) * deviation)
