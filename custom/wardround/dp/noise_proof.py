"""What a private training hands to the outbound filter as its proof: which update, under which promise, how many releases.

The exit must know that an update was trained with noise. It may not infer that from what is absent (no loss beside it): whoever
leaves the loss away would then have proved noise. So the hospital notes, for exactly the bytes that its private oracle made, what
that oracle counted; the exit takes the note, once, and compares it with what it is going to charge. No note: nothing leaves.
The notes are of this process and are never written down: an update that outlives its process is trained anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from wardround.core.arrays import Arrays, digest
from wardround.dp.patient_dp import PatientDP


@final
@dataclass(frozen=True)
class Proof:
    """Private gradients that were released while an update was made, all of them under one promise."""

    promise: PatientDP
    released: int


_noted: dict[str, Proof] = {}


def note(update: Arrays, proof: Proof) -> None:
    """Note what made exactly these bytes; `dp_sgd.prove` does it for a private oracle."""
    _noted[digest(update)] = proof


def take(update: Arrays) -> Proof | None:
    """Return the proof of exactly these bytes, once; an update that was changed, or that left before, has none."""
    return _noted.pop(digest(update), None)
