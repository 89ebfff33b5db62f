"""Which file of weights does a job start from? One that it names by its content.

A job says `weights: {file: PATH, sha256: DIGEST}`, or `{shipped: NAME, sha256: DIGEST}`
for a file that this package brings (shipped.py). The path is each machine's own, the
digest is fixed by the job: parties whose files differ cannot start from different
weights, because all but one are refused, each before its first step. The file is read
once, and what was read is what was checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from wardround.core.bounded import MOST_WEIGHTS, TooMuch, read_bytes
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models import shipped

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
        sound = isinstance(given, Mapping) and set(given) in ({"file", "sha256"}, {"shipped", "sha256"})
        values = dict(given) if isinstance(given, Mapping) and sound else {}
        file, name, digest = values.get("file"), values.get("shipped"), values.get("sha256")
        absolute = isinstance(file, str) and file.startswith(("/", "~"))
        if not ((absolute or isinstance(name, str)) and isinstance(digest, str)):
            raise _refused(repr(given))
        if not _DIGEST.fullmatch(digest):
            raise _refused(f"sha256 {digest!r}")
        return WeightsFile(Path(str(file)) if absolute else shipped.path_of(str(name)), digest)

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
                f"weights: {self.file}",
                found=f"cannot be read ({getattr(error, 'strerror', None) or error})",
                expected=f"the file with SHA-256 {self.sha256}, at every site and at the server; nothing is downloaded",
                fix="copy it there, or `--set model.weights=none`: weights are then drawn from the job's seed",
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ModelRefused(
                f"weights: {self.file}",
                found=f"SHA-256 {found}",
                expected=f"SHA-256 {self.sha256}, which the job promises: all must start from the same weights",
                fix="copy the file that the job means, or print the job again with this file's digest",
            )
        return content

    def tensors(self) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """Return (the named tensors, the words beside them) of the content.

        The file is one of safetensors, which may bring words about itself, or of
        torch.save, which brings none. Nothing in it is ever run. ModelRefused is raised
        where `read` raises it, and for any other content.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        content = self.read()
        words: Any = {}
        try:
            if self.file.suffix == ".safetensors":
                found: Any = load(content)
                words = _words_of(content)
            else:
                found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (
            OSError,
            RuntimeError,
            EOFError,
            ValueError,
            pickle.UnpicklingError,
            SafetensorError,
        ) as error:
            raise self.unfit(
                f"cannot be read ({type(error).__name__})",
                "safetensors, or a state dict of torch.save",
            ) from error
        for wrapper in ("model", "state_dict"):
            if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
                found = found[wrapper]
        if not isinstance(found, Mapping) or not all(isinstance(block, Tensor) for block in found.values()):
            raise self.unfit("no table of named tensors", "safetensors, or a state dict of torch.save")
        return found, words

    def unfit(self, found: str, expected: str) -> ModelRefused:
        """Return the refusal of a file whose content does not fit the network."""
        return ModelRefused(
            f"weights: {self.file}",
            found=found,
            expected=expected,
            fix="give a file of this network, or `--set model.weights=none` to draw them",
        )


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file of weights; OSError and TooMuch are raised as they are."""
    return hashlib.sha256(read_bytes(file.expanduser(), MOST_WEIGHTS)).hexdigest()


def _words_of(content: bytes) -> Mapping[str, str]:
    """Return the words of a safetensors file: its header is JSON behind 8 bytes of length."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__", {}))


def _refused(found: str) -> ConfigRefused:
    return ConfigRefused(
        "the network's weights",
        found=found,
        expected="null, or {file: an absolute path or one with ~, sha256: 64 hexadecimal digits in lower case}, or "
        "{shipped: NAME, sha256}",
        fix="`sha256sum FILE` prints the digest",
    )
