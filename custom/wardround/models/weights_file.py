"""Which file of weights does a job start from? One that it names by its content.

A job says `weights: {file: PATH, sha256: DIGEST}`, or `{shipped: NAME, sha256: DIGEST}`
for a file that this package brings (shipped.py). The path is each machine's own, the
digest is fixed by the job: parties whose files differ cannot start from different
weights, because all but one are refused, each before its first step. The file is read
once, and what was read is what was checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor

from wardround.core.bounded import MIB, MOST_FIRST_WEIGHTS, TooMuch, parse_json, read_bytes
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models import shipped
from wardround.models.stored_arrays import DAMAGED, state_dictionary

KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# No network that was trained has such a number; a larger one makes NaN of every loss.
LARGEST_NUMBER = 1e6
# Names and shapes of 100 000 blocks take less.
MOST_HEADER = 16 * MIB
# What a refusal prints of a file's own words, in characters.
LONGEST = 1000
_READABLE = (
    "safetensors, or what torch.save writes for a state dict (uncompressed, a storage for each tensor), of finite "
    f"numbers up to {LARGEST_NUMBER:.0e} in 16, 32 or 64 bits"
)
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

        ModelRefused is raised when the file is missing, not readable or larger than
        MOST_FIRST_WEIGHTS, when it is no regular file (a job could name a device), and
        when its content is not the one that the job names.
        """
        try:
            # Read once: a file that is exchanged between check and use cannot slip
            # through.
            content = read_bytes(self.file.expanduser(), MOST_FIRST_WEIGHTS)
        except (OSError, RuntimeError, TooMuch) as error:
            raise ModelRefused(
                f"weights: {self.file}",
                found=f"cannot be read ({getattr(error, 'strerror', None) or error})",
                expected=f"the file with SHA-256 {self.sha256}, at every site and at the server; nothing is downloaded",
                fix="copy it there, or `--set model.weights=none`: weights are then drawn from the job's seed",
            ) from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ModelRefused(
                f"weights: {self.file}",
                # Not its digest: a job could name any file of a hospital to learn what is in it.
                found="a file with another SHA-256",
                expected=f"SHA-256 {self.sha256}, which the job promises: all must start from the same weights",
                fix="copy the file that the job means, or print the job again with `--set model.weights=PATH`, which takes "
                "the digest of the file that lies there",
            )
        return content

    def tensors(self) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """Return (the named tensors, the words beside them) of the content.

        The file is one of safetensors, which may bring words about itself, or of
        torch.save (stored_arrays.py), which brings none. Nothing in it is ever run. The
        tensors are contiguous, of 16, 32 or 64 bits, their numbers finite and at most
        LARGEST_NUMBER. They are shared by all that ask for the same file, and are not to
        be changed.

        ModelRefused is raised where `read` raises it, and for any other content.
        """
        return _content_of(self, _stamp(self.file))

    def unfit(self, found: str, expected: str) -> ModelRefused:
        """Return the refusal of a file whose content does not fit the network."""
        return ModelRefused(
            f"weights: {self.file}",
            # Names and words come from the file and may be long.
            found=found if len(found) <= LONGEST else f"{found[:LONGEST]} ...",
            expected=expected,
            fix="give a file of this network, or `--set model.weights=none` to draw them",
        )


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is exchanged; None where it cannot be read."""
    try:
        about = file.expanduser().stat()
    except (OSError, RuntimeError):
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


# A job builds its network several times. A refusal is not kept.
@lru_cache(maxsize=1)
def _content_of(file: WeightsFile, stamp: tuple[int, ...] | None) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    content = file.read()
    try:
        if file.file.suffix == ".safetensors":
            found, words = _safe(content)
        else:
            found = {name: torch.from_numpy(block) for name, block in state_dictionary(content).items()}
            words = {}
    except TooMuch as error:
        raise file.unfit(f"cannot be read: {error}", _READABLE) from error
    except MemoryError as error:
        raise file.unfit("more than this machine's memory holds", _READABLE) from error
    except DAMAGED as error:
        raise file.unfit(f"cannot be read ({type(error).__name__})", _READABLE) from error
    for name, block in found.items():
        if block.dtype not in KINDS:
            raise file.unfit(f"{name} holds numbers of {block.dtype}", _READABLE)
        # As Python's floats: the limit itself is inf in 16 bits. NaN lies between no numbers.
        low, high = (float(end) for end in block.aminmax()) if block.numel() else (0.0, 0.0)
        if not (low >= -LARGEST_NUMBER and high <= LARGEST_NUMBER):
            raise file.unfit(f"{name} holds a number that is not finite, or beyond {LARGEST_NUMBER:.0e}", _READABLE)
    return MappingProxyType(found), MappingProxyType(words)


def _safe(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and words of a safetensors file, whose header is JSON behind 8
    bytes of length. ValueError is raised for any other content.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    length = int.from_bytes(content[:8], "little")
    if length > MOST_HEADER:
        raise TooMuch(f"a header of {length} bytes (limit {MOST_HEADER})")
    try:
        found = load(content)
    except SafetensorError as error:
        raise ValueError("no safetensors") from error
    return found, dict(parse_json(content[8 : 8 + length]).get("__metadata__", {}))


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file of weights; OSError and TooMuch are raised as they are."""
    return hashlib.sha256(read_bytes(file.expanduser(), MOST_FIRST_WEIGHTS)).hexdigest()


def _refused(found: str) -> ConfigRefused:
    return ConfigRefused(
        "the network's weights",
        found=found,
        expected="null, or {file: an absolute path or one with ~, sha256: 64 hexadecimal digits in lower case}, or "
        "{shipped: NAME, sha256}",
        fix="`sha256sum FILE` prints the digest",
    )
