"""Which file of weights does a job start from? One that it names by its content.

A job says `weights: {file: PATH, sha256: DIGEST}`. The path is each machine's own, the
digest is fixed by the job: parties whose files differ cannot start from different
weights, because all but one are refused, each before its first step. The file is read
once, and what was read is what was checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wardround.core.bounded import MOST_WEIGHTS, TooMuch, read_bytes
from wardround.core.errors import ConfigRefused, ModelRefused

_DIGEST = re.compile(r"[0-9a-f]{64}")


@final
@dataclass(frozen=True)
class WeightsFile:
    """A file of weights and its content.

    file: Where it is on this machine, absolute or with ~.
    sha256: The SHA-256 of its content.
    """

    file: Path
    sha256: str

    @staticmethod
    def of(given: object) -> WeightsFile:
        """Return what a job's `weights` says.

        ConfigRefused is raised for a path alone, other keys, a relative path, and
        without a digest.
        """
        sound = isinstance(given, Mapping) and set(given) == {"file", "sha256"}
        values = dict(given) if isinstance(given, Mapping) and sound else {}
        file, digest = values.get("file"), values.get("sha256")
        if not (isinstance(file, str) and file.startswith(("/", "~")) and isinstance(digest, str)):
            raise _refused(repr(given))
        if not _DIGEST.fullmatch(digest):
            raise _refused(f"sha256 {digest!r}")
        return WeightsFile(Path(file), digest)

    def read(self) -> bytes:
        """Return the content.

        ModelRefused is raised when the file is missing, not readable or too large, when
        it is no regular file (a job could name a device), and when its content is not
        the one that the job names.
        """
        try:
            # Read once: a file that is exchanged between check and use cannot slip
            # through.
            content = read_bytes(self.file.expanduser(), MOST_WEIGHTS)
        except (OSError, RuntimeError, TooMuch) as error:
            raise ModelRefused(
                f"weights of a ViT: {self.file}",
                found=f"cannot be read ({getattr(error, 'strerror', None) or error})",
                expected=f"the file with SHA-256 {self.sha256}, at every site and at the server; nothing is downloaded",
                fix="copy it there, or set `model.weights` to null: weights are then drawn from the job's seed",
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ModelRefused(
                f"weights of a ViT: {self.file}",
                found=f"SHA-256 {found}",
                expected=f"SHA-256 {self.sha256}, which the job promises: all must start from the same weights",
                fix="copy the file that the job means, or print the job again with this file's digest",
            )
        return content


def _refused(found: str) -> ConfigRefused:
    return ConfigRefused(
        "the network's weights",
        found=found,
        expected="null, or {file: an absolute path or one with ~, sha256: 64 hexadecimal digits in lower case}",
        fix="`sha256sum FILE` prints the digest",
    )
