"""Which cases of a folder of labelled images can a trained classifier read?

The folder is described as in training (data/description.py); its labels are not read.
The model's own description says what the inputs are. The folder may hold less: a
sequence or value that it lacks counts as missing, as in training. It may not hold
anything else, nor the same column under another definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.description import (
    Description,
    Spec,
    file_of,
    read_description,
    read_rows,
)
from wardround.data.ehr import Known, Table, Values
from wardround.data.pictures import read_picture

# The keys of a weights file's `inputs`, which are the settings of CaseSampling.
INPUTS = ("classes", "modalities", "columns", "size", "depth", "span", "record")


@dataclass(frozen=True)
class Cases:
    """N cases in the order of the table.

    names: The names of the cases.
    files: For each case, its image file by modality.
    values: The values of the model's record, float32 [N, F].
    known: Whether each value is known, bool [N, F].
    """

    names: tuple[str, ...]
    files: tuple[Mapping[str, Path], ...]
    values: Values
    known: Known


def read_cases(folder: Path, only: str | None, spec: Spec, record: bool) -> Cases:
    """Return the cases of a folder, or the one case that `only` names.

    record: False if the network reads no record; the folder's record is then ignored.
        Cells of the record are read as data/ehr.py says.

    ConfigRefused is raised for other classes, for a sequence or column that the model
    does not know, and for a column in another unit or range. DataRefused is raised when
    there is no such case or no case at all, when names are empty or repeated, when an
    image lies outside the folder, and when a case has neither an image nor a value.
    """
    found = read_description(folder)
    _require(found, spec, record, str(folder))
    header, rows = read_rows(found.table, found.spec.modalities)
    absent = [name for name in ("case", *found.spec.modalities) if name not in header]
    names = [row.get("case", "") for row in rows]
    if absent or "" in names or len(set(names)) < len(names):
        what = f"no column {absent[0]!r}" if absent else "cases without a name, or more than once"
        raise _refused(
            f"the table {found.table}",
            what,
            "one row per case, each with its own name",
        )
    rows = [row for row in rows if only in (None, row["case"])]
    if not rows:
        what = f"no case {only!r}" if only is not None else "no case"
        raise _refused(
            f"the table {found.table}",
            what,
            f"one of {len(names)} cases" if names else "a row per case",
            f"name one with --case: the column `case` lists them (`cat {found.table}`); without --case all are predicted",
        )
    files = tuple(_files(found, row) for row in rows)
    values, known = _record(found, header, rows, spec.table if record else Table())
    empty = [row["case"] for row, has, numbers in zip(rows, files, known, strict=True) if not has and not numbers.any()]
    if empty:
        raise _refused(
            f"case {empty[0]!r}",
            f"nothing the model reads ({len(empty)} such cases)",
            "an image or a value",
        )
    return Cases(tuple(row["case"] for row in rows), files, values, known)


def read_images(
    cases: Cases,
    rows: Sequence[int],
    spec: Spec,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return (images [B, M, *grid.shape], present [B, M]) of some cases.

    A missing sequence is all zeros. A damaged image raises DataRefused.
    """
    images = np.zeros((len(rows), len(spec.modalities), *spec.grid.shape), np.float32)
    present = np.zeros(images.shape[:2], bool)
    for place, row in enumerate(rows):
        for m, modality in enumerate(spec.modalities):
            if (file := cases.files[row].get(modality)) is not None:
                # float16 between file and network, as in the cache that training reads
                images[place, m] = read_picture(
                    cases.names[row],
                    file,
                    spec.grid,
                ).astype(np.float16)
                present[place, m] = True
    return images, present


def _require(found: Description, spec: Spec, record: bool, where: str) -> None:
    known = {column.name: column for column in spec.table.columns}
    columns = found.spec.table.columns if record else ()
    strangers = [column.name for column in columns if column.name not in known]
    others = [column for column in columns if column.name in known and column != known[column.name]]
    meant = [known[column.name] for column in others]
    extra = [name for name in found.spec.modalities if name not in spec.modalities]
    for wrong, what, seen, expected in (
        (
            found.spec.classes != spec.classes,
            "classes",
            ", ".join(found.spec.classes),
            ", ".join(spec.classes),
        ),
        (
            extra,
            "sequences",
            ", ".join(map(repr, extra)),
            f"only {', '.join(spec.modalities)}",
        ),
        (
            strangers,
            "columns",
            ", ".join(map(repr, strangers)),
            f"only {', '.join(known)}",
        ),
        (
            others,
            "columns",
            str([c.as_json() for c in others]),
            str([c.as_json() for c in meant]),
        ),
    ):
        if wrong:
            raise ConfigRefused(
                f"{what} of {where}",
                found=seen,
                expected=f"{expected}, as the model was trained",
                fix="describe the folder as the model's job does; what it lacks may be left out",
            )


def _files(found: Description, row: Mapping[str, str]) -> dict[str, Path]:
    cells = {modality: row[modality] for modality in found.spec.modalities if row[modality]}
    files = {modality: file_of(cell) for modality, cell in cells.items()}
    if None in files.values():
        raise _refused(
            f"case {row['case']!r}",
            "an image outside the folder of the images",
            "a path below 'images'",
        )
    return {modality: found.images / file for modality, file in files.items() if file is not None}


def _record(
    found: Description,
    header: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    table: Table,
) -> tuple[Values, Known]:
    """Return (values, known), both [N, F], in the model's order of features.

    Columns that the folder does not describe are not known.
    """
    own = {column.name: column for column in found.spec.table.columns}
    here = Table(tuple(own[column.name] for column in table.columns if column.name in own))
    units = {name: unit for name, unit in found.units.items() if table.columns}
    read, known = here.read(rows, header, units, str(found.table))
    places = [table.features.index(feature) for feature in here.features]
    shape = (len(rows), len(table.features))
    values, has = np.zeros(shape, np.float32), np.zeros(shape, bool)
    values[:, places], has[:, places] = read, known
    return values, has


def _refused(
    what: str,
    found: str,
    expected: str,
    fix: str = "change that cell of the table, or name another case",
) -> DataRefused:
    return DataRefused(what, found=found, expected=expected, fix=fix)
