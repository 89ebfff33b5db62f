"""Which patient does a case id belong to? The styles of the public sets, or the site's
own pattern, decide.

A person with two scans who counts as two patients is in training and test at once, and
in two patients' privacy budgets. So known styles count as one patient, and ids that
look like scans of one person are reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.ids import alike

_GAP = r"[-_. ]"
_WORD = r"(?:pre|post)(?:[-_]?(?:op|rt|treatment|surgery))?|baseline|bl|follow[-_]?up|fu|recurrence|initial|first|last"
_NUMBERED = (
    r"(?:pre|post|follow[-_]?up|fu|scan|time[-_]?point|time|tp|visit|week|wk|month|mo|day|ses(?:sion)?|exam|study|date|run)"
    r"[-_]?\d+\w{0,3}|[tvwmd]\d{1,2}"
)
_DATE = (
    r"(?:19|20)\d{2}(?:[-_.]?(?:0[1-9]|1[0-2])(?:[-_.]?(?:0[1-9]|[12]\d|3[01]))?)?|\d{2}[-_.]\d{2}[-_.](?:19|20)\d{2}"
)
_STYLES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(BraTS-[A-Za-z]+(?:-[A-Za-z]+)?-\d+)-\d+",  # BraTS-GLI-00005-100, BraTS-MEN-RT-0001-1
        r"(BraTS(?:17|18|19)_[A-Za-z0-9]+_[A-Za-z0-9]+)_\d+",  # Brats18_TCIA02_117_1
        r"(brats_(?:2013|tcia)_pat\d+)_\d+",
        r"(TCGA([-_.])\w{2}\2\w{4})(?:[-_.].+)?",  # TCGA_DU_5849_19950405
        r"(UPENN-GBM-\d+)_\d+",  # UPENN-GBM-00001_11
        r"(UCSF-PDGM-\d+)_\w+",
        r"(UCSD-PTGBM-\d+|(?:RHUH-GBM[-_])?RHUH-\d+)_\d+",
        r"(Patient-\d{3})_week-\d{3}-\d",  # LUMIERE: the second scan of a week
        r"(sub-[A-Za-z0-9]+)[-_].+",  # BIDS
        rf"(.+?){_GAP}(?:{_WORD})",  # P1_pre, smith-post-op
        # Patient-001_week-012, PatientID_0003_Timepoint_1, P1_2019, 17-20190401:
        # numbers only behind a number, else all of scan_001, scan_002 or of case_2001,
        # case_2002 would be one patient
        rf"(.*\d.*?){_GAP}(?:{_NUMBERED}|{_DATE})",
    )
)
_BY_PATTERN = "Then set patient_pattern in the site's file"
_LAST = re.compile(rf"(?P<stem>.+){_GAP}(?P<last>[^-_. ]+)|(?P<stem2>.*\d)(?P<last2>[A-Za-z])")


def compile_patient_pattern(pattern: str, where: str) -> re.Pattern[str]:
    """Return the compiled pattern. Anything but a regular expression with at least one
    group is refused with ConfigRefused.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise _bad_pattern(
            where,
            f"{pattern!r}, no regular expression: {error}",
        ) from error
    if compiled.groups < 1:
        raise _bad_pattern(where, f"{pattern!r}, without a group")
    return compiled


def patient_of(case: str, pattern: re.Pattern[str] | None = None) -> str:
    """Return the patient of a case id: group 1 of the pattern, searched anywhere in the
    id.

    Without a pattern, BraTS-GLI-00005-100 gives BraTS-GLI-00005, UPENN-GBM-00001_11
    gives UPENN-GBM-00001, sub-01_ses-2 gives sub-01, P1_pre gives P1, and so on; any
    other id is the patient. A pattern that does not match, or whose group 1 is empty,
    is refused with DataRefused.
    """
    if pattern is None:
        matches = (known.fullmatch(case) for known in _STYLES)
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


def about_patients(patients: Mapping[str, str], told: bool) -> tuple[str, ...]:
    """Return what a person should hear about the patient of each case.

    told: whether the site said it (by a pattern, or a column).

    Ids that differ only in a last part but are patients of their own give a warning
    that names patient_pattern. Known styles that made several cases one patient give
    one line with an example, as do ids of two patients that are nearly the same.
    """
    same = alike(patients.values())
    words = (
        f"{same} patients' ids differ only in case of letters, leading zeros or separators: is this one person twice?"
    )
    return ((words,) if same else ()) + (() if told else _about_scans(patients, _BY_PATTERN))


def about_named_patients(patients: Collection[str]) -> tuple[str, ...]:
    """Return what a person should hear about the column `patient` of a table: ids that
    look like scans, or are nearly the same.
    """
    who = {patient: patient for patient in patients}
    return about_patients(who, told=True) + _about_scans(
        who,
        "Then write one id per person in the column `patient`",
    )


def _about_scans(patients: Mapping[str, str], advice: str) -> tuple[str, ...]:
    stems: dict[str, list[str]] = {}
    for case, patient in patients.items():
        match = _LAST.fullmatch(case)
        if match and case == patient:
            stems.setdefault(match["stem"] or match["stem2"], []).append(
                match["last"] or match["last2"],
            )
    several = {stem: lasts for stem, lasts in stems.items() if len(lasts) > 1}
    lines = []
    if len(stems) > 1 and any(_a_person(stem, lasts) for stem, lasts in several.items()):
        count, shown = (
            len(set(patients.values())),
            sorted(next(iter(several.values())))[:2],
        )
        ends = " and ".join(repr(end) for end in shown)
        lines.append(
            f"{count} patients, but {sum(map(len, several.values()))} ids differ only in a last part: are {ends} scans of one "
            f"person? {advice}, or one person is in training and test"
        )
    scans = Counter(patients.values())
    joined = next(
        ((case, who) for case, who in sorted(patients.items()) if scans[who] > 1),
        None,
    )
    if joined:
        lines.append(
            f"{joined[0]} is read as a scan of {joined[1]}; if it is not, set patient_pattern in the site's file"
        )
    return tuple(lines)


def _a_person(stem: str, lasts: list[str]) -> bool:
    """Return whether ids of one stem look like scans of one person, and not like people
    of one hospital.
    """
    return any(ch.isdigit() for ch in stem) or max(map(len, lasts)) <= 2


def _bad_pattern(where: str, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"{where}: 'patient_pattern'",
        found=found,
        expected="a regular expression whose group 1 is the patient of a case id",
        fix='for example "^(BraTS-GLI-[0-9]{5})" for cases like BraTS-GLI-00005-100',
    )
