"""The images of one case, as they were sent, in memory: nothing is written to disk, and
nothing grows beyond its limit.

Every byte that comes out of a compressed stream is counted, whatever size the stream
states.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wardround.data.layouts import CaseFiles
from wardround.data.nifti import parse
from wardround.serving.limits import Limits, UploadRefused
from wardround.tasks.brain_tumours import SEQUENCES

CASE = "case"
CHUNK = 2**20
GZIP = b"\x1f\x8b"


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class UploadedCase:
    """The files of one case. `files` names files that exist in `content` only."""

    files: CaseFiles
    content: Mapping[Path, bytes]

    def read(self, path: Path) -> bytes:
        return self.content[path]


def case_of(images: Mapping[str, bytes], limits: Limits) -> UploadedCase:
    """Return the case of NIfTI files by sequence. Their content says whether they are
    compressed.

    No image, another sequence and damaged gzip are refused with 422, and more bytes
    than the limits allow, decompressed, with 413. Files that are damaged otherwise, or
    whose geometry makes no sense, are refused with DataRefused, here or when they are
    read.
    """
    unknown = sorted(set(images) - set(SEQUENCES))
    if unknown or not images:
        found = "no image" if not images else f"{len(unknown)} parts with other names"
        raise UploadRefused(
            422,
            "the sequences",
            found=found,
            expected=f"one or more of {', '.join(SEQUENCES)}",
            fix="send each image as a part of the form that has the name of its sequence",
        )
    left, content = limits.unpacked, {}
    for modality in (one for one in SEQUENCES if one in images):
        path = Path(f"{CASE}_{modality}.nii")
        content[path] = _expanded(images[modality], left, modality, limits)
        left -= len(content[path])
        image = parse(CASE, path, content.__getitem__)
        voxels = 1
        for size in image.shape:
            voxels *= int(size)
        if voxels > limits.voxels:
            raise _too_large(
                f"{modality}: {voxels} voxels",
                f"{limits.voxels} voxels at most",
            )
    files = {path.stem.removeprefix(f"{CASE}_"): path for path in content}
    return UploadedCase(
        CaseFiles(CASE, CASE, files, dict.fromkeys(files), None),
        content,
    )


def _expanded(content: bytes, limit: int, modality: str, limits: Limits) -> bytes:
    """Return the bytes of a file, decompressed if it is gzip. They are counted while
    they grow.
    """
    try:
        with gzip.open(io.BytesIO(content)) if content.startswith(GZIP) else io.BytesIO(content) as stream:
            return _limited(stream, limit, limits)
    except (OSError, EOFError, zlib.error) as error:
        raise UploadRefused(
            422,
            f"the image {modality}",
            found=f"damaged gzip data ({type(error).__name__})",
            expected="a complete .nii.gz",
            fix="export it again",
        ) from error


def _limited(stream: Readable, limit: int, limits: Limits) -> bytes:
    parts, size = [], 0
    while part := stream.read(CHUNK):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _too_large("more when unpacked", f"{limits.unpacked} bytes at most")
    return b"".join(parts)


def _too_large(found: str, expected: str) -> UploadRefused:
    return UploadRefused(
        413,
        "the upload",
        found=found,
        expected=expected,
        fix="send one case, or raise the limit of the service",
    )
