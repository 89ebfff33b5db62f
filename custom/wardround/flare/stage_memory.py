"""What stages of a chain remember between rounds (error feedback), in the site's state folder.

It is written before the message is sent: after a crash in between, the message counts as lost and what it would have
carried as sent, which costs one message's progress and never a value that is sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wardround.core import stored
from wardround.core.stages import Stage
from wardround.flare.outbound import Asked

FILE, ROUND = "outbound_memory.npz", "outbound.round"


def of_round(folder: Path, stages: Iterable[Stage], asked: Asked) -> dict[str, Any]:
    """Return what was remembered, empty at the first round; stages have been told whether the message before counted."""
    memory = _read(folder) if asked.round else {}
    # A round that is asked twice is not settled twice: its own message has had no answer yet.
    if memory.get(ROUND, asked.round) < asked.round:
        for stage in stages:
            settle = getattr(stage, "settle", None)
            if settle is not None:
                settle(memory, asked.counted)
    return memory | {ROUND: asked.round}


def keep(folder: Path, memory: dict[str, Any]) -> None:
    """Write down what is to be remembered; a chain that remembers nothing leaves no file."""
    if set(memory) == {ROUND}:
        return
    arrays = {name: value for name, value in memory.items() if isinstance(value, np.ndarray)}
    stored.save(folder / FILE, arrays, {name: value for name, value in memory.items() if name not in arrays})


def _read(folder: Path) -> dict[str, Any]:
    found = stored.load(folder / FILE)
    return {} if found is None else {**found[1], **found[0]}
