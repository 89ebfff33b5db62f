"""What does a compressed message hold? Named arrays of a layout that both ends know.

A compression is made for given blocks (names and shapes of the update that it is given)
and states the layout of its messages from them alone. A reader refuses anything else,
and the number of payload bytes follows from the layout.

Blocks are always taken in the alphabetical order of their names: two ends that hold the
same blocks in another order still speak of the same coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ReleaseRefused, RoundRefused
from wardround.core.stages import Stage

Floats = NDArray[np.float64]
Payload = Mapping[str, NDArray[Any]]
Memory = dict[str, Any]
REST = "the same shared blocks in every round: what a site still owes of a block would leave after it was taken home"
"""Why every compression with a memory needs STEADY."""
LATER = "updates of which a part may leave later: what is not sent waits at the site, and leaves with later updates"
"""Why a compression that passes through secure sums needs DEFERRABLE."""


@final
@dataclass(frozen=True)
class Entry:
    """One array of a message: its name, the name of its dtype and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Return the bytes of the array's values."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


Entries = tuple[Entry, ...]


@runtime_checkable
class Opened(Stage, Protocol):
    """A compression whose messages are opened one by one, before anything is added.

    It needs readable updates.
    """

    def layout(self, round_: int) -> Entries:
        """Return what a message of this stage's blocks holds in this round, exactly."""
        ...

    def opened(self, payload: Payload, round_: int, memory: Memory) -> dict[str, Array]:
        """Return the update that a message stands for, float32.

        A message of another layout raises RoundRefused.

        memory: what the reader keeps for this one sender.
        """
        ...

    def settle(self, memory: Memory, counted: bool) -> None:
        """Record at either end whether the message of this round counted in the mean."""
        ...


@runtime_checkable
class Linear(Stage, Protocol):
    """A compression that commutes with weighted means.

    It passes through a secure sum, and the sum is opened. Every value that it keeps of a
    revealed mean follows from that mean and from the job's seed.
    """

    @property
    def blocks(self) -> Layout:
        """Return the blocks of the updates, in the order of their names."""
        ...

    @property
    def cycle(self) -> int:
        """Return after how many rounds the layout of the messages comes back."""
        ...

    def layout(self, round_: int) -> Entries:
        """Return what a message of this stage's blocks holds in this round, exactly."""
        ...

    def put_back(self, left: Arrays, round_: int, memory: Memory) -> None:
        """Add what a later stage (fixed point) rounded off to what the site still owes.

        left: by the names and shapes of this round's message.
        """
        ...

    def settle(self, memory: Memory, counted: bool) -> None:
        """Record at the site whether its message of this round is in the mean."""
        ...


def payload_bytes(entries: Iterable[Entry]) -> int:
    """Return the payload bytes of a message.

    The envelope around it (names, signatures) is not counted.
    """
    return sum(entry.bytes for entry in entries)


def layout_of(entries: Entries) -> Layout:
    """Return names and shapes of a message's arrays."""
    return Layout(tuple(one.name for one in entries), tuple(one.shape for one in entries))


def in_order(blocks: Layout) -> Layout:
    """Return the same blocks in the alphabetical order of their names."""
    shapes = dict(zip(blocks.names, blocks.shapes, strict=True))
    names = tuple(sorted(shapes))
    return Layout(names, tuple(shapes[name] for name in names))


def require_entries(payload: Payload, entries: Entries, what: str) -> None:
    """Raise RoundRefused unless the message holds exactly these arrays.

    Floating-point values must be finite.
    """
    expected = {entry.name: (entry.dtype, entry.shape) for entry in entries}
    found = {name: (str(array.dtype), tuple(array.shape)) for name, array in payload.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise _unread(
                f"{what}: the array {name!r}",
                str(found.get(name, "no such array")),
                str(expected.get(name, "no such array")),
            )
    for name, array in payload.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _unread(f"{what}: the array {name!r}", "NaN or inf", "finite numbers")


def as_float32(values: Floats, what: str) -> Array:
    """Return what a message stands for as float32.

    A number beyond the range of float32 raises RoundRefused.
    """
    with np.errstate(over="ignore"):
        found: Array = values.astype(np.float32)
    if not np.isfinite(found).all():
        raise _unread(what, "a number that float32 cannot hold", "finite numbers")
    return found


def owed(update: Arrays, blocks: Layout, memory: Memory, key: str | None) -> Floats:
    """Return the update plus what the site still owes, as one float64 vector.

    NaN or inf raises ReleaseRefused, and nothing leaves. Other blocks than the stage's
    raise RoundRefused.

    key: what is owed is the float32 array `memory[key]`, or zeros at first; None means
        that nothing is owed.
    """
    wish = blocks.flatten(update).astype(np.float64)
    if key is not None and key in memory:
        wish += kept(memory, key, (blocks.total,))
    if not np.isfinite(wish).all():
        raise ReleaseRefused(
            "an update that cannot be compressed",
            found="NaN or inf",
            expected="finite numbers",
            fix="lower the learning rate (--set lr=NUMBER); run `wardround preflight` at this site",
        )
    return wish


def kept(memory: Memory, key: str, shape: tuple[int, ...]) -> Array:
    """Return a float32 array of the memory; another shape raises RoundRefused."""
    array: Array = memory[key]
    if array.shape != shape:
        raise RoundRefused(
            f"what this site remembers as {key!r}",
            found=f"an array of shape {array.shape}",
            expected=f"shape {shape}, that of this job's model",
            fix="delete this job's state folder at this site: it belongs to another model",
        )
    return array


def _unread(what: str, found: str, expected: str) -> RoundRefused:
    return RoundRefused(
        what,
        found=found,
        expected=expected,
        fix="run the same job and the same wardround version at every site",
    )
