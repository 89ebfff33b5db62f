"""The images of a site's labelled cases, decoded once into ONE memory-mapped array on
disk.

<cache>/labelled/<which folder and cases>-<which version>/ holds images.npy (float16 [N,
M, H, W] or [N, M, D, H, W]) and index.json. A version is known by the paths, sizes and
modification times of all files. When some of them change, the rest is copied from the
version before, which is then removed: no copy outlives its source. A folder that exists
is complete: it is written under another name and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.paths import disk_refused, no_room, reserve
from wardround.data.cache import READERS, silent
from wardround.data.entries import discard, sweep
from wardround.data.pictures import Grid, read_picture
from wardround.data.refusals import refuse_together

# Part of the folder's name: a new number makes every site decode its images again.
PREPROCESSING = 2
_TEMPORARY = ".new-"


@dataclass(frozen=True)
class Pictures:
    """The files of one case: one per modality, None where it was not acquired."""

    case: str
    files: tuple[Path | None, ...]


def open_pack(
    wanted: Sequence[Pictures],
    grid: Grid,
    cache_dir: Path,
    which: str,
    progress: Callable[[str], None] = silent,
) -> Path:
    """Return the path of images.npy. Row i is that of wanted[i], with zeros for a
    modality that was not acquired.

    grid: the size of every image.
    cache_dir: made if absent (mode 0700). One that cannot be written is refused with
      ConfigRefused.
    which: a name for the folder and the choice of cases. One version of each is kept.
    progress: called with lines for a person.

    A damaged pack is made again, and two processes may do this at once. Files that
    cannot be read are refused with one DataRefused that lists up to 10, and nothing is
    kept.
    """
    versions = _versions(wanted, grid)
    root = cache_dir.resolve() / "labelled"
    prefix, version = _hash(which)[:16], _hash(versions)[:32]
    folder = root / f"{prefix}-{version}"
    shape = (len(wanted), len(wanted[0].files), *grid.shape)
    if _read(folder, shape) is None:
        with _writing(cache_dir):
            if not cache_dir.exists():
                cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
            sweep(root)
            _make(folder, wanted, versions, grid, shape, progress)
    with contextlib.suppress(OSError):
        for older in root.glob(f"{prefix}-*"):
            if older != folder:
                discard(older)
    return folder / "images.npy"


def load(pack: Path) -> NDArray[np.float16]:
    """Return the images as a read-only memory map. Images that were removed or damaged
    since they were opened are refused with DataRefused.
    """
    try:
        images: NDArray[np.float16] = np.load(pack, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataRefused(
            f"the cache folder {pack.parent}",
            found=f"images that are gone or damaged since the start ({type(error).__name__})",
            expected="a cache that is left alone while a job runs",
            fix="start the job again: the images are decoded again",
        ) from error
    return images


def _versions(wanted: Sequence[Pictures], grid: Grid) -> list[str]:
    """Return a hash per case of everything that its row in the pack depends on."""
    problems: list[DataRefused] = []
    versions = []
    for one in wanted:
        states: list[object] = [PREPROCESSING, asdict(grid), one.case]
        for file in one.files:
            try:
                status = None if file is None else file.stat()
            except OSError as error:
                problems.append(
                    DataRefused(
                        f"case {one.case!r}, file {Path(error.filename).name}",
                        found=f"not readable: {error.strerror}",
                        expected="a readable file",
                        fix="correct the table, or leave the cell empty: a missing modality is normal",
                    ),
                )
                continue
            states.append(
                None if status is None else [str(file), status.st_size, status.st_mtime_ns],
            )
        versions.append(_hash(states))
    refuse_together(problems, "the table")
    return versions


def _make(
    folder: Path,
    wanted: Sequence[Pictures],
    versions: Sequence[str],
    grid: Grid,
    shape: tuple[int, ...],
    progress: Callable[[str], None],
) -> None:
    before = _older(folder, shape)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
    try:
        images = np.lib.format.open_memmap(temporary / "images.npy", "w+", "<f2", shape)
        # The space is taken now: a write into a memory map on a full disk would kill
        # the process.
        reserve(temporary / "images.npy")
        fresh = [i for i, version in enumerate(versions) if version not in before]
        for i, version in enumerate(versions):
            if version in before:
                images[i] = before[version]
        progress(f"decoding {len(fresh)} of {len(wanted)} cases into {folder.parent} (only this once)")
        problems: list[DataRefused] = []

        def decode(i: int) -> None:
            for m, file in enumerate(wanted[i].files):
                try:
                    if file is not None:
                        images[i, m] = read_picture(wanted[i].case, file, grid)
                except DataRefused as problem:
                    problems.append(problem)

        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(decode, fresh))
        refuse_together(sorted(problems, key=lambda problem: problem.what), "the table")
        images.flush()
        (temporary / "index.json").write_text(json.dumps(list(versions)))
        for _ in range(2):
            with contextlib.suppress(OSError):
                temporary.rename(folder)
            if _read(folder, shape) is not None:
                return
            discard(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    raise OSError("the decoded images could not be read back")


def _older(folder: Path, shape: tuple[int, ...]) -> Mapping[str, NDArray[np.float16]]:
    """Return the images of earlier packs of the same cases, by their version."""
    found: dict[str, NDArray[np.float16]] = {}
    for other in folder.parent.glob(f"{folder.name.split('-')[0]}-*"):
        versions = _read(other, (None, *shape[1:]))
        if versions is not None:
            with contextlib.suppress(DataRefused):
                found.update(zip(versions, load(other / "images.npy"), strict=False))
    return found


def _read(folder: Path, shape: tuple[int | None, ...]) -> list[str] | None:
    """Return the versions of a complete pack of this shape (None means any length), or
    None where it is absent, damaged or too short.
    """
    try:
        versions = json.loads((folder / "index.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    fits = isinstance(versions, list) and images.dtype == np.float16 and images.shape[1:] == shape[1:]
    return versions if fits and len(images) == len(versions) and shape[0] in (None, len(images)) else None


@contextmanager
def _writing(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if no_room(error):
            raise disk_refused(cache_dir, "the decoded images") from error
        raise ConfigRefused(
            f"the cache folder {cache_dir}",
            found=f"cannot be written: {error.strerror or error}",
            expected="a folder that this process may write to, with room for the decoded images",
            fix='make room there, or name another folder as "cache" in the site\'s file (`data check`: TMPDIR)',
        ) from error


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
