"""Is an encrypted sum that of these sites, each once, in this round, unaltered?

    tag_i = <k, m_i> + prf(site_i)  mod t
    sum of tags = <k, sum of m> + sum of prf over the sites named

Whoever adds ciphertexts without the key can add any combination of them. One word of
every polynomial is therefore a tag under keys that only the sites have, fresh for every
round, attempt and polynomial. A sum with a site left out, added twice, taken from
another round, or changed fails the check except with probability about 1 / t (t has 30
to 50 bits).
Source: Agrawal and Boneh 2009, Homomorphic MACs (the one-time linear construction).
Deviations: 1. One word for each polynomial instead of one for the message, so that
polynomials cannot be mixed.

It checks the numbers that a sum decrypts to: a flipped bit that drowns in the noise
changes none, and passes. Sites share its key, so it binds the server and not a site
that helps the server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import numpy as np

from wardround.core.errors import RoundRefused
from wardround.core.keystream import Words, expand
from wardround.secagg.bfv import SLOTS
from wardround.secagg.masks import derive

DATA = SLOTS - 1
_HALF = np.uint64(2**25 - 1)


@final
class Tags:
    """Tags of one round, attempt and roster.

    key: what only the sites have.
    modulus: words are below it; it has at most 50 bits.
    bound: run, round, attempt, and the digest of the signed statements of who takes
        part. A server may give two jobs one name. The statements hold fresh keys and
        the digest of the job as the sites know it, so their tags never fit each other.
    """

    def __init__(self, key: bytes, modulus: int, *bound: str | int) -> None:
        self._key = derive(key, "tags", *bound)
        self._modulus = modulus
        self._k = expand(derive(self._key, "k"), DATA, modulus)

    def put(self, words: Words, site: str) -> Words:
        """Return uint64 [n SLOTS]: `words`, zeros to fill up, and a tag at every end."""
        rows = np.zeros((polynomials(len(words)), SLOTS), np.uint64)
        flat = np.zeros(len(rows) * DATA, np.uint64)
        flat[: len(words)] = words
        # The last word of every polynomial is its tag.
        rows[:, :DATA] = flat.reshape(-1, DATA)
        tags = [(a + b) % self._modulus for a, b in zip(self._products(rows), self._own(site, len(rows)), strict=True)]
        rows[:, DATA] = np.array(tags, np.uint64)
        return rows.ravel()

    def check(self, slots: Words, count: int, sites: Iterable[str]) -> Words:
        """Return the `count` words of a sum over exactly these sites.

        Anything else raises RoundRefused.
        """
        rows, names = slots.reshape(-1, SLOTS), list(sites)
        expected = self._products(rows)
        for site in names:
            expected = [(a + b) % self._modulus for a, b in zip(expected, self._own(site, len(rows)), strict=True)]
        each_once = len(set(names)) == len(names)
        if not each_once or polynomials(count) != len(rows) or [int(tag) for tag in rows[:, DATA]] != expected:
            raise RoundRefused(
                "a decrypted sum",
                found="a tag that does not fit",
                expected="the sum of exactly the sites named with it, each once, in this round, unaltered",
                fix="a key is wrong, or a message was altered, replayed or left out on the server: see its log",
            )
        return rows[:, :DATA].ravel()[:count]

    def _own(self, site: str, count: int) -> list[int]:
        return [int(value) for value in expand(derive(self._key, "site", site), count, self._modulus)]

    def _products(self, rows: Words) -> list[int]:
        """Return <k, row> mod modulus for every row, exactly.

        Halves of 25 bits keep all sums below 2**63.
        """
        m: Any = rows[:, :DATA]
        low = m & _HALF
        high = m >> np.uint64(25)
        k_low = self._k & _HALF
        k_high = self._k >> np.uint64(25)
        parts = [
            (low * k_low, 0),
            (low * k_high, 25),
            (high * k_low, 25),
            (high * k_high, 50),
        ]
        sums = [([int(s) for s in product.sum(axis=1)], shift) for product, shift in parts]
        return [sum(s[i] << shift for s, shift in sums) % self._modulus for i in range(len(rows))]


def polynomials(words: int) -> int:
    """Return how many polynomials hold this many words and their tags."""
    return -(-words // DATA)
