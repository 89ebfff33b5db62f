"""The ONE file in which a site says where its data is.

It is `local/wardround.json` in the site's workspace or, in the simulator, one entry of
the file that WARDROUND_SITES names. Nothing of it comes from the job or goes to the
server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround.core.bounded import read_json
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.validate import once
from wardround.data.cases import compile_patient_pattern
from wardround.data.conventions import AUTO, NAMES, from_map
from wardround.messages.allowed_names import LEAST_PATIENTS

VARIABLE = "WARDROUND_SITES"
# The mean and the two ends of an interval are three equations: from five patients on
# they leave two numbers free.
EXAMPLE = '{"data": "/data/brats"}, or with every key: ' + json.dumps(
    {
        "data": "/data/brats",
        "name": "Example Hospital",
        "cases": ["BraTS-GLI-00005-100", "BraTS-GLI-00006-100"],
        "labels": "auto",
        "cache": "/data/wardround_cache",
        "device": "auto",
        "patient_pattern": "^(BraTS-GLI-[0-9]{5})",
        "record": "/data/record.csv",
        "units": {"crp": "mg/dl"},
        "fewest_patients": LEAST_PATIENTS,
    },
)
SITES_EXAMPLE = '{"site-1": {"data": "/data/a"}, "site-2": {"data": "/data/b"}}'
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_TEXT_KEYS = ("name", "cache", "device", "patient_pattern", "record")
_KEYS = ("data", "cases", "labels", "units", "fewest_patients", *_TEXT_KEYS)


@dataclass(frozen=True)
class SiteConfig:
    """Where a site's data is and how to read it. Paths are absolute.

    data: the folder of the cases (layouts.py).
    name: the site's name in reports; None for the name that NVFlare gave it.
    cases: only these case ids; None for all.
    labels: how the values of masks are read: a name of conventions.py (auto, brats,
      brats_ped, whole_tumour, ...), or a map such as {"1": "edema", "2": "necrosis"}.
    cache: where decoded cases are kept; None leaves it to the caller.
    device: auto, cpu, cuda or cuda:N.
    patient_pattern: a regular expression whose group 1 is the patient of a case id;
      None for the known styles of patients.py.
    record: the table of the patients' health records (ehr_table.py), for jobs that use
      them; None where there is none.
    units: the units of its numeric columns whose header has none.
    fewest_patients: no score over fewer patients leaves the site. Less than 5 is for
      data that everybody may see.
    """

    data: Path
    name: str | None = None
    cases: tuple[str, ...] | None = None
    labels: str | Mapping[str, object] = AUTO
    cache: Path | None = None
    device: str = "auto"
    patient_pattern: str | None = None
    record: Path | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    fewest_patients: int = LEAST_PATIENTS


def read_site_config(path: Path) -> SiteConfig:
    """Return the content of a site's JSON file.

    A relative `data`, `cache` or `record` counts from the folder of the JSON file; `~`
    is the home folder; null is the default. A missing file, anything but a UTF-8 JSON
    object, an unknown or repeated key, a wrong type or value, and a missing data folder
    or record are refused with ConfigRefused.
    """
    return _config(_read_object(path), path, str(path))


def from_environment(site: str, environ: Mapping[str, str]) -> SiteConfig | None:
    """Return the entry of `site` in the JSON file that WARDROUND_SITES names:
    {"site-1": {keys of a site's file}, ...}.

    None where the variable is unset or empty. An unreadable file, no entry for this
    site, and an entry that read_site_config refuses are refused with ConfigRefused.
    """
    named = environ.get(VARIABLE, "")
    if not named:
        return None
    path = Path(named).expanduser()
    if not path.is_absolute():
        raise ConfigRefused(
            f"the variable {VARIABLE}",
            found=f"the relative path {path}",
            expected="an absolute path: the site processes of a simulator run in folders of their own",
            fix=f'export {VARIABLE}="$PWD/{path}"',
        )
    sites = _read_object(path)
    if site not in sites:
        raise ConfigRefused(
            f"the sites' file {path} (variable {VARIABLE})",
            found=f"no entry {site!r}; it has {', '.join(sorted(sites)) or 'no entries'}",
            expected="one entry for every site of the run",
            fix=f'add "{site}": {EXAMPLE}; or name the sites as the file does; `wardround partition` writes one',
        )
    return _config(sites[site], path, f"{path}, site {site!r}")


def read_sites(path: Path) -> dict[str, SiteConfig]:
    """Return the sites of a JSON file as WARDROUND_SITES names it, in its order. A
    site's own file is one site, `site`.

    An unreadable file, no site, and an entry that read_site_config refuses are refused
    with ConfigRefused.
    """
    try:
        content = _read_object(path)
    except ConfigRefused as refusal:
        raise _no_sites(path, refusal.found, refusal.expected) from refusal
    if content.get("data") is not None:
        return {"site": _config(content, path, str(path))}
    if not content:
        raise _no_sites(path, "no entry", "one entry for every site")
    return {site: _config(entry, path, f"{path}, site {site!r}") for site, entry in content.items()}


def _no_sites(path: Path, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the sites' file {path}",
        found=found,
        expected=expected,
        fix=f'write it like {SITES_EXAMPLE}, or like one site\'s own file: {{"data": "/data/a"}}; `wardround partition` writes one',
    )


def _refused(where: str, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the site's file {where}",
        found=found,
        expected=expected,
        fix=f"write it like {EXAMPLE}",
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, pairs=once)
    except OSError as error:
        raise _refused(
            str(path),
            error.strerror or type(error).__name__,
            "a readable JSON file",
        ) from error
    except UnicodeDecodeError as error:
        raise _refused(str(path), "text that is not UTF-8", "a JSON file in UTF-8") from error
    except ValueError as error:
        raise _refused(str(path), f"no JSON: {error}", "one JSON object") from error
    if not isinstance(content, dict):
        raise _refused(str(path), f"a JSON {type(content).__name__}", "one JSON object")
    return content


def _config(content: object, file: Path, where: str) -> SiteConfig:
    if not isinstance(content, dict):
        raise _refused(where, f"a JSON {type(content).__name__}", "one JSON object")
    unknown = sorted(content.keys() - set(_KEYS))
    if unknown:
        raise _refused(
            where,
            f"unknown key {', '.join(map(repr, unknown))}",
            f"only {', '.join(_KEYS)}",
        )
    if content.get("data") is None:
        raise _refused(where, "no key 'data'", "'data': the folder of the cases")
    texts = {key: _text(content[key], key, where) for key in ("data", *_TEXT_KEYS) if content.get(key) is not None}
    device = texts.get("device", "auto")
    if not DEVICE.fullmatch(device):
        raise _refused(where, f"'device': {device!r}", "auto, cpu, cuda or cuda:N")
    if "patient_pattern" in texts:
        compile_patient_pattern(texts["patient_pattern"], where)
    data = _absolute(texts["data"], file, where)
    if not data.is_dir():
        raise _refused(
            where,
            f"'data': there is no folder {data}",
            "an existing folder; relative paths count from this file",
        )
    record = _absolute(texts["record"], file, where) if "record" in texts else None
    if record is not None and not record.is_file():
        raise _refused(where, f"'record': there is no file {record}", "an existing CSV table")
    return SiteConfig(
        data=data,
        name=texts.get("name"),
        cases=_cases(content.get("cases"), where),
        labels=_labels(content.get("labels"), where),
        cache=_absolute(texts["cache"], file, where) if "cache" in texts else None,
        device=device,
        patient_pattern=texts.get("patient_pattern"),
        record=record,
        units=_units(content.get("units"), record, where),
        fewest_patients=_fewest(content.get("fewest_patients"), where),
    )


def _text(value: object, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _refused(where, f"{key!r} is a {type(value).__name__} or empty", f"{key!r}: a text")
    return value


def _labels(value: object, where: str) -> str | Mapping[str, object]:
    if value is None:
        return AUTO
    if not isinstance(value, dict):
        text = _text(value, "labels", where)
        if text not in NAMES:
            raise _refused(
                where,
                f"'labels': {text!r}",
                f"one of {', '.join(NAMES)}, or a map of values to words",
            )
        return text
    try:
        from_map(value, where)
    except DataRefused as problem:
        raise _refused(
            where,
            f"'labels': {problem.found}",
            "words like edema, necrosis, enhancing, cyst",
        ) from problem
    return value


def _cases(value: object, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(case, str) and case for case in value):
        raise _refused(
            where,
            "'cases' is not a list of case names, or is empty",
            "'cases': a list of texts; leave it out for all",
        )
    if len(set(value)) < len(value):
        raise _refused(where, "'cases' names a case twice", "every case once")
    return tuple(value)


def _units(value: object, record: Path | None, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(unit, str) and unit.strip() for unit in value.values()):
        raise _refused(where, "'units' is no object of texts", "'units': column -> unit")
    if record is None:
        raise _refused(where, "'units' without 'record'", "units of the columns of a record")
    return value


def _fewest(value: object, where: str) -> int:
    if value is None:
        return LEAST_PATIENTS
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise _refused(
            where,
            "'fewest_patients' is no whole number of patients",
            "'fewest_patients': 5 or more",
        )
    return value


def _absolute(text: str, file: Path, where: str) -> Path:
    """Return the path as an absolute one. A name that no file can have, and `~` of an
    unknown user, are refused with ConfigRefused.
    """
    try:
        path = (file.absolute().parent / Path(text).expanduser()).resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise _refused(
            where,
            f"a path that cannot be looked up ({type(error).__name__})",
            "a path of this machine",
        ) from error
    return path
