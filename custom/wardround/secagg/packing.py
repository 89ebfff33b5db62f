"""How do several summable integers share one word? In mixed radix, with room for sites.

A field holds u = q + levels in 0 .. 2 levels. A sum over at most `sites` sites stays
below `radix` = 2 levels sites + 1, so a field never carries into the next: overflow is
impossible by construction. A word holds as many fields as fit below the modulus of its
group: 2**64 for plain and masked sums, the plaintext prime under encryption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.keystream import WORD, Words


@final
@dataclass(frozen=True)
class Packing:
    """How integers are packed into words.

    levels: the largest |q| of a field.
    sites: the most sites that one sum may hold.
    modulus: that of the words.
    """

    levels: int
    sites: int
    modulus: int

    def __post_init__(self) -> None:
        if not (self.levels >= 1 and self.sites >= 1 and self.radix <= self.modulus <= WORD):
            raise ConfigRefused(
                "the packing of a sum",
                found=f"levels {self.levels}, sites {self.sites}",
                expected="at least one field in a word",
                fix="lower `bits` or `sites`",
            )

    @property
    def radix(self) -> int:
        """Return how many values a field of a sum can have."""
        return 2 * self.levels * self.sites + 1

    @property
    def fields(self) -> int:
        """Return how many fields share a word."""
        return fields_below(self.radix, self.modulus)

    def words(self, count: int) -> int:
        """Return how many words `count` integers take."""
        return -(-count // self.fields)

    def pack(self, q: NDArray[np.int32]) -> Words:
        """Return uint64 [words(len(q))] from integers in [-levels, levels].

        Other integers raise RoundRefused.
        """
        if q.size and max(int(q.max()), -int(q.min())) > self.levels:
            raise RoundRefused(
                "an integer of an update",
                found="a value beyond the levels of the codec",
                expected=f"-{self.levels} to {self.levels}",
                fix="this is a fault of the codec: report it",
            )
        padded = np.zeros(self.words(len(q)) * self.fields, np.int64)
        padded[: len(q)] = q
        rows: Any = (padded + self.levels).astype(np.uint64).reshape(self.fields, -1)
        # Horner's scheme: the last row is the highest digit of every word.
        word = rows[-1].copy()
        for row in rows[-2::-1]:
            word *= np.uint64(self.radix)
            word += row
        return word  # type: ignore[no-any-return]

    def unpack(self, words: Words, count: int, added: int) -> NDArray[np.int64]:
        """Return the `count` sums, int64, of words that `added` sites were added into.

        More sites than the packing has room for, another number of words, or a word
        that no sum gives raise RoundRefused.
        """
        if not (1 <= added <= self.sites and len(words) == self.words(count)):
            raise RoundRefused(
                "a packed sum",
                found=f"{len(words)} words of {added} sites",
                expected=f"{self.words(count)} words of 1 to {self.sites} sites",
                fix="run the same job and version everywhere",
            )
        rest, rows = words.copy(), []
        for _ in range(self.fields):
            rest, row = np.divmod(rest, np.uint64(self.radix))
            rows.append(row.astype(np.int64))
        sums = np.concatenate(rows)
        # So many sites cannot sum up to more: an altered message or a wrong key shows
        # here.
        if rest.any() or int(sums.max(initial=0)) > 2 * self.levels * added:
            raise RoundRefused(
                "a packed sum",
                found="a word that no sum of so many sites gives",
                expected="the sum of the sites named with it",
                fix="a message was altered, or a key is wrong: see the server's log",
            )
        return sums[:count] - added * self.levels


def fields_below(radix: int, modulus: int) -> int:
    """Return the largest k with radix**k <= modulus."""
    count, product = 0, radix
    while product <= modulus:
        count, product = count + 1, product * radix
    return count
