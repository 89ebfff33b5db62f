"""Which files does a partition consist of, and what must every partition fulfil?

<out>/sites.json              {"site-1": {"data": ..., "name": ..., "cases": [...]},
                              ...}; for WARDROUND_SITES
<out>/<site>/wardround.json   one entry of it: the file that this hospital puts
                              into its local/
<out>/partition.csv           Partition_ID,Subject_ID as in the FeTS challenge
                              (partition 3 is site-3)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from wardround.core import files
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.tables import csv_text
from wardround.data.conventions import AUTO
from wardround.data.ids import almost

Sites = dict[str, tuple[str, ...]]


def expand(sites: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> Sites:
    """Return the sites with every patient's id replaced by all cases of that patient.

    An id that is a case stays as it is.
    """
    cases_of: dict[str, list[str]] = {}
    for case, patient in patients.items():
        cases_of.setdefault(patient, []).append(case)
    return {
        site: tuple(sorted({case for i in ids for case in ([i] if i in patients else cases_of.get(i, [i]))}))
        for site, ids in sites.items()
    }


def require_split(
    sites: Mapping[str, Sequence[str]],
    patients: Mapping[str, str],
    min_patients: int,
) -> None:
    """Raise DataRefused unless `sites` deals out all cases of `patients`, by patient.

    patients: The patient of each case.

    Refused are an unknown case, a case in no site, a case or a patient in two sites,
    and a site with fewer than min_patients.
    """
    site_of: dict[str, str] = {}
    home: dict[str, str] = {}
    for site, cases in sites.items():
        for case in cases:
            if case not in patients:
                reason = almost(patients, {i for ids in sites.values() for i in ids})
                found = f"which is not in the data folder{f': {reason}' if reason else ''}"
                raise _bad(f"site {site!r} names {case!r}", found, "only cases that exist")
            if site_of.setdefault(case, site) != site:
                raise _bad(
                    f"the case {case!r}",
                    f"in {site_of[case]!r} and in {site!r}",
                    "every case in one site",
                )
            if home.setdefault(patients[case], site) != site:
                one, two = home[patients[case]], site
                raise _bad(
                    f"the patient {patients[case]!r}",
                    f"scans in {one!r} and in {two!r}",
                    "all at one site",
                )
    lost = [case for case in patients if case not in site_of]
    if lost:
        raise _bad(
            f"{len(lost)} of {len(patients)} cases",
            f"in no site, first {lost[0]!r}",
            "every case in one site",
        )
    for site, cases in sites.items():
        count = len({patients[case] for case in cases})
        if count < min_patients:
            raise DataRefused(
                f"the site {site!r}",
                found=f"{count} patients",
                expected=f"at least {min_patients}, for training, validation and test",
                fix="use fewer sites or another method; --min-patients writes it all the same, and every job refuses such a site",
            )


def write_sites(
    out: Path,
    data: Path | Mapping[str, Path],
    assignment: Mapping[str, Sequence[str]],
    patient_pattern: str | None = None,
    labels: str = AUTO,
) -> Path:
    """Write the three kinds of files and return the path of sites.json.

    data: The folder of the cases, or one for each name.

    Unless all names are like `site-3`, the sites become site-1, site-2, ... in the
    order of `assignment`. ConfigRefused is raised when another partition is in `out`
    already.
    """
    keys = require_new(out, assignment)
    extra = {} if patient_pattern is None else {"patient_pattern": patient_pattern}
    extra |= {} if labels == AUTO else {"labels": labels}
    entries = {
        keys[name]: {
            "data": str((data[name] if isinstance(data, Mapping) else data).resolve()),
            "name": name,
            "cases": sorted(cases),
            **extra,
        }
        for name, cases in assignment.items()
    }
    dealt = [(keys[name].removeprefix("site-"), case) for name in assignment for case in sorted(assignment[name])]
    for site, entry in entries.items():
        files.write(out / site / "wardround.json", json.dumps(entry, indent=2) + "\n")
    files.write(out / "partition.csv", csv_text([("Partition_ID", "Subject_ID"), *dealt]))
    # Last: a partition that was interrupted has no sites.json, so nobody trains on half
    # of it.
    files.write(out / "sites.json", json.dumps(entries, indent=2) + "\n")
    return out / "sites.json"


def require_new(out: Path, assignment: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the site-N of each name.

    ConfigRefused is raised if `out` holds a partition with other sites or cases.
    """
    own = all(re.fullmatch(r"site-\d+", name) for name in assignment)
    keys = {name: name if own else f"site-{i + 1}" for i, name in enumerate(assignment)}
    wanted = {keys[name]: sorted(cases) for name, cases in assignment.items()}
    try:
        before = {site: sorted(entry["cases"]) for site, entry in json.loads((out / "sites.json").read_text()).items()}
    except FileNotFoundError:
        return keys
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        before = {}
    if before != wanted:
        raise ConfigRefused(
            f"the folder {out}",
            found="another partition in it",
            expected="a new folder: a hospital must not pick up the file of an older partition",
            fix="name another folder",
        )
    return keys


def _bad(what: str, found: str, expected: str) -> DataRefused:
    return DataRefused(
        what,
        found=found,
        expected=expected,
        fix="change the table or pattern that names the sites",
    )
