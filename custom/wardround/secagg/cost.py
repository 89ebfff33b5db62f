"""What does a secure sum cost, before anyone provisions?

Bytes follow from closed forms, and seconds are measured by doing it once here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import final

import numpy as np

from wardround.core.arrays import Arrays
from wardround.core.keystream import KEY_BYTES
from wardround.core.rng import secret, stream
from wardround.secagg import masks
from wardround.secagg.bfv import FRESH_BYTES, SEED_BYTES, SUM_BYTES, Cipher
from wardround.secagg.fixed_point import encode, first_grid
from wardround.secagg.spec import SecAggSpec
from wardround.secagg.tags import Tags, polynomials

# The length before every ciphertext of a message.
HEADER = 4


@final
@dataclass(frozen=True)
class Cost:
    """Bytes of one site and round, as payload.

    A few kB of signed statements come on top. The ring passes sums: its `up` is a hop,
    and its `down` is a hop and the final sum.

    up: what a site sends.
    down: what a site receives.
    server: what the server holds of the sum, however many sites there are.
    """

    parameters: int
    values: int
    up: int
    down: int
    server: int


def cost(secagg: SecAggSpec, weights: Arrays) -> Cost:
    """Return the bytes of updates of these blocks."""
    grid = first_grid(weights, secagg.bits, weighted=secagg.weighted)
    words, size = secagg.packing.words(grid.fields), grid.layout.total
    if not secagg.encryption:
        return Cost(size, grid.fields, 8 * words, 8 * words, 8 * words)
    count = polynomials(words)
    fresh, summed = count * (FRESH_BYTES + HEADER), count * (SUM_BYTES + HEADER)
    if secagg.ring:
        return Cost(size, grid.fields, summed, 2 * summed, summed)
    return Cost(size, grid.fields, fresh, summed, summed)


def seconds(secagg: SecAggSpec, weights: Arrays) -> dict[str, float]:
    """Return the seconds that one update takes here, by step.

    The steps are hiding it (code, pack, tag, mask against 3 others, encrypt), adding it
    and reading it.
    """
    rng = stream(0, "cost")
    update = {name: rng.normal(0, 0.01, block.shape).astype(np.float32) for name, block in weights.items()}
    grid = first_grid(weights, secagg.bits, weighted=secagg.weighted)
    key, packing = secret(SEED_BYTES), secagg.packing
    cipher = Cipher(secagg.modulus, key) if secagg.encryption else None
    begun = time.perf_counter()
    plain = packing.pack(encode(grid, update, None, 1.0, 1, rng).fields)
    words = Tags(key, secagg.modulus, "cost").put(plain, "a") if cipher else plain
    if secagg.masks:
        pairs = [(name, secret(KEY_BYTES)) for name in ("b", "c", "d")]
        hidden = masks.add(
            words,
            masks.mask_of("a", None, pairs, len(words), secagg.modulus),
            secagg.modulus,
        )
    else:
        hidden = words
    payload = cipher.encrypt(hidden) if cipher else hidden.tobytes()
    sent = time.perf_counter()
    if cipher:
        total = cipher.add(None, payload)
        added = time.perf_counter()
        cipher.decrypt(cipher.dump(total))
    else:
        masks.add(np.frombuffer(payload, "<u8").astype(np.uint64), hidden, secagg.modulus)
        added = time.perf_counter()
    packing.unpack(plain, grid.fields, 1)
    return {
        "hide_s": sent - begun,
        "add_s": added - sent,
        "reveal_s": time.perf_counter() - added,
    }
