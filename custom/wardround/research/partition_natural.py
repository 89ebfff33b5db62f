"""Which sites did somebody write down already?

They stand in a table column, a name pattern, the FeTS challenge's CSV, or MONAI
datalists. Every function returns {site name: ids}, sites in natural order. An id may be
a case or a patient; whether it exists is checked later, by `require_split`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from wardround.core.bounded import read_json
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.reading import column, read_loosely
from wardround.research.partition_files import Sites

Rows = Sequence[Mapping[str, str]]
LISTS = ("training", "validation", "testing", "test")


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header line, cells without outer blanks.

    Refusals are those of `read_loosely`.
    """
    return read_loosely(path)


def by_column(rows: Rows, site_column: str, case_column: str) -> Sites:
    """Return the sites named in one column for the ids in another.

    The same row twice counts once. ConfigRefused is raised if there are no rows or a
    column is missing, DataRefused for an empty cell.
    """
    site_column, case_column = (column(rows, name) for name in (site_column, case_column))
    require_columns(rows, site_column, case_column)
    pairs = []
    for line, row in enumerate(rows, start=2):
        if not row[site_column] or not row[case_column]:
            raise DataRefused(
                f"line {line} of the table",
                found=f"an empty cell in {site_column!r} or {case_column!r}",
                expected="a site and a case in every row",
                fix="fill the cell in, or leave the row out",
            )
        pairs.append((row[site_column], row[case_column]))
    return gather(pairs)


def by_pattern(cases: Sequence[str], pattern: str) -> Sites:
    """Return the sites that group 1 of a regular expression finds in each case id.

    ConfigRefused is raised for a bad expression and for one without a group,
    DataRefused for a case that does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigRefused(
            "the pattern for sites",
            found=f"{pattern!r}: {error}",
            expected="a regular expression",
            fix=r"for ids like TCGA_DU_5849 write ^TCGA_(\w\w)_",
        ) from error
    if compiled.groups < 1:
        raise ConfigRefused(
            "the pattern for sites",
            found=f"{pattern!r}, no group",
            expected="round brackets around the site",
            fix=r"for ids like TCGA_DU_5849 write ^TCGA_(\w\w)_",
        )
    matches = [(case, compiled.search(case)) for case in cases]
    pairs = [(match.group(1), case) for case, match in matches if match and match.group(1)]
    if len(pairs) < len(cases):
        lost = [case for case, match in matches if not (match and match.group(1))]
        raise DataRefused(
            f"{len(lost)} of {len(cases)} cases are in no site",
            found=f"{lost[0]!r} does not match {pattern!r}",
            expected="every case id matches and group 1 is its site",
            fix="widen the pattern, or move these cases out of the folder",
        )
    return gather(pairs)


def by_fets_csv(path: Path) -> Sites:
    """Return the sites of a FeTS challenge file; partition 3 becomes `site-3`.

    The file has the columns Partition_ID and Subject_ID.
    """
    sites = by_column(read_table(path), "Partition_ID", "Subject_ID")
    return {f"site-{name}" if name.isdigit() else name: ids for name, ids in sites.items()}


def by_datalist(path: Path, known: Collection[str]) -> Sites:
    """Return the sites of MONAI or NVFlare datalists.

    path: A folder with one JSON file per site (the site is the file name), or one file
        {site: datalist}.
    known: The ids of the cases.

    A datalist is a list of {"image": ..., "label": ...}, or holds such lists under
    training, validation, testing or test; this split is ignored. The case is the folder
    of the image, or else its file name, whichever is in `known`. Entries without a
    label are skipped.
    """
    if path.is_dir():
        lists = {file.stem: _read_json(file) for file in sorted(path.glob("*.json"))}
    else:
        content = _read_json(path)
        lists = content if isinstance(content, dict) and not set(LISTS) & content.keys() else {}
    if not lists:
        raise ConfigRefused(
            f"the datalist {path}",
            found="no sites in it",
            expected="a folder with one JSON file per site, or one file with a datalist per site name",
            fix="put the sites' files into one folder and name that folder",
        )
    return gather([(site, case) for site, content in lists.items() for case in _entries(path, site, content, known)])


def gather(pairs: Sequence[tuple[str, str]]) -> Sites:
    """Return {site: ids} from (site, id) pairs.

    site-2 comes before site-10; ids are sorted, each once.
    """
    found: dict[str, set[str]] = {}
    for site, case in pairs:
        found.setdefault(site, set()).add(case)
    return {site: tuple(sorted(found[site])) for site in sorted(found, key=natural)}


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key in which numbers inside the text count as numbers."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", text))


def require_columns(rows: Rows, *columns: str) -> None:
    """Raise ConfigRefused unless there are rows and each has all the columns."""
    names = sorted(rows[0]) if rows else []
    missing = [column for column in columns if column not in names]
    if missing:
        raise ConfigRefused(
            f"the table has no column {missing[0]!r}",
            found=f"{len(rows)} rows with the columns {names}",
            expected=f"the columns {list(columns)}",
            fix="name the right columns",
        )


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DataRefused(
            f"the datalist {path}",
            found=type(error).__name__,
            expected="a readable JSON file",
            fix="check the file",
        ) from error


def _entries(path: Path, site: str, content: Any, known: Collection[str]) -> list[str]:
    """Return the cases of one site's datalist."""
    lists = [content[name] for name in LISTS if name in content] if isinstance(content, dict) else [content]
    if not lists or not all(isinstance(entries, list) for entries in lists):
        raise DataRefused(
            f"the datalist of {site!r} in {path}",
            found=type(content).__name__ if lists else f"no list named {', '.join(LISTS)}",
            expected="lists of entries with an image and a label",
            fix="check the file",
        )
    cases = []
    for entry in (entry for entries in lists for entry in entries):
        if isinstance(entry, str) or (isinstance(entry, dict) and not entry.get("label")):
            continue
        image = entry.get("image") if isinstance(entry, dict) else None
        first = image[0] if isinstance(image, list) and image else image
        if not isinstance(first, str):
            raise DataRefused(
                f"an entry of {site!r} in {path}",
                found="no image path",
                expected='{"image": path or list of paths, "label": path}',
                fix="check the file",
            )
        cases.append(_case(first, known))
    return cases


def _case(image: str, known: Collection[str]) -> str:
    file = PurePosixPath(image.replace("\\", "/"))
    stem = file.name.removesuffix(".gz").removesuffix(".nii")
    return next(
        (name for name in (file.parent.name, stem) if name in known),
        file.parent.name or stem,
    )
