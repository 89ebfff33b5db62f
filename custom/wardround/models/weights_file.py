"""A local file of weights that a job names by its content: every party checks it before the first step.

A job says `weights: {file: PATH, sha256: DIGEST}`. The path is each machine's own, the digest is the job's promise: parties
whose files differ cannot start from different weights, because all but one are refused. The file is read once, and what
was read is what was checked.
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
    """Where the file is on this machine (absolute, or with ~), and the SHA-256 of its content."""

    file: Path
    sha256: str

    @staticmethod
    def of(given: object) -> WeightsFile:
        """Return what a job's `weights` says; a path alone, other keys, a relative path, no digest: ConfigRefused."""
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

            missing, not readable, too large, or no regular file (a job could name a device): ModelRefused, with what to do
        another content than the job promises: ModelRefused
        """
        try:
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
                fix="copy the file that the job means, or print the job anew with this file's digest",
            )
        return content


def _refused(found: str) -> ConfigRefused:
    return ConfigRefused(
        "the network's weights",
        found=found,
        expected="null, or {file: an absolute path or one with ~, sha256: 64 hexadecimal digits in lower case}",
        fix="`sha256sum FILE` prints the digest",
    )
