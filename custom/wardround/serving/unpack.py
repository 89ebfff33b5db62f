"""An upload to the images of one case, in memory: nothing is written to disk, and nothing grows beyond its limit.

A zip's names only say which sequence a file is; they are never paths. Every byte that comes out of a compressed stream is
counted, whatever sizes the archive states.
"""

from __future__ import annotations

import gzip
import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from wardround.data.layouts import MODALITIES, UNDERSTOOD, CaseFiles, named
from wardround.data.listing import nifti_stem
from wardround.data.nifti import parse
from wardround.data.sequences import SEG, split_name
from wardround.serving.limits import Limits, UploadRefused

CASE = "case"
MOST_ENTRIES, MOST_DIRECTORY = 256, 2**16
END, END_SIZE, LOCATOR_64, LOCATOR_SIZE = b"PK\x05\x06", 22, b"PK\x06\x07", 20
CHUNK = 2**20
GZIP = b"\x1f\x8b"


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class UploadedCase:
    """`files` names files that exist in `content` only; `unused`: what was sent beside them and is not used."""

    files: CaseFiles
    content: Mapping[Path, bytes]
    unused: tuple[str, ...] = ()

    def read(self, path: Path) -> bytes:
        return self.content[path]


def case_of(images: Mapping[str, bytes], limits: Limits, unused: tuple[str, ...] = ()) -> UploadedCase:
    """Return the case of NIfTI files by sequence (.nii or .nii.gz: the content tells). unused: what was sent beside them

    no image, another sequence: 422 | larger decompressed than the limits say: 413 | damaged gzip: 422
    damaged otherwise, or geometry that makes no sense: DataRefused (here or when it is read)
    """
    unknown = sorted(set(images) - set(MODALITIES))
    if unknown or not images:
        found = "no image" if not images else f"{len(unknown)} parts with other names"
        raise UploadRefused(
            422,
            "the sequences",
            found=found,
            expected=f"one or more of {', '.join(MODALITIES)}",
            fix="name the parts so",
        )
    left, content = limits.unpacked, {}
    for modality in (one for one in MODALITIES if one in images):
        path = Path(f"{CASE}_{modality}.nii")
        content[path] = _expanded(images[modality], left, modality, limits)
        left -= len(content[path])
        image = parse(CASE, path, content.__getitem__)
        voxels = 1
        for size in image.shape:
            voxels *= int(size)
        if voxels > limits.voxels:
            raise _too_large(f"{modality}: {voxels} voxels", f"{limits.voxels} voxels at most")
    files = {path.stem.removeprefix(f"{CASE}_"): path for path in content}
    return UploadedCase(CaseFiles(CASE, CASE, files, dict.fromkeys(files), None), content, unused)


def images_in_zip(body: bytes, limits: Limits) -> dict[str, bytes]:
    """Return the NIfTI files of a zipped case by sequence; a mask and files of other kinds are passed over.

    no zip, damaged, encrypted, zip64 or with a comment: 400 | absolute names, `..`, links: 400
    over 256 entries, larger unpacked than the limit: 413 | two files for one sequence, or none: 422
    """
    _require_plain(body)
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ENTRIES:
                raise _too_large(f"{len(entries)} files in the zip", f"{MOST_ENTRIES} at most")
            for entry in entries:
                _require_harmless(entry)
            return _images(archive, entries, limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _bad_zip(f"one that cannot be read ({type(error).__name__})") from error


def unused_in_zip(body: bytes) -> tuple[str, ...]:
    """Return the names of the files in a zip that `images_in_zip` took, which are no image that it uses.

    A mask is not counted, nor what operating systems add to a zip.
    """
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        names = [PurePosixPath(entry.filename) for entry in archive.infolist() if not entry.is_dir()]
    return tuple(
        name.name
        for name in names
        if named(name.name) is None
        and not any(part.startswith((".", "__")) for part in name.parts)
        and (split_name(nifti_stem(Path(name.name)) or "") or ("", ""))[1] != SEG
    )


def _images(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], limits: Limits) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    cases, left = set(), limits.unpacked
    for entry in entries:
        path = PurePosixPath(entry.filename)
        name = None if entry.is_dir() else named(path.name)
        if name is None:
            continue
        case, modality = name
        cases.add((path.parent, case))
        if modality in found or len(cases) > 1:
            what = "files of two cases" if len(cases) > 1 else f"two files for {modality}"
            raise UploadRefused(
                422, "the zip", found=what, expected="one case, a file per sequence", fix="send one case per request"
            )
        with archive.open(entry) as stream:
            found[modality] = _limited(stream, left, limits)
        left -= len(found[modality])
    if not found:
        raise UploadRefused(
            422,
            "the zip",
            found="no image of a case",
            expected=f"the folder of one case, zipped: {UNDERSTOOD.rpartition(', or')[0]}",
            fix="convert DICOM to NIfTI first, with dcm2niix for example; then name the files so",
        )
    return found


def _require_plain(body: bytes) -> None:
    """Refuse what would make zipfile read a long directory, before it does."""
    end = body[-END_SIZE:]
    if len(end) < END_SIZE or not end.startswith(END) or end[20:] != b"\0\0":
        raise _bad_zip("something else, a truncated one, or one with a comment")
    before = body[-END_SIZE - LOCATOR_SIZE : -END_SIZE]
    if before.startswith(LOCATOR_64) or int.from_bytes(end[12:16], "little") > MOST_DIRECTORY:
        raise _bad_zip("one with too long a list of files, or zip64")


def _require_harmless(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename.replace("\\", "/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.startswith("/") or ":" in name or "\0" in name or ".." in name.split("/"):
        raise _bad_zip("a name that leaves the archive's own folder")
    if kind and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise _bad_zip("a link or special file")
    if entry.flag_bits & 1:
        raise _bad_zip("an encrypted file")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad_zip("a compression other than deflate")


def _expanded(content: bytes, limit: int, modality: str, limits: Limits) -> bytes:
    """Return the bytes of a file, decompressed if it is gzip, counting while it grows."""
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


def _bad_zip(found: str) -> UploadRefused:
    return UploadRefused(
        400,
        "the zip",
        found=found,
        expected="a plain zip of one case: deflate, no links, no comment, no password, no zip64",
        fix="zip the folder of the case again, for example `zip -r case.zip CASE`",
    )


def _too_large(found: str, expected: str) -> UploadRefused:
    return UploadRefused(
        413, "the upload", found=found, expected=expected, fix="send one case, or raise the limit of the service"
    )
