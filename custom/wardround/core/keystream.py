"""How does a key become uniform words that only its owners can compute?

The words have 64 bits or fewer. They are the same for everybody who has the key and
unpredictable for everybody else. Masks are made of them, and so is noise.
Source: RFC 8439 (ChaCha20).
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

Words = NDArray[np.uint64]
WORD = 2**64
KEY_BYTES = 32


def expand(seed: bytes, count: int, modulus: int) -> Words:
    """Return `count` words, uniform in [0, modulus), from ChaCha20 under this key.

    They are the same wherever the seed is known. Words at or above the modulus are
    rejected, so the result has no bias.
    """
    # The nonce is zero: a key is for one stream, and its owners must get the same one.
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    if modulus == WORD:
        return np.frombuffer(stream.update(bytes(8 * count)), "<u8").astype(np.uint64)
    shift = np.uint64(64 - (modulus - 1).bit_length())
    found: list[Words] = []
    missing = count
    while missing > 0:
        # 64 words more than are missing, so that the last few do not take many passes.
        drawn = np.frombuffer(stream.update(bytes(8 * (missing + 64))), "<u8").astype(np.uint64) >> shift
        found.append(drawn[drawn < np.uint64(modulus)][:missing])
        missing -= len(found[-1])
    return np.concatenate(found) if found else np.zeros(0, np.uint64)
