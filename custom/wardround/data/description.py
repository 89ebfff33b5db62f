"""How does a folder of labelled images say what it holds? By dataset.json and one table
with a row per case.

    dataset.json   {"kind": "classification", "classes": ["a", "b"], ...}
    cases.csv      case,patient,label,t1,age [years],sex

In the table a cell of a modality is a file, or empty where the image was not acquired.
The folder is what `data` in the site's file names. `Spec` is the part that every site
of a job must have in common.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from wardround.core import files
from wardround.core.bounded import read_json
from wardround.core.errors import ConfigRefused
from wardround.core.tables import csv_text
from wardround.core.validate import once
from wardround.data.ehr import Table, table_from_json
from wardround.data.pictures import Grid
from wardround.data.reading import IDS, read_rows

__all__ = ["FILE", "FIXED", "Description", "Row", "Spec", "file_of", "is_labelled", "read_description", "read_rows"]
__all__ += ["write_folder"]

FILE = "dataset.json"
KIND = "classification"
FIXED = IDS
# The largest side of the images that a network is given, in pixels.
LARGEST = 512
_KEYS = ("kind", "classes", "modalities", "columns", "size", "depth", "span", "images", "table", "units")


@dataclass(frozen=True)
class Spec:
    """What a classifier is given, the same at all sites: classes and modalities in
    order, columns of the health record, grid of the images.
    """

    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    table: Table = field(default_factory=Table)
    grid: Grid = field(default_factory=lambda: Grid(128))

    def __post_init__(self) -> None:
        taken = {*FIXED, *(n.casefold() for c in self.table.columns for n in (c.name, *c.aliases))}
        grid = self.grid
        wrong = [] if _names(self.classes, 2) else [f"classes {self.classes}"]
        wrong += [] if _names(self.modalities, 1) else [f"modalities {self.modalities}"]
        wrong += [f"the modality {m!r} is the name of a column, too" for m in self.modalities if m.casefold() in taken]
        sound = 8 <= grid.size <= LARGEST and 1 <= grid.depth <= LARGEST and 0 < grid.span <= 1
        wrong += [] if sound else [f"size {grid.size}, depth {grid.depth}, span {grid.span}"]
        if wrong:
            raise ConfigRefused(
                "the description of labelled images",
                found="; ".join(wrong),
                expected=f"two classes and one modality at least, each name once; size 8..{LARGEST}, depth 1..{LARGEST}, "
                "span above 0 and at most 1",
                fix="correct the description",
            )

    def require(self, wanted: Spec, where: str) -> None:
        """Raise ConfigRefused with the first difference, unless this is what the job
        wants.
        """
        pairs = {
            "classes": (self.classes, wanted.classes),
            "modalities": (self.modalities, wanted.modalities),
            "columns": (self.table.columns, wanted.table.columns),
            "size, depth, span": (self.grid, wanted.grid),
        }
        for what, (found, expected) in pairs.items():
            if found != expected:
                raise ConfigRefused(
                    f"{what} of {where}",
                    found=str(found),
                    expected=str(expected),
                    fix="describe the folder as the job does: numbers must mean the same at every site",
                )


@dataclass(frozen=True)
class Description:
    """A folder of labelled images: its spec, where its files are, and the units of its
    table where the header has none.
    """

    spec: Spec
    images: Path
    table: Path
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One case.

    label: its class, or "" where nobody knows it.
    images: the file of each modality; "" or absent where it was not acquired.
    record: the cell of each column of the health record.
    """

    case: str
    patient: str
    label: str
    images: Mapping[str, str]
    record: Mapping[str, str] = field(default_factory=dict)


def is_labelled(folder: Path) -> bool:
    """Return whether the folder's dataset.json says that it holds labelled images. No
    file, or no JSON, gives False.
    """
    try:
        content = read_json(folder / FILE)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def read_description(folder: Path) -> Description:
    """Return what dataset.json says. Relative `images` (default: the folder) and
    `table` (default: cases.csv) count from the folder.

    No file, no JSON object, an unknown or repeated key, a wrong type or value, and a
    missing folder or table are refused with ConfigRefused.
    """
    file = folder.resolve() / FILE
    content = _read(file)
    unknown = sorted(content.keys() - set(_KEYS))
    if unknown:
        raise _refused(file, f"unknown key {', '.join(map(repr, unknown))}", f"only {', '.join(_KEYS)}")
    if content.get("kind") != KIND:
        raise _refused(file, f"'kind' is {content.get('kind')!r}", f"'kind': {KIND!r}")
    for key, check in _CHECKS.items():
        if (key in content or key in ("classes", "modalities")) and not check(content.get(key)):
            raise _refused(file, f"{key!r} is absent or of a wrong type", "the types of the example")
    spec = Spec(
        classes=tuple(content["classes"]),
        modalities=tuple(content["modalities"]),
        table=table_from_json(content.get("columns", []), str(file)),
        grid=Grid(content.get("size", 128), content.get("depth", 1), float(content.get("span", 0.5))),
    )
    try:
        images = (file.parent / Path(content.get("images", ".")).expanduser()).resolve()
        table = (file.parent / Path(content.get("table", "cases.csv")).expanduser()).resolve()
        for path in (images, table):
            path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise _refused(
            file, f"a path that cannot be looked up ({type(error).__name__})", "paths of this machine"
        ) from error
    if not images.is_dir() or not table.is_file():
        gone = f"'images': no folder {images}" if not images.is_dir() else f"'table': no file {table}"
        raise _refused(file, gone, "an existing folder and table; relative paths count from this file")
    return Description(spec, images, table, content.get("units", {}))


def write_folder(folder: Path, description: Description, rows: Sequence[Row]) -> Path:
    """Write dataset.json and cases.csv, for this user only because they hold patients'
    data, and return the folder.

    `description.table` is not used: the table is written into the folder. Units are
    those of the columns.
    """
    spec = description.spec
    lines: list[list[str]] = [[*FIXED, *spec.modalities, *(column.header for column in spec.table.columns)]]
    for row in rows:
        images = [row.images.get(m, "") for m in spec.modalities]
        record = [row.record.get(column.name, "") for column in spec.table.columns]
        lines.append([row.case, row.patient, row.label, *images, *record])
    content = {
        "kind": KIND,
        "classes": list(spec.classes),
        "modalities": list(spec.modalities),
        "size": spec.grid.size,
        "depth": spec.grid.depth,
        "span": spec.grid.span,
        "images": str(description.images),
        "columns": [column.as_json() for column in spec.table.columns],
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, body in {"cases.csv": csv_text(lines), FILE: json.dumps(content, indent=1) + "\n"}.items():
        files.write(folder / name, body)
        (folder / name).chmod(0o600)
    return folder


def file_of(cell: str) -> PurePosixPath | None:
    """Return the relative path in a cell of the table, or None for one that leaves the
    folder of the images.
    """
    path = PurePosixPath(cell.replace("\\", "/"))
    return None if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] else path


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, pairs=once)
    except OSError as error:
        raise _refused(file, error.strerror or type(error).__name__, "a readable JSON file") from error
    except ValueError as error:
        raise _refused(file, f"no JSON: {error}", "one JSON object in UTF-8") from error
    if not isinstance(content, dict):
        raise _refused(file, f"a JSON {type(content).__name__}", "one JSON object")
    return content


def _names(names: Sequence[str], fewest: int) -> bool:
    return fewest <= len(names) == len({n.casefold() for n in names}) and all(n and n == n.strip() for n in names)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list(value: object) -> bool:
    return isinstance(value, list)


def _units(value: object) -> bool:
    return isinstance(value, dict) and all(_text(one) for one in value.values())


_CHECKS: dict[str, Callable[[object], bool]] = {
    "classes": _texts,
    "modalities": _texts,
    "columns": _list,
    "size": _whole,
    "depth": _whole,
    "span": _number,
    "images": _text,
    "table": _text,
    "units": _units,
}


def _refused(file: Path, found: str, expected: str) -> ConfigRefused:
    example = {"kind": KIND, "classes": ["benign", "malignant"], "modalities": ["t1ce"], "size": 128, "columns": []}
    return ConfigRefused(
        f"the description {file}", found=found, expected=expected, fix=f"write it like {json.dumps(example)}"
    )
