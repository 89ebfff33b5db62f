"""How is one dataset split into sites, by patient?

What is written is described in research/partition_files.py. No image is copied, except
by the method `scanner`: <out>/<site>/data then holds the images as another scanner
would show them, and <out>/<site>/simulated_scanner.json says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.files import write as write_file
from wardround.data.cases import find_cases
from wardround.data.conventions import AUTO
from wardround.data.layouts import CaseFiles
from wardround.data.reading import column as title_of
from wardround.research.partition_drawn import (
    by_dirichlet,
    by_equal_parts,
    by_quantity,
    by_tumour_size,
    terciles,
)
from wardround.research.partition_files import (
    Sites,
    expand,
    require_new,
    require_split,
    write_sites,
)
from wardround.research.partition_natural import (
    by_column,
    by_datalist,
    by_fets_csv,
    by_pattern,
    gather,
    read_table,
    require_columns,
)
from wardround.synthetic.scanner import copy_case, scanner, tumour_volume_mm3


@dataclass(frozen=True)
class Options:
    """The options of all methods; METHODS names the fields that each one reads.

    patient_pattern: A regular expression whose group 1 is the patient; it is written
        into the sites' files.
    labels: How the values of masks are read (conventions.py); it is written into the
        sites' files.
    """

    sites: int = 4
    seed: int = 0
    min_patients: int = 3
    table: Path | None = None
    site_column: str = "site"
    case_column: str = "case"
    label_column: str | None = None
    pattern: str | None = None
    ratio: float = 4.0
    alpha: float = 0.5
    patient_pattern: str | None = None
    labels: str = AUTO


Method = Callable[[Sequence[CaseFiles], Options], Sites]


def partition(method: str, data: Path, out: Path, options: Options) -> Path:
    """Split the cases below `data` by one of METHODS; return <out>/sites.json.

    ConfigRefused is raised for an unknown method, a missing option, `out` inside
    `data`, and when another partition is in `out` already (the same one is written
    again). DataRefused is raised for unreadable files and for a split that
    `require_split` refuses.
    """
    if method not in METHODS:
        raise ConfigRefused(
            "the method of `wardround partition`",
            found=repr(method),
            expected=", ".join(METHODS),
            fix="choose one of them",
        )
    data, out = data.resolve(), out.resolve()
    if out.is_relative_to(data):
        raise ConfigRefused(
            f"the folder {out}",
            found="inside the data folder",
            expected="a folder elsewhere",
            fix="name another folder",
        )
    files = find_cases(data, patient_pattern=options.patient_pattern, labels=options.labels)
    patients = {f.case: f.patient for f in files}
    found = expand(METHODS[method](files, options), patients)
    require_split(found, patients, options.min_patients)
    roots = {site: data for site in found}
    if method == "scanner":
        require_new(out, found)
        roots = _scan(files, data, out, found, options.seed)
    return write_sites(out, roots, found, options.patient_pattern, options.labels)


def _by_table(files: Sequence[CaseFiles], options: Options) -> Sites:
    return by_column(read_table(_table(options)), options.site_column, options.case_column)


def _by_pattern(files: Sequence[CaseFiles], options: Options) -> Sites:
    if options.pattern is None:
        raise ConfigRefused(
            "the method pattern",
            found="no pattern",
            expected="a regular expression, group 1 = site",
            fix="name one",
        )
    return by_pattern([f.case for f in files], options.pattern)


def _by_datalist(files: Sequence[CaseFiles], options: Options) -> Sites:
    return by_datalist(_table(options), {f.case for f in files})


def _by_dirichlet(files: Sequence[CaseFiles], options: Options) -> Sites:
    column = options.label_column
    labels = terciles(_volumes(files)) if column is None else _labels(files, options, column)
    return by_dirichlet(
        labels,
        options.sites,
        options.alpha,
        options.seed,
        options.min_patients,
    )


def _labels(files: Sequence[CaseFiles], options: Options, column: str) -> dict[str, str]:
    """Return the label of every patient.

    The table may name cases or patients, with one label per patient.
    """
    rows = read_table(_table(options))
    column, ids = (title_of(rows, name) for name in (column, options.case_column))
    require_columns(rows, column, ids)
    who = {i: f.patient for f in files for i in (f.case, f.patient)}
    cells = [(row[ids], row[column]) for row in rows]
    found = gather([(who[i], label) for i, label in cells if i in who and label])
    lost = [f.patient for f in files if len(found.get(f.patient, ())) != 1]
    if lost:
        raise DataRefused(
            f"the column {column!r}",
            found=f"{len(set(lost))} patients with no label or several, first {lost[0]!r}",
            expected="one label for every patient",
            fix="complete the table",
        )
    return {patient: labels[0] for patient, labels in found.items()}


def _table(options: Options) -> Path:
    if options.table is None:
        raise ConfigRefused(
            "this method",
            found="no table",
            expected="a CSV file or datalist",
            fix="name the file",
        )
    return options.table


def _patients(files: Sequence[CaseFiles]) -> list[str]:
    return sorted({f.patient for f in files})


def _volumes(files: Sequence[CaseFiles]) -> dict[str, float]:
    """Return the tumour volume of every patient in mm^3.

    It is the largest of the patient's scans.
    """
    volumes: dict[str, float] = {}
    for f in files:
        volumes[f.patient] = max(volumes.get(f.patient, 0.0), tumour_volume_mm3(f))
    return volumes


def _scan(
    files: Sequence[CaseFiles],
    data: Path,
    out: Path,
    sites: Sites,
    seed: int,
) -> dict[str, Path]:
    """Write the copies of every site and a note about them.

    Returned is the data folder of every site.
    """
    for site, cases in sites.items():
        device = scanner(site, seed)
        for f in files:
            if f.case in cases:
                copy_case(f, data, out / site / "data", device, seed)
        note = {
            "what": "copies of patient images with SIMULATED scanner effects; protect them like the originals",
            "original": str(data),
            "seed": seed,
            "scanner": asdict(device),
        }
        write_file(out / site / "simulated_scanner.json", json.dumps(note, indent=2) + "\n")
    return {site: out / site / "data" for site in sites}


# Above each method: the fields of Options that it reads.
METHODS: dict[str, Method] = {
    # table, site_column, case_column
    "column": _by_table,
    # pattern
    "pattern": _by_pattern,
    # table
    "fets": lambda files, options: by_fets_csv(_table(options)),
    # table: a JSON file, or a folder of them
    "datalist": _by_datalist,
    # sites, seed, ratio
    "quantity": lambda files, o: by_quantity(
        _patients(files),
        o.sites,
        o.seed,
        o.ratio,
    ),
    # sites
    "size": lambda files, o: by_tumour_size(_volumes(files), o.sites),
    # sites, seed, alpha; table, label_column
    "dirichlet": _by_dirichlet,
    # sites, seed; writes copies
    "scanner": lambda files, o: by_equal_parts(
        _patients(files),
        o.sites,
        o.seed,
    ),
}
