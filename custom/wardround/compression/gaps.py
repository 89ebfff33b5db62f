"""How do increasing places below n become bytes? As the gaps between them.

It takes about one byte for each place. A gap g is g // 255 bytes of 255 and one byte g
% 255; the rest of the row is filled with 255. The length depends on the number of
places and on n alone, so a reader knows it: all gaps together are below n, which bounds
the bytes of 255 by n // 255. With one place in a hundred this takes 1.4 bytes for each
place, where int32 takes 4 and a bit map 12.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import RoundRefused

_SKIP = 255


def gaps_length(count: int, total: int) -> int:
    """Return the bytes that `count` places below `total` take."""
    return count + total // _SKIP


def to_gaps(places: NDArray[np.int64], total: int) -> NDArray[np.uint8]:
    """Return uint8 [gaps_length] of strictly increasing places in 0 .. total - 1."""
    skips, rests = np.divmod(np.diff(places, prepend=-1) - 1, _SKIP)
    row = np.full(gaps_length(len(places), total), _SKIP, np.uint8)
    row[np.cumsum(skips + 1) - 1] = rests
    return row


def from_gaps(row: NDArray[np.uint8], count: int, total: int) -> NDArray[np.int64]:
    """Return the places, int64 [count].

    A row that no `count` places below `total` give raises RoundRefused.
    """
    ends = row != _SKIP
    # A byte of 255 moves on by 255 places, any other one by its gap and the place
    # itself.
    places: NDArray[np.int64] = (np.cumsum(row.astype(np.int64) + ends) - 1)[ends]
    if len(row) != gaps_length(count, total) or len(places) != count or places[-1] >= total:
        raise RoundRefused(
            "the places of a sparse update",
            found=f"{len(places)} places in {len(row)} bytes, or one beyond the blocks",
            expected=f"{count} places below {total} in {gaps_length(count, total)} bytes",
            fix="run the same job and the same wardround version at every site",
        )
    return places
