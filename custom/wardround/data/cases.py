"""The cases of a data folder, and which patient each belongs to. layouts.py describes
the folders. No image is opened here.

A patient may have several cases (scans at several times); splits are by patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.case_names import case_of
from wardround.data.conventions import AUTO, OF_TASK, Convention, convention_of, stated
from wardround.data.ids import almost
from wardround.data.layouts import (
    MODALITIES,
    UNDERSTOOD,
    CaseFiles,
    Place,
    case_places,
    patient_folder,
    understood_of,
)
from wardround.data.listing import require_utf8
from wardround.data.patients import compile_patient_pattern, patient_of
from wardround.data.refusals import refuse_together
from wardround.data.source import BRAIN_MRI, Source
from wardround.data.task_folder import task_cases, with_labels

Labels = str | Mapping[str, object]

__all__ = [
    "MODALITIES",
    "UNDERSTOOD",
    "CaseFiles",
    "compile_patient_pattern",
    "decided",
    "find_cases",
    "patient_of",
]
__all__ += ["survey"]


def find_cases(
    root: Path,
    only: Sequence[str] | None = None,
    patient_pattern: str | None = None,
    require_seg: bool = True,
    labels: Labels = AUTO,
    source: Source = BRAIN_MRI,
    fix: str = "correct the data folder or the list of cases in the site's file",
) -> tuple[CaseFiles, ...]:
    """Return the cases below root (or root itself, if it is the folder of one case),
    sorted by case id.

    only: case ids. Other cases are not even checked; an id that does not exist is
      refused with DataRefused.
    patient_pattern: a regular expression with a group (patients.py); anything else is
      refused with ConfigRefused.
    require_seg: whether a case needs a mask. Otherwise its `seg` may be None.
    labels: what the site's file says about the values of its masks (conventions.py). It
      is not read without require_seg.
    source: which images a case may have, and how they and masks are read.
    fix: what to do where a named case, or every case, is missing.

    Missing modalities are normal. One DataRefused lists several of these problems at
    once: no modality, no mask, two files for a modality, a file of another case, an
    empty folder, a repeated case id, a case id that patient_pattern does not match,
    masks whose values have no sure meaning, no case at all.
    """
    root = root.resolve()
    cases, problems = survey(root, only, patient_pattern, require_seg, labels, source)
    refuse_together(problems, str(root))
    missing = sorted(set(only or ()) - {one.case for one in cases})
    if missing or not cases:
        there = _all_ids(root, source) if missing else set()
        reason = almost(missing, there) if missing else None
        others = f" among {len(there)}{f': {reason}' if reason else ''}"
        raise DataRefused(
            f"the data folder {root}",
            found=f"no case {', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}{others}"
            if missing
            else "no case",
            expected=f"cases named {understood_of(source)}",
            fix=fix,
        )
    return cases


def survey(
    root: Path,
    only: Sequence[str] | None = None,
    patient_pattern: str | None = None,
    require_seg: bool = True,
    labels: Labels = AUTO,
    source: Source = BRAIN_MRI,
) -> tuple[tuple[CaseFiles, ...], list[DataRefused]]:
    """Return (sound cases sorted by id, every refusal) of a folder. Ids of `only` that
    do not exist are in neither.

    Otherwise it does what find_cases does, which refuses where this function lists.
    """
    root = root.resolve()
    require_utf8(root, ())
    pattern = None if patient_pattern is None else compile_patient_pattern(patient_pattern, "patient_pattern")
    said = _said(labels, source)
    cases: dict[str, CaseFiles] = {}
    problems: list[DataRefused] = []
    for found in _search(
        root,
        None if only is None else frozenset(only),
        require_seg,
        source,
    ):
        try:
            if isinstance(found, DataRefused):
                raise found
            if found.case in cases:
                raise _twice(cases[found.case], found)
            one = replace(found, patient=patient_of(found.case, pattern))
            if require_seg and one.described is None and source.kind is None:
                one = with_labels(one, next(iter(one.images.values())).parent, root)
            cases[found.case] = decided(one, said) if require_seg else one
        except DataRefused as problem:
            problems.append(problem)
    return tuple(cases[case] for case in sorted(cases)), problems


def decided(files: CaseFiles, said: Convention | None = None) -> CaseFiles:
    """Return the case with the convention by which its mask is read. A case without a
    sure one is refused with DataRefused.

    A task with masks of its own takes their values as they are.
    """
    if files.source.kind is not None:
        return replace(files, convention=_as_stored(files.source))
    source = str(files.described or "dataset.json")
    needs_map = files.described is not None and not files.decathlon
    found = convention_of(
        files.case,
        files.decathlon,
        files.labels,
        source,
        said,
        needs_map,
    )
    return replace(files, convention=found)


def _said(labels: Labels, source: Source) -> Convention | None:
    """Return the convention that a site's file states. Beside a task whose masks are
    not those of BraTS it is refused with ConfigRefused.
    """
    if source.kind is None:
        return stated(labels, "the `labels` of the site's file")
    if labels not in (AUTO, source.kind):
        raise ConfigRefused(
            "the `labels` of the site's file",
            found="a way to read tumour masks of BraTS",
            expected=f"none: the job says what the values of a mask mean ({source.kind}: {list(source.values)})",
            fix="take `labels` out of the site's file for this task",
        )
    return None


def _as_stored(source: Source) -> Convention:
    meaning = {value: value for value in source.values}
    return Convention(OF_TASK, meaning, source.kind, proven=True)


def _search(
    root: Path,
    only: frozenset[str] | None,
    require_seg: bool,
    source: Source,
) -> Iterator[CaseFiles | DataRefused]:
    for place in case_places(root, source.channels):
        try:
            if isinstance(place, DataRefused):
                yield place
            elif place.layout == "task":
                yield from task_cases(place.folder, only, require_seg, source)
            elif (
                only is None
                or (place.folder.name if place.layout == "empty" else case_of(place.folder, source.channels)) in only
            ):
                yield _patient(place, require_seg, source)
        except DataRefused as problem:
            yield problem


def _patient(
    place: Place,
    require_seg: bool,
    source: Source,
) -> CaseFiles | DataRefused:
    if place.layout == "empty":
        return DataRefused(
            f"the folder {place.folder}",
            found=place.why,
            expected=f"a case, named {understood_of(source)}",
            fix="put the images of the case there, or move the folder out of the data folder",
        )
    try:
        return patient_folder(place.folder, require_seg, source)
    except DataRefused as problem:
        return problem


def _all_ids(root: Path, source: Source) -> set[str]:
    return {one.case for one in _search(root, None, False, source) if isinstance(one, CaseFiles)}


def _twice(first: CaseFiles, second: CaseFiles) -> DataRefused:
    one, two = (next(iter(files.images.values())).parent for files in (first, second))
    apart = one.name == two.name and one.parent != two.parent
    named = (
        f"; if they are of two people, call the folders {one.parent.name}_{one.name} and {two.parent.name}_{two.name}"
    )
    return DataRefused(
        f"case {first.case!r}",
        found=f"the same case in {one} and {two}",
        expected="every case once",
        fix=f"move the one that is not meant to a folder outside the data{named if apart else ''}",
    )
