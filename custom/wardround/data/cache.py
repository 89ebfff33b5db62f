"""A site's cases, decoded once and kept as plain arrays.

The first opening reads the NIfTI files, a few at a time; later ones read neither them
nor nibabel. Patches are cut out of memory maps, so an epoch costs what it touches.
Images are kept as float16, which halves disk and page cache. Values lie within +-5, the
rounding error is at most 0.002, and a 64^3 patch of four channels takes about a
millisecond more to cut out (2.3 against 1.2 ms).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.cases import find_cases
from wardround.data.conventions import DEFAULT, kind_of_site
from wardround.data.entries import Entry, entry_name, read_entry, sweep, write_entry
from wardround.data.labels import check_label_kind
from wardround.data.layouts import CaseFiles
from wardround.data.patients import about_patients
from wardround.data.refusals import refuse_together
from wardround.data.site_config import SiteConfig
from wardround.data.source import BRAIN_MRI, Source
from wardround.data.volumes import Volume

# Seconds between two lines of progress.
TELL_S = 30
# Threads that decode. Each holds one case in memory, so more of them would fill a small
# machine.
READERS = min(4, os.cpu_count() or 1)


def silent(_: str) -> None:
    """Print nothing: the default of `progress`."""


@dataclass(frozen=True)
class Cohort:
    """The decoded cases of a site.

    cases: case ids, sorted.
    patients: the patient of each case.
    label_kind: brats or whole_tumour; for another task, its own name for its masks.
    modalities: the number of cases that have each modality.
    entries: the arrays of each case on disk.
    record: float32 [2 F] for each patient (ehr_table.py); empty where the job uses no
      health records.
    """

    cases: tuple[str, ...]
    patients: Mapping[str, str]
    label_kind: str
    modalities: Mapping[str, int]
    entries: Mapping[str, Entry]
    record: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def load(self, case: str) -> Volume:
        """Return a case. Its image (float16) and labels are read-only memory maps.

        A case that is not in `cases` raises KeyError. One that was removed from the
        cache since the cohort was opened is refused with DataRefused.
        """
        entry = self.entries[case]
        with _still_there(case, entry):
            image = np.load(
                entry.folder / "image.npy",
                mmap_mode="r",
                allow_pickle=False,
            )
            labels = np.load(
                entry.folder / "labels.npy",
                mmap_mode="r",
                allow_pickle=False,
            )
        return Volume(
            case,
            image,
            np.array(entry.present),
            labels,
            np.array(entry.affine),
            entry.spacing_mm,
        )

    def foreground(self, case: str) -> NDArray[np.int32]:
        """Return int32 [N, 3]: the indices of tumour voxels, N from 0 to 4096 (all, or
        always the same random draw).

        Errors are those of `load`.
        """
        entry = self.entries[case]
        with _still_there(case, entry):
            voxels: NDArray[np.int32] = np.load(
                entry.folder / "foreground.npy",
                allow_pickle=False,
            )
        return voxels


def open_cohort(
    config: SiteConfig,
    cache_dir: Path,
    progress: Callable[[str], None] = silent,
    source: Source = BRAIN_MRI,
) -> Cohort:
    """Return the cohort of a site. Cases that are not in cache_dir yet, or that changed
    since, are decoded now.

    config: where the site's data is.
    cache_dir: usually config.cache or a folder in the workspace. It is made if absent,
      and the cases are kept in its sub-folder `cases`, both for this user only (mode
      0700); a folder that was there before keeps its mode.
    progress: called with lines for a person.
    source: which images a case may have, and how files are read.

    A case is known by the paths, sizes and modification times of its files. There is
    one entry per case; an older version is removed. Two processes may open a cohort at
    once. After a crash nothing half written is used, and a damaged entry is decoded
    again.

    Damaged cases, and masks without one sure meaning (conventions.py), are refused with
    one DataRefused that lists up to 10; the sound ones stay in the cache. A cache_dir
    that cannot be written is refused with ConfigRefused.
    """
    files = find_cases(
        config.data,
        config.cases,
        config.patient_pattern,
        labels=config.labels,
        source=source,
    )
    for words in about_patients(
        {one.case: one.patient for one in files},
        config.patient_pattern is not None,
    ):
        progress(f"patients: {words}")
    root = _private_folder(cache_dir)
    entries = _entries(files, root, progress, str(config.data))
    kind = kind_of_site(
        [(one.convention or DEFAULT, entries[one.case].stored) for one in files],
    )
    _check_kinds(files, entries, kind, str(config.data))
    return Cohort(
        cases=tuple(entries),
        patients={one.case: one.patient for one in files},
        label_kind=kind,
        modalities={name: sum(name in one.images for one in files) for name in source.names},
        entries=entries,
    )


def _entries(
    files: tuple[CaseFiles, ...],
    root: Path,
    progress: Callable[[str], None],
    where: str,
) -> dict[str, Entry]:
    """Return the entry of every case, in order. Those that are missing are made."""
    problems: list[DataRefused] = []
    ready: dict[str, Entry] = {}
    waiting: list[tuple[CaseFiles, str]] = []
    for one in files:
        try:
            name = entry_name(one)
        except DataRefused as problem:
            problems.append(problem)
            continue
        entry = read_entry(root / name, len(one.source.names))
        if entry is None:
            waiting.append((one, name))
        else:
            ready[one.case] = entry
    if waiting:
        sweep(root)
        for (one, _), made in zip(
            waiting,
            _decode(waiting, root, progress),
            strict=True,
        ):
            if isinstance(made, DataRefused):
                problems.append(made)
            else:
                ready[one.case] = made
    refuse_together(problems, where)
    return {one.case: ready[one.case] for one in files}


def _decode(
    waiting: list[tuple[CaseFiles, str]],
    root: Path,
    progress: Callable[[str], None],
) -> list[Entry | DataRefused]:
    """Decode in a few threads, because decompression and arithmetic run side by side.
    Return entries or refusals in order.

    progress: called with one line at the end, and one every TELL_S seconds until then.
    """
    done, lock = 0, threading.Lock()
    begun = told = time.monotonic()

    def decode(job: tuple[CaseFiles, str]) -> Entry | DataRefused:
        nonlocal done, told
        try:
            result: Entry | DataRefused = write_entry(job[0], root, job[1])
        except DataRefused as problem:
            result = problem
        # `done` and `told` are shared by the reading threads.
        with lock:
            done += 1
            now = time.monotonic()
            if done == len(waiting) or now - told >= TELL_S:
                told = now
                progress(f"decoded {done} of {len(waiting)} cases into {root} (only this once), {now - begun:.0f} s")
        return result

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(decode, waiting))


def _check_kinds(
    files: tuple[CaseFiles, ...],
    entries: Mapping[str, Entry],
    kind: str,
    where: str,
) -> None:
    problems: list[DataRefused] = []
    for one in files:
        try:
            check_label_kind(
                one.case,
                one.seg.name if one.seg else "",
                entries[one.case].values,
                kind,
            )
        except DataRefused as problem:
            problems.append(problem)
    refuse_together(problems, where)


def _private_folder(cache_dir: Path) -> Path:
    root = cache_dir.resolve() / "cases"
    try:
        if not cache_dir.exists():
            cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        root.chmod(0o700)
    except OSError as error:
        raise ConfigRefused(
            f"the cache folder {cache_dir}",
            found=error.strerror or type(error).__name__,
            expected="a folder that this user may make and write to",
            fix='name another folder as "cache" in the site\'s file',
        ) from error
    return root


@contextmanager
def _still_there(case: str, entry: Entry) -> Iterator[Any]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise DataRefused(
            f"case {case!r}, cache folder {entry.folder}",
            found=f"arrays that are gone or damaged since the start ({type(error).__name__})",
            expected="a cache that is left alone while a job runs",
            fix="start the job again: the case is decoded again",
        ) from error
