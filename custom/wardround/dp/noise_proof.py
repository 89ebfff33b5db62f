"""How does the outbound filter know that an update was trained with noise?

It may not infer that from what is absent, such as a loss: whoever left the loss away
would then have proved noise. So the training notes, for exactly the bytes that its
private objective made, what that objective counted. The filter takes the note, once,
and compares it with what it is going to charge. Without a note nothing leaves. Notes
belong to this process and are never written down: an update that outlives its process
is trained a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from wardround.core.arrays import Arrays, digest
from wardround.dp.joint_dp import JointDP
from wardround.dp.patient_dp import PatientDP


@final
@dataclass(frozen=True)
class Proof:
    """The private gradients that were released while an update was made.

    All of them were made under one promise. Under JointDP they are sums of clipped
    gradients, whose noise is still to come.
    """

    promise: PatientDP | JointDP
    released: int


# By the digest of the update, so that a changed update finds no note.
_noted: dict[str, Proof] = {}


def note(update: Arrays, proof: Proof) -> None:
    """Note what made exactly these bytes. `dp_sgd.prove` calls it."""
    _noted[digest(update)] = proof


def take(update: Arrays) -> Proof | None:
    """Return the proof of exactly these bytes, once.

    An update that was changed, or that left before, has none.
    """
    return _noted.pop(digest(update), None)
