"""Where do random numbers come from? There are two sources, and they never meet.

`stream` is reproducible: it serves shuffling, augmentation and phantoms. `secret` is
operating-system entropy for noise, masks and keys. It takes no seed, so no job can
choose it.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every word of `purpose`.

    It is the same on every machine.
    """
    # The separator occurs in no word, so ("a", "bc") and ("ab", "c") differ.
    text = "\x1f".join([str(int(seed)), *(str(word) for word in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a generator for one purpose, independent of all other purposes."""
    return np.random.default_rng(derive(seed, *purpose))


def secret(size: int) -> bytes:
    """Return `size` bytes of operating-system entropy."""
    return os.urandom(size)
