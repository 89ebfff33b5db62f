"""What can be said about a site's data after every file was read once? Nothing is
written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from wardround.core.errors import DataRefused, Refusal
from wardround.data.cache import READERS
from wardround.data.cases import find_cases, survey
from wardround.data.conventions import DEFAULT, DEFAULT_KIND, Convention, kind_of_site
from wardround.data.labels import check_label_kind
from wardround.data.layouts import CaseFiles, passed_over
from wardround.data.patients import about_patients
from wardround.data.second_look import Read, about_copies, about_folders, about_masks
from wardround.data.site_config import SiteConfig
from wardround.data.source import BRAIN_MRI, Source
from wardround.data.splits import PARTS, split_patients
from wardround.data.volumes import read_any_kind

Axes = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Inspection:
    """What was found in the cases that can be read, and why the others cannot.

    modalities: the number of cases that have each modality.
    shapes: the number of cases by their voxels in RAS.
    spacings: the number of cases by their spacing in mm, rounded to 0.01.
    empty: the number of cases whose mask holds no tumour.
    split: the number of patients in each part; empty when there are problems, because
      the split needs all patients.
    conventions: the number of cases by how the values of their masks are read, in
      words.
    unused: images that no case uses, and folders without any, relative to the data
      folder.
    warnings: what a person should look at before training.
    """

    cases: int
    patients: int
    modalities: Mapping[str, int]
    label_kind: str
    shapes: Mapping[Axes, int]
    spacings: Mapping[Spacing, int]
    empty: int
    split: Mapping[str, int]
    conventions: Mapping[str, int]
    unused: tuple[str, ...]
    warnings: tuple[str, ...]
    problems: tuple[Refusal, ...]


@dataclass(frozen=True)
class _Facts:
    files: CaseFiles
    shape: Axes
    spacing_mm: Spacing
    values: frozenset[int]
    stored: frozenset[int]
    digests: Mapping[str, str]

    @property
    def convention(self) -> Convention:
        return self.files.convention or DEFAULT

    @property
    def read(self) -> Read:
        folder = next(iter(self.files.images.values())).parent.parent
        return Read(
            self.files.case,
            self.files.patient,
            self.convention,
            self.values,
            self.stored,
            self.digests,
            folder,
        )

    @property
    def words(self) -> str:
        """How this case's mask is read, marked where only usage suggests it."""
        presumed = "; presumed, as in BraTS 2017 to 2021: else state `labels`" if self.convention is DEFAULT else ""
        return self.convention.words() + presumed


def inspect(
    config: SiteConfig,
    progress: Callable[[int, int], None],
    source: Source = BRAIN_MRI,
) -> Inspection:
    """Read every file of a site once, and return what was found.

    progress: called with (cases read, cases in all).
    source: which images a case may have, and how files are read.

    Damaged cases, labels of another kind than config.labels and too few patients for a
    split are listed in `problems`. A folder without any case, and a missing id of
    config.cases, are refused with DataRefused: there is nothing to inspect.
    """
    files, refused = survey(
        config.data,
        config.cases,
        config.patient_pattern,
        labels=config.labels,
        source=source,
    )
    if not refused:
        files = find_cases(
            config.data,
            config.cases,
            config.patient_pattern,
            labels=config.labels,
            source=source,
        )
    problems: list[Refusal] = [*refused]
    facts: list[_Facts] = []
    for done, found in enumerate(_read_all(files)):
        if isinstance(found, DataRefused):
            problems.append(found)
        else:
            facts.append(found)
        progress(done + 1, len(files))
    kind = source.kind or DEFAULT_KIND
    try:
        kind = kind_of_site([(one.convention, one.stored) for one in facts])
    except DataRefused as problem:
        problems.append(problem)
    for one in facts:
        try:
            check_label_kind(
                one.files.case,
                one.files.seg.name if one.files.seg else "",
                one.values,
                kind,
            )
        except DataRefused as problem:
            problems.append(problem)
    split: dict[str, int] = {}
    if not problems:
        try:
            split = _split({one.files.case: one.files.patient for one in facts})
        except DataRefused as problem:
            problems.append(problem)
    return Inspection(
        cases=len(facts),
        patients=len({one.files.patient for one in facts}),
        modalities={name: sum(name in one.files.images for one in facts) for name in source.names},
        label_kind=kind,
        shapes=Counter(one.shape for one in facts),
        spacings=Counter(one.spacing_mm for one in facts),
        empty=sum(one.values == {0} for one in facts),
        split=split,
        conventions=Counter(one.words for one in facts) if kind == "brats" else {},
        unused=passed_over(config.data, source.channels),
        warnings=_warnings(config, facts, kind),
        problems=tuple(problems),
    )


def _read_all(files: tuple[CaseFiles, ...]) -> Iterator[_Facts | DataRefused]:
    with ThreadPoolExecutor(READERS) as readers:
        yield from readers.map(_read, files)


def _read(files: CaseFiles) -> _Facts | DataRefused:
    try:
        volume, values, stored = read_any_kind(files)
    except DataRefused as problem:
        return problem
    h, w, d = volume.image.shape[1:]
    x, y, z = (round(float(step), 2) for step in volume.spacing_mm)
    image = {name: volume.image[files.source.names.index(name)] for name in files.images}
    digests = {name: hashlib.blake2b(scan.tobytes(), digest_size=16).hexdigest() for name, scan in image.items()}
    return _Facts(files, (h, w, d), (x, y, z), values, stored, digests)


def _warnings(config: SiteConfig, facts: list[_Facts], kind: str) -> tuple[str, ...]:
    patients = about_patients(
        {one.files.case: one.files.patient for one in facts},
        config.patient_pattern is not None,
    )
    cases = [one.read for one in facts]
    return (
        *patients,
        *(about_masks(cases) if kind == "brats" else ()),
        *about_copies(cases),
        *about_folders(cases),
    )


def _split(patients: Mapping[str, str]) -> dict[str, int]:
    split = split_patients(patients)
    return {part: len({patients[case] for case in getattr(split, part)}) for part in PARTS}
