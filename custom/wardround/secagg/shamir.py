"""Shamir's secret sharing: any `threshold` of n shares give the secret, fewer nothing.

The field is the prime 2**521 - 1, and a share is its polynomial's value at x = 1 .. n.
Source: Shamir 1979, How to share a secret.
Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping

from wardround.core.errors import RoundRefused
from wardround.core.rng import secret

PRIME = 2**521 - 1
SHARE_BYTES = 66
_SECRET_BYTES = 32


def split(value: bytes, count: int, threshold: int) -> list[bytes]:
    """Return `count` shares, 66 bytes each, of 32 bytes; share i is at x = i + 1."""
    if not (len(value) == _SECRET_BYTES and 1 <= threshold <= count):
        raise _refused(
            f"{len(value)} bytes, threshold {threshold} of {count}",
            "32 bytes, 1 <= threshold <= count",
        )
    # 16 bytes more than a number has: the remainder's bias stays below 2**-128.
    drawn = [int.from_bytes(secret(SHARE_BYTES + 16), "big") % PRIME for _ in range(threshold - 1)]
    coefficients = [int.from_bytes(value, "big"), *drawn]
    return [_at(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in range(1, count + 1)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret from shares by x, at least `threshold` of them.

    No share raises RoundRefused. Too few shares or a wrong one raise it when the result
    is no 32-byte secret, which is so in all but 2**-265 of the cases.
    """
    total = 0
    for x, share in shares.items():
        top = bottom = 1
        for other in shares:
            if other != x:
                top, bottom = top * other % PRIME, bottom * (other - x) % PRIME
        total += int.from_bytes(share, "big") * top * pow(bottom, -1, PRIME)
    value = total % PRIME
    if not shares or value.bit_length() > 8 * _SECRET_BYTES:
        raise _refused(
            f"{len(shares)} shares that do not fit together",
            "shares of one secret, as many as the threshold",
        )
    return value.to_bytes(_SECRET_BYTES, "big")


def _at(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def _refused(found: str, expected: str) -> RoundRefused:
    return RoundRefused("a shared secret", found=found, expected=expected, fix="see the sites' logs")
