"""Floor 2: the cases of a data folder, and which patient each belongs to. Layouts: see layouts.py. No image is
opened here.

A patient may have several cases (scans at several times); splits are by patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from wardround.data.layouts import MODALITIES, UNDERSTOOD, CaseFiles, case_folders, decathlon_cases, patient_folder
from wardround.data.refusals import refuse_together
from wardround.errors import ConfigRefused, DataRefused

__all__ = ["MODALITIES", "UNDERSTOOD", "CaseFiles", "compile_patient_pattern", "find_cases", "patient_of", "survey"]

# BraTS 2021 and later: BraTS-GLI-00005-100 is scan 100 of BraTS-GLI-00005. TCGA: TCGA_DU_5849_19950405 is dated.
_DEFAULT_PATTERNS = (
    re.compile(r"(BraTS-[A-Za-z]+-\d{5})-\d{3}"),
    re.compile(r"(TCGA([-_])\w{2}\2\w{4})[-_]\d{8}"),
)


def find_cases(
    root: Path, only: Sequence[str] | None = None, patient_pattern: str | None = None, require_seg: bool = True
) -> tuple[CaseFiles, ...]:
    """Return the cases below root (or root itself, if it is the folder of one case), sorted by case id.

    only given: other cases are not even checked; an id that is not there: DataRefused
    missing modalities: normal | seg missing and require_seg False: seg is None
    no modality, no seg, two files for a modality, a file of another case, an empty folder, one case id twice, a case
    id that patient_pattern does not match, no case at all: DataRefused; several of these in one refusal
    patient_pattern is no regular expression with a group: ConfigRefused
    """
    root = root.resolve()
    cases, problems = survey(root, only, patient_pattern, require_seg)
    refuse_together(problems, str(root))
    missing = sorted(set(only or ()) - {one.case for one in cases})
    if missing or not cases:
        raise DataRefused(
            f"the data folder {root}",
            found=f"no case {', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}" if missing else "no case",
            expected=f"cases named {UNDERSTOOD}",
            fix="correct the data folder or the list of cases in the site's file",
        )
    return cases


def survey(
    root: Path, only: Sequence[str] | None = None, patient_pattern: str | None = None, require_seg: bool = True
) -> tuple[tuple[CaseFiles, ...], list[DataRefused]]:
    """Return (sound cases sorted by id, every refusal) of a folder; ids of `only` that are not there: neither.

    Otherwise as find_cases, which refuses where this function lists.
    """
    root = root.resolve()
    pattern = None if patient_pattern is None else compile_patient_pattern(patient_pattern, "patient_pattern")
    cases: dict[str, CaseFiles] = {}
    problems: list[DataRefused] = []
    for found in _search(root, None if only is None else frozenset(only), require_seg):
        try:
            if isinstance(found, DataRefused):
                raise found
            if found.case in cases:
                raise _twice(cases[found.case], found)
            cases[found.case] = replace(found, patient=patient_of(found.case, pattern))
        except DataRefused as problem:
            problems.append(problem)
    return tuple(cases[case] for case in sorted(cases)), problems


def compile_patient_pattern(pattern: str, where: str) -> re.Pattern[str]:
    """Return the compiled pattern; ConfigRefused unless it is a regular expression with at least one group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise _bad_pattern(where, f"{pattern!r}, no regular expression: {error}") from error
    if compiled.groups < 1:
        raise _bad_pattern(where, f"{pattern!r}, without a group")
    return compiled


def patient_of(case: str, pattern: re.Pattern[str] | None = None) -> str:
    """Return the patient of a case id: group 1 of the pattern, searched anywhere in the id.

    no pattern: BraTS-GLI-00005-100 -> BraTS-GLI-00005, TCGA_DU_5849_19950405 -> TCGA_DU_5849, any other id is the
    patient a pattern that does not match, or whose group 1 is empty: DataRefused
    """
    if pattern is None:
        matches = (known.fullmatch(case) for known in _DEFAULT_PATTERNS)
        return next((match[1] for match in matches if match), case)
    match = pattern.search(case)
    if match is None or not match[1]:
        raise DataRefused(
            f"case {case!r}",
            found=f"patient_pattern {pattern.pattern!r} finds no patient in it",
            expected="group 1 of the pattern is the patient, for every case",
            fix="correct patient_pattern in the site's file",
        )
    return match[1]


def _search(root: Path, only: frozenset[str] | None, require_seg: bool) -> Iterator[CaseFiles | DataRefused]:
    try:
        for folder, layout in case_folders(root):
            if layout == "decathlon":
                yield from decathlon_cases(folder, only, require_seg)
            elif only is None or folder.name in only:
                yield _patient(folder, layout, require_seg)
    except DataRefused as problem:
        yield problem


def _patient(folder: Path, layout: str, require_seg: bool) -> CaseFiles | DataRefused:
    if layout == "empty":
        return DataRefused(
            f"the folder {folder}",
            found="an empty folder: no NIfTI file in it",
            expected=f"a case, named {UNDERSTOOD}",
            fix="copy the case again, or remove the folder",
        )
    try:
        return patient_folder(folder, require_seg)
    except DataRefused as problem:
        return problem


def _bad_pattern(where: str, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"{where}: 'patient_pattern'",
        found=found,
        expected="a regular expression whose group 1 is the patient of a case id",
        fix='for example "^(BraTS-GLI-[0-9]{5})" for cases like BraTS-GLI-00005-100',
    )


def _twice(first: CaseFiles, second: CaseFiles) -> DataRefused:
    folders = " and ".join(str(next(iter(files.images.values())).parent) for files in (first, second))
    return DataRefused(
        f"case {first.case!r}",
        found=f"the same case in {folders}",
        expected="every case once",
        fix="remove one of them",
    )
