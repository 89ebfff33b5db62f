"""What a compression remembers between rounds (error feedback), in the state folder.

What it remembered before a round is kept beside what it remembers after it. A round
that is asked again begins from the same memory, so that the same update makes the same
message; the next round continues from what came after. Both are written before the
message is sent: after a crash in between, the message counts as one that the server
never had.

What is owed leaves with a later update, after everything that the job and the site's own
policy do to that one. It is therefore bound to what was done to the update that it is
left of: under another promise or another policy nothing is remembered. Otherwise values
that nobody clipped or noised would leave beside those that were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wardround.compression.payload import Memory
from wardround.core import stored
from wardround.flare.outbound import Asked

FILE = "outbound_memory.npz"


class Settles(Protocol):
    """A stage that is told whether its message of a round is in the mean."""

    def settle(self, memory: Memory, counted: bool) -> None:
        """Record it in the memory."""
        ...


@dataclass(frozen=True)
class Remembered:
    """The memory of one round.

    round: the number of the round.
    before: what was remembered before it.
    after: what the stage makes of it; the stage writes into this.
    outbound_digest: of what was done to the update before the compression (outbound.py).
    """

    round: int
    before: Mapping[str, Any]
    after: Memory
    outbound_digest: str


def of_round(folder: Path, stage: Settles, asked: Asked, outbound_digest: str) -> Remembered:
    """Return what the stage continues from, once it knows if its message counted.

    What was remembered of an update that was made under something else is left out.
    """
    kept = _read(folder) if asked.round else None
    if kept is None or kept.outbound_digest != outbound_digest:
        return Remembered(asked.round, {}, {}, outbound_digest)
    if kept.round == asked.round:
        # The message of this round has had no answer yet, and is made again.
        return Remembered(asked.round, kept.before, _copy(kept.before), outbound_digest)
    memory = _copy(kept.after)
    # Other rounds may lie between. What matters is whether the last update of this site
    # that counted is the one of the message.
    stage.settle(memory, asked.since == kept.round + 1)
    return Remembered(asked.round, _copy(memory), memory, outbound_digest)


def keep(folder: Path, remembered: Remembered) -> None:
    """Write down what is to be remembered. For nothing, no file is written."""
    parts = {"before": remembered.before, "after": remembered.after}
    if not any(parts.values()):
        return
    arrays: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for part, memory in parts.items():
        for name, value in memory.items():
            (arrays if isinstance(value, np.ndarray) else said)[f"{part}:{name}"] = value
    stored.save(
        folder / FILE, arrays, said | {"round": remembered.round, "outbound_digest": remembered.outbound_digest}
    )


def _read(folder: Path) -> Remembered | None:
    found = stored.load(folder / FILE)
    if found is None or "round" not in found[1]:
        return None
    values = {**found[0], **found[1]}
    before, after = (
        {name.removeprefix(f"{part}:"): value for name, value in values.items() if name.startswith(f"{part}:")}
        for part in ("before", "after")
    )
    # A file that does not say it is of no promise at all.
    return Remembered(int(values["round"]), before, after, str(values.get("outbound_digest", "")))


def _copy(memory: Mapping[str, Any]) -> Memory:
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in memory.items()}
