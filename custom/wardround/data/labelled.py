"""A site's cohort for classification: images, a health record and one class per
patient.

A class that no patient of a site has, and a site with a single class, are facts, not
errors: the index of a class comes from the description, the same everywhere, and
`class_counts` says 0. Whoever computes a metric that needs two classes must look there
and leave the number out. A site of one class can train: its loss is defined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.cache import silent
from wardround.data.description import (
    FIXED,
    Description,
    Spec,
    file_of,
    read_description,
    read_rows,
)
from wardround.data.ehr import Known, Values
from wardround.data.listing import shown
from wardround.data.pack import Pictures, load, open_pack
from wardround.data.pictures import SUFFIXES
from wardround.data.refusals import refuse_together
from wardround.data.site_config import SiteConfig


@dataclass(frozen=True)
class Batch:
    """B cases, with M modalities in the order of the spec and F features of the health
    record.

    images: float32 [B, M, H, W] or [B, M, D, H, W], each normalised by itself; a
      missing modality is all zeros.
    present: bool [B, M].
    values: float32 [B, F], 0 where missing.
    known: bool [B, F].
    labels: int64 [B].
    """

    images: NDArray[np.float32]
    present: NDArray[np.bool_]
    values: Values
    known: Known
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class LabelledCohort:
    """The labelled cases of a site.

    cases: case ids, sorted.
    patients: the patient of each case (as `split_patients` wants it).
    labels: the index into spec.classes of each case; all cases of a patient have the
      same.
    present: bool [N, M], with rows in the order of `cases`, as `values` and `known` [N,
      F].
    unlabelled: the number of cases that the table has without a label; they are not in
      the cohort.
    pack: the decoded images (pack.py).
    stratified: whether the job splits these patients evenly within each class.
    """

    spec: Spec
    cases: tuple[str, ...]
    patients: Mapping[str, str]
    labels: Mapping[str, int]
    present: NDArray[np.bool_]
    values: Values
    known: Known
    unlabelled: int
    pack: Path
    stratified: bool = False

    @property
    def label_kind(self) -> str:
        return "classes"

    @property
    def modalities(self) -> dict[str, int]:
        """The number of cases that have each modality."""
        return {m: int(n) for m, n in zip(self.spec.modalities, self.present.sum(axis=0), strict=True)}

    @cached_property
    def _place(self) -> dict[str, int]:
        return {case: i for i, case in enumerate(self.cases)}

    def class_counts(self, cases: Sequence[str] | None = None) -> dict[str, int]:
        """Return the number of PATIENTS of each class among the cases (None for all); 0
        for a class that is absent.
        """
        of = {self.patients[case]: self.labels[case] for case in (self.cases if cases is None else cases)}
        return {name: sum(label == k for label in of.values()) for k, name in enumerate(self.spec.classes)}

    def batch(self, cases: Sequence[str]) -> Batch:
        """Return the cases in this order. No cases give a batch of length 0.

        A case that is not in `cases` raises KeyError. A pack that is gone since the
        cohort was opened is refused with DataRefused.
        """
        rows = np.array([self._place[case] for case in cases], np.int64)
        return Batch(
            images=load(self.pack)[rows].astype(np.float32),
            present=self.present[rows],
            values=self.values[rows],
            known=self.known[rows],
            labels=np.array([self.labels[case] for case in cases], np.int64),
        )


def open_labelled(
    config: SiteConfig,
    cache_dir: Path,
    progress: Callable[[str], None] = silent,
    wanted: Spec | None = None,
) -> LabelledCohort:
    """Return the cohort that config.data describes (description.py). Images that are
    not in cache_dir yet are decoded now.

    config: `cases` may name some of the cases, all of which must be in the table.
      `patient_pattern`, `labels` and `record` are refused with ConfigRefused, because
      the table says all three.
    wanted: what the job needs. A description that differs is refused with
      ConfigRefused.

    Rows without a label are left out and counted. Refused with DataRefused: a column
    that is absent or in another unit (ehr.py), an empty case or patient, a repeated
    case, a label that is no class, a patient with two labels, a case without any image,
    an image outside the folder, no labelled case.
    """
    description = read_description(config.data)
    if wanted is not None:
        description.spec.require(wanted, str(config.data))
    if config.patient_pattern is not None or config.labels != "auto" or config.record is not None:
        raise ConfigRefused(
            "the site's file",
            found="'patient_pattern', 'labels' or 'record' for a folder of labelled images",
            expected="none of them: the table has patient, label and record, dataset.json its units",
            fix="take the key out of the site's file",
        )
    header, rows = read_rows(description.table, description.spec.modalities)
    rows, unlabelled = _checked(description, header, rows, config.cases)
    values, known = description.spec.table.read(
        rows,
        header,
        description.units,
        str(description.table),
    )
    pictures = _pictures(description, rows)
    if unlabelled:
        progress(f"{unlabelled} cases have no label and are left out")
    which = f"{config.data.resolve()}\0{config.cases}"
    return LabelledCohort(
        spec=description.spec,
        cases=tuple(row["case"] for row in rows),
        patients={row["case"]: row["patient"] for row in rows},
        labels={row["case"]: description.spec.classes.index(row["label"]) for row in rows},
        present=np.array(
            [[file is not None for file in one.files] for one in pictures],
        ),
        values=values,
        known=known,
        unlabelled=unlabelled,
        pack=open_pack(pictures, description.spec.grid, cache_dir, which, progress),
    )


def unnamed_images(folder: Path) -> tuple[str, ...]:
    """Return the sorted images below the folder of a description that no row of its
    table names, relative to the folder.

    Images outside the folder are not looked at: they may belong to several sites.
    Refusals are those of open_labelled.
    """
    description = read_description(folder)
    if not description.images.is_relative_to(folder.resolve()):
        return ()
    _, rows = read_rows(description.table, description.spec.modalities)
    cells = [row.get(modality, "") for row in rows for modality in description.spec.modalities]
    named = {description.images / file for file in map(file_of, filter(None, cells)) if file is not None}
    images = (path for path in description.images.rglob("*") if path.name.lower().endswith(SUFFIXES))
    return tuple(
        sorted(shown(path.relative_to(folder.resolve())) for path in images if path not in named),
    )


def shared_images(folder: Path) -> int:
    """Return how many images the table of a folder gives to several patients. Refusals
    are those of open_labelled.
    """
    description = read_description(folder)
    _, rows = read_rows(description.table, description.spec.modalities)
    pairs = {(row[name], row["patient"]) for row in rows for name in description.spec.modalities if row.get(name)}
    return sum(count > 1 for count in Counter(image for image, _ in pairs).values())


def _checked(
    description: Description,
    header: Sequence[str],
    rows: list[dict[str, str]],
    only: Sequence[str] | None,
) -> tuple[list[dict[str, str]], int]:
    """Return the labelled rows sorted by case, and how many rows have no label."""
    where, spec = f"the table {description.table}", description.spec
    absent = [name for name in (*FIXED, *spec.modalities) if name not in header]
    if absent:
        raise _refused(
            where,
            f"no column {absent[0]!r}",
            f"the columns {', '.join((*FIXED, *spec.modalities))}",
        )
    lost = set(only or ()) - {row["case"] for row in rows}
    if lost:
        raise _refused(
            where,
            f"no row for {len(lost)} cases that the site's file names",
            "a row for each of them",
        )
    kept = sorted(
        (row for row in rows if only is None or row["case"] in only),
        key=lambda row: row["case"],
    )
    empty = sum(not row["case"] or not row["patient"] for row in kept)
    twice = len(kept) - len({row["case"] for row in kept})
    if empty or twice:
        raise _refused(
            where,
            f"{empty} rows without case or patient, {twice} cases more than once",
            "each case once",
        )
    strange = sum(row["label"] not in ("", *spec.classes) for row in kept)
    if strange:
        raise _refused(
            where,
            f"{strange} labels that are no class",
            f"one of {', '.join(spec.classes)}, or empty",
        )
    labelled = [row for row in kept if row["label"]]
    pairs = {(row["patient"], row["label"]) for row in labelled}
    two = len(pairs) - len({patient for patient, _ in pairs})
    if two or not labelled:
        found = f"{two} patients with two labels" if two else f"no case with a label ({len(kept)} without)"
        raise _refused(where, found, "one label per patient, and patients with a label")
    return labelled, len(kept) - len(labelled)


def _pictures(description: Description, rows: Sequence[Mapping[str, str]]) -> list[Pictures]:
    problems: list[DataRefused] = []
    found = []
    for row in rows:
        cells = [row[modality] for modality in description.spec.modalities]
        files = [file_of(cell) if cell else None for cell in cells]
        outside = any(cell and file is None for cell, file in zip(cells, files, strict=True))
        if outside or not any(files):
            what = "an image outside the folder of the images" if outside else "no image in any modality"
            problems.append(
                _refused(
                    f"case {row['case']!r}",
                    what,
                    "a path below 'images', for one modality at least",
                ),
            )
        found.append(
            Pictures(
                row["case"],
                tuple(None if f is None else description.images / f for f in files),
            ),
        )
    refuse_together(problems, str(description.table))
    return found


def _refused(what: str, found: str, expected: str) -> DataRefused:
    return DataRefused(what, found=found, expected=expected, fix="correct the table")
