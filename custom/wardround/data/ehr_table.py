"""The health records (EHR) beside images with masks: one CSV table of a hospital, with
a row per patient.

    patient,age [years],sex,crp [mg/l]
    BraTS-GLI-00005,61,f,84
    BraTS-GLI-00006,,m,

The site's file names the table (`record`) and the units of columns whose header has
none (`units`); the job says which columns are used. ehr.py says what a patient's
numbers become; here they are one vector: the values, then the flags of those that are
known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.ehr import Table
from wardround.data.ids import almost
from wardround.data.reading import read_rows
from wardround.data.site_config import SiteConfig

PATIENT = "patient"
Vector = NDArray[np.float32]


def unknown(table: Table) -> Vector:
    """Return the vector of a patient of whom nothing is known: 2 F zeros."""
    return np.zeros(2 * len(table.features), np.float32)


def read_ehr(table: Table, file: Path, units: Mapping[str, str]) -> dict[str, Vector]:
    """Return a float32 [2 F] vector for every patient of a CSV file: F values, then F
    flags (1 known, 0 missing).

    Columns of the file that `table` does not have are not read, and their `units` do
    not matter. A header without rows gives {}. No column `patient`, a row without a
    patient, a repeated patient, and all that Table.read refuses are refused with
    DataRefused; a job that asks for the column `patient` itself is refused with
    ConfigRefused.
    """
    if any(PATIENT in (column.name.casefold(), *(a.casefold() for a in column.aliases)) for column in table.columns):
        raise ConfigRefused(
            "the columns of the record",
            found=f"the column {PATIENT!r}",
            expected="columns about patients: a network is not given their ids",
            fix="take it out of the job",
        )
    header, rows = read_rows(file)
    if PATIENT not in header:
        raise _refused(
            file,
            f"no column {PATIENT!r}",
            "a column `patient`, and one per column of the job",
        )
    names = [row[PATIENT] for row in rows]
    empty, twice = names.count(""), len(names) - len(set(names))
    if empty or twice:
        found = f"{empty} rows without a patient" if empty else f"{twice} rows of a patient who has one already"
        raise _refused(file, found, "one row per patient")
    used = {column.name for column in table.columns}
    others = {title.partition("[")[0].strip() for title in header} - used
    values, known = table.read(
        rows,
        header,
        {k: v for k, v in units.items() if k not in others},
        str(file),
    )
    vectors = np.concatenate([values, known.astype(np.float32)], axis=1)
    return dict(zip(names, vectors, strict=True))


def site_ehr(config: SiteConfig, table: Table) -> dict[str, Vector]:
    """Return the health records that a site's file names, as read_ehr. A site that
    names none is refused with ConfigRefused.
    """
    if config.record is None:
        raise ConfigRefused(
            "the record of this site",
            found="no 'record' in the site's file",
            expected=f"a CSV table with a row per patient: {PATIENT}, {', '.join(c.header for c in table.columns)}",
            fix='name it, for example "record": "record.csv". A hospital that keeps none names a table that ends after '
            "its header: its patients take part, and every value is flagged as missing",
        )
    return read_ehr(table, config.record, config.units)


def for_patients(
    rows: Mapping[str, Vector],
    table: Table,
    patients: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, Vector]:
    """Return the vector of every patient, and say how many of them have no row.

    rows: the vectors that the table gives.
    patients: the patient of each case.

    A patient without a row has all values missing; nobody is left out. Rows of other
    people are not used. Rows of which none belongs to a patient here, and ids that
    almost fit (ids.py), are refused with DataRefused.
    """
    wanted = sorted(set(patients.values()))
    lost = [who for who in wanted if who not in rows]
    scans = len({patients[case] for case in patients if case in rows} - set(rows))
    reason = f"{scans} of {len(lost)} are named by a scan, not by the patient" if scans else almost(wanted, rows)
    if lost and reason:
        strangers = len(set(rows) - set(wanted))
        raise DataRefused(
            "the record of this site",
            found=f"{len(lost)} of {len(wanted)} patients have no row and {strangers} of {len(rows)} rows fit nobody: {reason}",
            expected="the same ids as the images have",
            fix="write the ids in the column `patient` as the images have them (a spreadsheet: format the column as text); or "
            "set `patient_pattern`, if it is the images' ids that say more than the patient",
        )
    if rows and len(lost) == len(wanted):
        raise DataRefused(
            "the record of this site",
            found=f"{len(rows)} rows, none for any of the {len(wanted)} patients whose images are here",
            expected="the same ids as the images have",
            fix="use the patients' ids in the column `patient` (see `patient_pattern`, and docs/data.md, Patients)",
        )
    if lost:
        strangers = len(set(rows) - set(wanted))
        others = f"; {strangers} rows are of nobody here" if strangers else ""
        say(
            f"record: {len(lost)} of {len(wanted)} patients have no row; all their values are flagged as missing{others}"
        )
    return {who: rows.get(who, unknown(table)) for who in wanted}


def _refused(file: Path, found: str, expected: str) -> DataRefused:
    return DataRefused(
        f"the record {file}",
        found=found,
        expected=expected,
        fix="correct the table",
    )
