"""What are the files of a case, for one task? Its images by name, and how intensities
and masks are read.

Brain MRI (`BRAIN_MRI`) is one such value, and the default of everything that reads
files. Another modality or organ is another value, filled from a job's task
(tasks/task.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused
from wardround.data.normalise import CLIP, normalise
from wardround.data.sequences import MODALITIES, SEG, role_of

Field = NDArray[np.float32]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,23}")
_SEPARATORS = re.compile(r"[-_. ]+")


class Normaliser(Protocol):
    """Turns the raw intensities of one image into comparable ones, exactly 0 where
    there is nothing to see.
    """

    def __call__(self, raw: Field) -> Field: ...


@dataclass(frozen=True)
class HeadZScores:
    """Z-scores inside the brain or head (normalise.py), for MRI."""

    def __call__(self, raw: Field) -> Field:
        return normalise(raw)


@dataclass(frozen=True)
class Window:
    """A window of CT numbers: 0 at `low` and below, CLIP / 2 at `high` and above. Ends
    in the wrong order are refused with ConfigRefused.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (self.low, self.high))
        if not (numbers and -1e5 <= self.low < self.high <= 1e5):
            raise ConfigRefused(
                "the window of intensities",
                found=f"from {self.low!r} to {self.high!r}",
                expected="two numbers, the lower first, for example -160 to 240 for soft tissue in CT",
                fix="correct `task.normalisation` in the job's sampling",
            )

    def __call__(self, raw: Field) -> Field:
        scaled = (np.clip(raw, self.low, self.high) - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.asarray(scaled * np.float32(CLIP / 2), np.float32)


@dataclass(frozen=True)
class Channels:
    """The images of a case by name, in the order of a network's inputs.

    words: what files call each image, in any case and without separators. A name
      without words uses those of sequences.py.

    No name, a repeated name, one that is no plain word or is a mask's, and a missing
    list of words for a name that sequences.py does not have are refused with
    ConfigRefused.
    """

    names: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = all(isinstance(name, str) and NAME.fullmatch(name) and name != SEG for name in self.names)
        written = all(isinstance(word, str) and word for words in self.words.values() for word in words)
        known = all(name in MODALITIES or self.words.get(name) for name in self.names)
        if not (self.names and len(set(self.names)) == len(self.names) and named and written and known):
            raise ConfigRefused(
                "the images of the task",
                found=f"{list(self.names)} with words {dict(self.words)}",
                expected=f"different names, each of {', '.join(MODALITIES)} or with the words that files call it by",
                fix='for example `task.inputs: {ct: ["ct"]}` in the job\'s sampling',
            )

    def role_of(self, word: str) -> str | None:
        """Return the image (or `seg`) that a word of a file's name means, or None for
        any other word.
        """
        plain = _SEPARATORS.sub("", word.casefold())
        for name, words in self.words.items():
            if plain in {_SEPARATORS.sub("", one.casefold()) for one in words}:
                return name
        role = role_of(word)
        return role if role == SEG or (role in self.names and not self.words.get(str(role))) else None


@dataclass(frozen=True)
class Source:
    """What the files of a case are.

    channels: the images of a case.
    normaliser: how the intensities of one image become comparable.
    kind: the name of the masks; None for tumour masks of BraTS, whose values are read
      by a convention (conventions.py).
    values: the values in the masks that mean something.
    """

    channels: Channels
    normaliser: Normaliser = HeadZScores()
    kind: str | None = None
    values: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.channels.names

    @property
    def version(self) -> list[Any]:
        """Return what a decoded case depends on, as JSON. Brain MRI gives [], so that
        its cached cases stay valid.
        """
        return [] if self == BRAIN_MRI else [list(self.names), repr(self.normaliser), self.kind, list(self.values)]

    @property
    def understood(self) -> str:
        """Return in words how files must be called."""
        names = ",".join((*self.names, SEG))
        return f"<case>/<case>_{{{names}}}.nii.gz, or imagesTr/<case>.nii.gz with labelsTr/<case>.nii.gz"


BRAIN_MRI = Source(Channels(MODALITIES))
