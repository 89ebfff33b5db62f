"""Uniform words of 64 bits or less from a key: the same for everybody who has the key, unpredictable for everybody else.

Masks are made of them, and so is noise. Source: RFC 8439 (ChaCha20).
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

Words = NDArray[np.uint64]
WORD = 2**64
KEY_BYTES = 32


def expand(seed: bytes, count: int, modulus: int) -> Words:
    """Return `count` words, uniform in [0, modulus), the same wherever the seed is known (ChaCha20; rejection, no bias)."""
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    if modulus == WORD:
        return np.frombuffer(stream.update(bytes(8 * count)), "<u8").astype(np.uint64)
    shift = np.uint64(64 - (modulus - 1).bit_length())
    found: list[Words] = []
    missing = count
    while missing > 0:
        drawn = np.frombuffer(stream.update(bytes(8 * (missing + 64))), "<u8").astype(np.uint64) >> shift
        found.append(drawn[drawn < np.uint64(modulus)][:missing])
        missing -= len(found[-1])
    return np.concatenate(found) if found else np.zeros(0, np.uint64)
