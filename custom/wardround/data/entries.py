"""One decoded case on disk: image.npy, labels.npy, foreground.npy and meta.json in a
folder of its own.

The folder's name says which case it is (a hash of its paths) and which version of it (a
hash of paths, sizes, modification times, the label convention, and the version of our
preprocessing). A folder that exists is complete: it is written under another name and
renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.paths import disk_refused, no_room
from wardround.core.rng import stream
from wardround.data.layouts import CaseFiles
from wardround.data.volumes import Volume, read_any_kind

# Part of the folder's name: a new number makes every site decode its cases again.
PREPROCESSING = 1
# Enough to centre patches on. A large tumour has 100,000 voxels and more.
MOST_FOREGROUND = 4096
_TEMPORARY = ".new-"
# No process writes one case for a day: what is older was left by a crash.
_DAY_S = 86400
# Another process may put its folder there, or discard a damaged one, between two tries.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Entry:
    """What meta.json holds, and where the arrays are.

    values: the values of the unified labels.
    stored: the values in the mask's file.
    foreground: the number of voxels in foreground.npy.
    """

    folder: Path
    shape: tuple[int, int, int]
    present: tuple[bool, ...]
    values: frozenset[int]
    stored: frozenset[int]
    affine: tuple[tuple[float, ...], ...]
    spacing_mm: tuple[float, float, float]
    foreground: int


def entry_name(files: CaseFiles) -> str:
    """Return the folder name for a case as its files are now. A file that is gone is
    refused with DataRefused.
    """
    paths = [
        *(files.images[modality] for modality in files.images),
        *([files.seg] if files.seg else []),
    ]
    where = [(role, str(path.resolve())) for role, path in zip([*files.images, "seg"], paths, strict=False)]
    try:
        states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    except OSError as error:
        raise DataRefused(
            f"case {files.case!r}, file {Path(error.filename).name}",
            found=f"not readable: {error.strerror}",
            expected="a readable file",
            fix="check the path and its permissions",
        ) from error
    meaning = sorted(files.convention.meaning.items()) if files.convention else None
    version = [
        PREPROCESSING,
        files.case,
        where,
        states,
        sorted(files.channel.items()),
        meaning,
        *files.source.version,
    ]
    return f"{_hash([files.case, where])[:16]}-{_hash(version)[:32]}"


def read_entry(folder: Path, images: int) -> Entry | None:
    """Return the entry of a folder, or None where it is absent, damaged, or of another
    number of images.

    meta.json, the header and the exact length of every array are checked. Not every
    byte is: that would mean reading everything at each start.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        h, w, d = (int(n) for n in meta["shape"])
        x, y, z = (float(step) for step in meta["spacing_mm"])
        entry = Entry(
            folder=folder,
            shape=(h, w, d),
            present=tuple(bool(p) for p in meta["present"]),
            values=frozenset(int(v) for v in meta["values"]),
            stored=frozenset(int(v) for v in meta["stored"]),
            affine=tuple(tuple(float(v) for v in row) for row in meta["affine"]),
            spacing_mm=(x, y, z),
            foreground=int(meta["foreground"]),
        )
        sound = all(_is_array(folder / f"{name}.npy", *kind) for name, kind in _expected(entry).items())
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return entry if sound and np.shape(entry.affine) == (4, 4) and len(entry.present) == images else None


def write_entry(files: CaseFiles, root: Path, name: str) -> Entry:
    """Decode a case and keep it as root/name. Earlier versions of the case are removed:
    no copy outlives its source.

    Two processes may do this at once; the first one to finish is kept. A damaged folder
    of this name is replaced. A case that cannot be read is refused with DataRefused and
    nothing is kept; a root that cannot be written is refused with ConfigRefused.
    """
    volume, values, stored = read_any_kind(files)
    try:
        entry = _publish(volume, values, stored, root, root / name)
        for older in root.glob(f"{name.split('-')[0]}-*"):
            if older.name != name:
                discard(older)
    except OSError as error:
        if no_room(error):
            raise disk_refused(root, "the decoded cases") from error
        raise _unwritable(root, error.strerror or type(error).__name__) from error
    return entry


def sweep(root: Path) -> None:
    """Remove what processes that were stopped more than a day ago left half written."""
    for left in root.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY_S:
                shutil.rmtree(left)


def tumour_voxels(case: str, labels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return int32 [N, 3]: the indices of the voxels with a label, at most 4096 of
    them, drawn the same way every time.
    """
    flat = np.flatnonzero(labels)
    if len(flat) > MOST_FOREGROUND:
        flat = np.sort(
            stream(0, "foreground", case).choice(flat, MOST_FOREGROUND, replace=False),
        )
    return np.stack(np.unravel_index(flat, labels.shape), axis=1).astype("<i4")


def _fill(
    folder: Path,
    volume: Volume,
    values: frozenset[int],
    stored: frozenset[int],
) -> None:
    labels = volume.labels if volume.labels is not None else np.zeros(volume.image.shape[1:], np.uint8)
    voxels = tumour_voxels(volume.case, labels)
    _write(folder / "image.npy", volume.image.astype("<f2"))
    _write(folder / "labels.npy", labels)
    _write(folder / "foreground.npy", voxels)
    meta = {
        "shape": labels.shape,
        "present": volume.present.tolist(),
        "values": sorted(values),
        "stored": sorted(stored),
        "affine": volume.affine.tolist(),
        "spacing_mm": volume.spacing_mm,
        "foreground": len(voxels),
    }
    with (folder / "meta.json").open("w", encoding="utf-8") as stream_:
        json.dump(meta, stream_)


def _write(path: Path, array: NDArray[Any]) -> None:
    whole = np.ascontiguousarray(array)
    with path.open("wb") as stream_:
        np.lib.format.write_array_header_1_0(
            stream_,
            np.lib.format.header_data_from_array_1_0(whole),
        )
        # not np.save: on a full disk its error does not say why
        stream_.write(whole.data.cast("B") if whole.size else b"")
        stream_.flush()
        # Before the rename: after a power cut the folder must not exist with empty
        # arrays in it.
        os.fsync(stream_.fileno())


def _publish(
    volume: Volume,
    values: frozenset[int],
    stored: frozenset[int],
    root: Path,
    folder: Path,
) -> Entry:
    """Write a folder under another name and rename it. A sound folder that is there
    first is kept, a damaged one is not.
    """
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
    try:
        _fill(temporary, volume, values, stored)
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(OSError):
                # Atomic within one file system, and refused where the folder exists and
                # is not empty.
                temporary.rename(folder)
            entry = read_entry(folder, len(volume.present))
            if entry is not None:
                return entry
            discard(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    raise _unwritable(root, "a decoded case could not be read back")


def discard(folder: Path) -> None:
    """Remove a folder so that no other process sees half of it."""
    grave = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
    with contextlib.suppress(FileNotFoundError):
        # One step for other readers; open memory maps of the old arrays stay valid.
        folder.rename(grave / "old")
    shutil.rmtree(grave, ignore_errors=True)


def _expected(entry: Entry) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        "image": ("<f2", (len(entry.present), *entry.shape)),
        "labels": ("|u1", entry.shape),
        "foreground": ("<i4", (entry.foreground, 3)),
    }


def _is_array(path: Path, descr: str, shape: tuple[int, ...]) -> bool:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": descr, "fortran_order": False, "shape": shape},
    )
    start = header.getvalue()
    with path.open("rb") as stream_:
        same = stream_.read(len(start)) == start
    return same and path.stat().st_size == len(start) + math.prod(shape) * int(
        descr[-1],
    )


def _unwritable(root: Path, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the cache folder {root}",
        found=f"cannot be written: {found}",
        expected="a folder that this process may write to, with room for the decoded cases",
        fix='make room there, or name another folder as "cache" in the site\'s file',
    )


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
