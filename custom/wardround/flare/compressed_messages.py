"""A compressed update on the wire: arrays of a layout that both ends of the job know,
instead of blocks of float32.

The message goes from a site to the server. It holds the arrays of the job's compression
(compression/), the name of the compression, and all else that goes with an update in
plaintext_messages.py: weight, NUMBERS and SITE_FACTS.

A message of a compression that the job does not have is refused, and so is an update of
float32 blocks in a job that has one. Here arrays are read as plain numbers.
`compression.opening` checks that they are exactly those of this job and round.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvflare.apis.dxo import DXO
from nvflare.apis.shareable import Shareable

from wardround.core.validate import OneOf
from wardround.flare import plaintext_messages, strict_dxo
from wardround.messages.allowed_names import allowed

KIND = "WARDROUND_COMPRESSED"
DTYPES = frozenset({"float32", "float16", "int8", "uint8", "int32"})
# A message has a handful of arrays, or one for each block of the network.
_MOST_ARRAYS, _LONGEST_NAME = 4096, 256


def update_message(update: plaintext_messages.Update, compression: str) -> Shareable:
    """Return the result of a train task.

    compression: the name of the job's compression, whose arrays `delta` holds.
    """
    meta = {"weight": float(update.weight), "numbers": dict(update.numbers), "facts": dict(update.facts)}
    return DXO(KIND, data=dict(update.delta), meta={**meta, "compression": compression}).to_shareable()


def read_update(
    message: Shareable, compression: str, words: Collection[str] | None = None
) -> plaintext_messages.Update:
    """Read the result of a train task. Its `delta` holds the arrays as they came.

    Another compression, a key too many or too few, or an array of another kind is a
    ReleaseRefused.

    words: the names that the job lists, as for `plaintext_messages.read_update`.
    """
    arrays, meta = strict_dxo.data_of(message, KIND), strict_dxo.meta_of(message)
    shape = {**plaintext_messages.update_meta(allowed(words)), "compression": OneOf((compression,))}
    strict_dxo.require_shape(meta, shape, "a compressed update's meta")
    if not float(meta["weight"]).is_integer():
        raise strict_dxo.unknown("an update's weight", "a fraction", "a whole number of patients")
    if not 0 < len(arrays) <= _MOST_ARRAYS:
        raise strict_dxo.unknown("a compressed update", f"{len(arrays)} arrays", f"1 to {_MOST_ARRAYS}")
    for name, array in arrays.items():
        _require_plain(name, array)
    return plaintext_messages.Update(arrays, float(meta["weight"]), meta["numbers"], meta["facts"])


def size_of(arrays: Any) -> int:
    """Return how many bytes the arrays of an update have, compressed or not."""
    return sum(int(array.nbytes) for array in arrays.values())


def _require_plain(name: Any, array: NDArray[Any]) -> None:
    """Raise ReleaseRefused unless an array holds finite numbers of a known kind.

    An array of Python objects is never accepted: to read one runs code.
    """
    named = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()
    if not (named and isinstance(array, np.ndarray) and str(array.dtype) in DTYPES):
        found = f"{type(array).__name__} under {str(name)[:80]!r}"
        raise strict_dxo.unknown("an array of a compressed update", found, f"an array of {', '.join(sorted(DTYPES))}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise strict_dxo.unknown(f"the array {name!r}", "NaN or inf", "finite numbers")
