"""How many threads does torch use for a while?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block.

    For many small steps in a row, sharing each step among threads can cost more than it
    saves (PerSample.pick_pace).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        # The setting belongs to the whole process, so it is restored in any case.
        torch.set_num_threads(threads)
