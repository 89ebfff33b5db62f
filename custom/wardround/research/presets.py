"""How are three published sets read as labelled images?

They are tumour types, chest films with laboratory values, and gliomas with a clinical
table. SOURCE.md in each folder says where they come from and what they may be used for.
Nothing is copied: rows point to the files. Labels and records are read as the authors
wrote them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.core.bounded import MOST_TABLE, read_bytes
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.description import Description, Row, Spec
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column
from wardround.data.pictures import Grid
from wardround.research.partition_files import Sites
from wardround.research.skew import LabelledSet

BLOCK = 30
GAP = 10
# A laboratory value older than this says little about the day of the film.
LAB_DAYS = 3.0


@dataclass(frozen=True)
class Preset:
    """A published set.

    data: The labelled images.
    hospitals: The hospitals that it comes from. If it does not say, this is empty: deal
        it with research/skew.py.
    left_out: The number of cases or values left out, by reason.
    """

    data: LabelledSet
    hospitals: Sites
    left_out: Mapping[str, int]


def cheng(folder: Path, size: int = 128, block: int = BLOCK, gap: int = GAP) -> Preset:
    """Return T1ce slices of three tumour types, without a record.

    Who the patients are is not said, and neighbouring indices are neighbouring slices.
    So a "patient" is a block of `block` slices of one class in the order of their
    indices, and the slices up to `gap` indices behind a block are left out: slices of
    two blocks of a class are always more than `gap` indices apart, whatever part or
    site the blocks go to. Why 10: the mean correlation of two slices (32 x 32 pixels)
    of glioma, meningioma, pituitary is .88, .84, .88 one index apart, .70, .64, .60 at
    6, .69, .62, .58 at 10 and .68, .63, .57 at 30. A real patient with slices on both
    sides of a gap may still be in two parts: the numbers are not by patient.
    """
    if block < 1 or gap < 0:
        raise ConfigRefused(
            "the blocks",
            found=f"block {block}, gap {gap}",
            expected="block 1, gap 0 or more",
            fix=f"leave the defaults: block {BLOCK}, gap {GAP}",
        )
    table = _table(folder / "manifest.csv", ",", ("index", "label"))
    classes = ("glioma", "meningioma", "pituitary")
    rows, dropped = [], 0
    for label in classes:
        indices = sorted(int(line["index"]) for line in table if line["label"] == label)
        blocks, gone = index_blocks(indices, block, gap)
        dropped += gone
        for k, members in enumerate(blocks):
            rows += [
                Row(
                    f"{label}-{i:04d}",
                    f"{label}-block-{k:02d}",
                    label,
                    {"t1ce": f"{label}/{i:04d}.jpg"},
                )
                for i in members
            ]
    spec = Spec(classes, ("t1ce",), grid=Grid(size))
    data = LabelledSet(
        Description(spec, folder.resolve() / "px128", folder / "manifest.csv"),
        tuple(rows),
    )
    return Preset(data, {}, {"slices in a gap between blocks": dropped})


def index_blocks(indices: Sequence[int], block: int, gap: int) -> tuple[list[list[int]], int]:
    """Return (blocks of `block` sorted indices, how many indices lie in the gaps).

    The last block may be shorter. Indices of two blocks differ by more than `gap`.
    """
    blocks: list[list[int]] = [[]]
    dropped = 0
    for i in indices:
        if len(blocks[-1]) < block:
            blocks[-1].append(i)
        elif i <= blocks[-1][-1] + gap:
            dropped += 1
        else:
            blocks.append([i])
    return [members for members in blocks if members], dropped


def mhh(
    folder: Path,
    size: int = 128,
    projection: bool = False,
    lab_days: float = LAB_DAYS,
) -> Preset:
    """Return chest films of COVID-19 patients with laboratory values.

    The class is whether the patient was ever admitted to intensive care. A patient's
    films are all cases of that patient. 23 of the 57 patients are `icu`. This is NOT a
    forecast: 145 of their 151 films were taken on the day of admission or later. A
    value measured more than lab_days before or after the film is left out; -inf and inf
    are below and above what can be measured. Age is redacted upstream.
    projection: Whether it is added to the record. It is a shortcut: bed-side films (ap)
        are 145 of 151 in `icu`, 11 of 47 in `no_icu`. A network can see it in the film
        as well.
    """
    needed = (
        "patient_id",
        "image_id",
        "sex",
        "projection",
        "icu_admission_offset",
        *(f"{key}_val" for key in _LABS),
    )
    table = _table(folder / "data.csv", ",", needed)
    columns = (Column("sex", "categorical", categories=("f", "m")), *_LABS.values())
    if projection:
        columns += (Column("projection", "categorical", categories=("ap", "pa")),)
    rows, far = [], 0
    for line in table:
        record = {"sex": line["sex"], "projection": line["projection"]}
        for key, column in _LABS.items():
            value, offset = line[f"{key}_val"], line[f"{key}_offset"]
            late = value != "" and (offset == "" or abs(float(offset)) > lab_days)
            far += late
            record[column.name] = "" if late else value
        label = "icu" if line["icu_admission_offset"] else "no_icu"
        rows.append(
            Row(
                line["image_id"],
                line["patient_id"],
                label,
                {"film": f"{line['image_id']}.png"},
                record,
            ),
        )
    spec = Spec(("no_icu", "icu"), ("film",), Table(columns), Grid(size))
    data = LabelledSet(
        Description(spec, folder.resolve() / "px256", folder / "data.csv"),
        tuple(rows),
    )
    return Preset(
        data,
        {},
        {f"laboratory values more than {lab_days:g} days from the film": far},
    )


def lgg(
    folder: Path,
    target: str = "grade",
    size: int = 64,
    depth: int = 1,
    span: float = 0.4,
) -> Preset:
    """Return lower-grade gliomas of three hospitals (DU, HT, FG) with a record.

    The images are T1, FLAIR and T1ce. The planes are fixed parts of the stack (see
    Grid): the mask of the tumour is not looked at. A patient without a label has none
    in its row, and `open_labelled` counts it.
    target: `grade` (2 classes) or `histology` (3). Another raises ConfigRefused. The
        table has codes and no key to them: they are read as the alphabetical order of
        TCGA's terms (1 G2, 2 G3; 1 astrocytoma, 2 oligoastrocytoma, 3
        oligodendroglioma). Codes of the record stay codes.
    """
    if target not in _TARGETS:
        raise ConfigRefused(
            "the target",
            found=repr(target),
            expected=", ".join(_TARGETS),
            fix="choose one",
        )
    code, classes = _TARGETS[target]
    manifest = _table(
        folder / "manifest.csv",
        ",",
        ("case", "site", "has_t1", "has_flair", "has_t1ce"),
    )
    clinical = _table(folder / "clinical_genomic.csv", ";", ("Patient", code, *_CLINICAL))
    of = {line["Patient"]: line for line in clinical}
    rows = []
    hospitals: dict[str, list[str]] = {}
    for line in manifest:
        case, patient = line["case"], line["case"].rsplit("_", 1)[0]
        known = of.get(patient, {})
        rows.append(
            Row(
                case,
                patient,
                _class(known.get(code, ""), classes),
                {m: f"{case}/{case}_{m}.nii.gz" for m in ("t1", "flair", "t1ce") if line[f"has_{m}"] == "1"},
                {column.name: known.get(key, "") for key, column in _CLINICAL.items()},
            )
        )
        hospitals.setdefault(line["site"], []).append(patient)
    spec = Spec(
        classes,
        ("t1", "flair", "t1ce"),
        Table(tuple(_CLINICAL.values())),
        Grid(size, depth, span),
    )
    data = LabelledSet(
        Description(spec, folder.resolve() / "px64", folder / "manifest.csv"),
        tuple(rows),
    )
    sites = {site: tuple(sorted(set(patients))) for site, patients in sorted(hospitals.items())}
    return Preset(data, sites, {"patients without a label": sum(not row.label for row in rows)})


PRESETS = {"cheng": cheng, "mhh": mhh, "lgg": lgg}

# The ranges are roughly those of adult patients in hospital: public knowledge, not
# fitted to these sets.
_LABS = {
    "crp": Column("crp", "numeric", "mg/l", 0, 200, censored=True),
    "d-dimer": Column("d_dimer", "numeric", "mg/l", 0, 10, censored=True),
    "factor_xii": Column("factor_xiii", "numeric", "%", 20, 160, censored=True),
    "ldh": Column("ldh", "numeric", "U/l", 100, 800, censored=True),
    "lymphocytes": Column("lymphocytes", "numeric", "10^3/ul", 0, 4, censored=True),
    "neutrophils": Column("neutrophils", "numeric", "10^3/ul", 0, 15, censored=True),
    "pco2": Column("pco2", "numeric", "mmHg", 20, 70, censored=True),
    "po2": Column("po2", "numeric", "mmHg", 30, 200, censored=True),
}
_CLINICAL = {
    "gender": Column("gender_code", "categorical", categories=("1", "2")),
    "age_at_initial_pathologic": Column("age", "numeric", "years", 18, 90),
    "laterality": Column("laterality_code", "categorical", categories=("1", "2", "3")),
    "tumor_location": Column(
        "location_code",
        "categorical",
        categories=("1", "2", "3", "4", "5", "6"),
    ),
}
_TARGETS = {
    "grade": ("neoplasm_histologic_grade", ("G2", "G3")),
    "histology": (
        "histological_type",
        ("astrocytoma", "oligoastrocytoma", "oligodendroglioma"),
    ),
}


def _class(code: str, classes: Sequence[str]) -> str:
    known = {str(k + 1): name for k, name in enumerate(classes)}
    if code and code not in known:
        raise DataRefused(
            "the clinical table",
            found="a code that is no class",
            expected=", ".join(known),
            fix="check the file",
        )
    return known.get(code, "")


def _table(path: Path, delimiter: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of an author's table.

    DataRefused is raised if it is unreadable or a column is absent.
    """
    try:
        stream = io.StringIO(read_bytes(path, MOST_TABLE).decode("utf-8-sig"), newline="")
        rows = list(csv.DictReader(stream, delimiter=delimiter))
    except (OSError, ValueError, csv.Error) as error:
        raise DataRefused(
            f"the table {path}",
            found=type(error).__name__,
            expected="the set's table",
            fix="check the folder",
        ) from error
    absent = [column for column in columns if not rows or column not in rows[0]]
    if absent:
        raise DataRefused(
            f"the table {path}",
            found=f"no column {absent[0]!r}",
            expected="the set's table",
            fix="check the folder",
        )
    return [{key: (cell or "").strip() for key, cell in row.items()} for row in rows]
