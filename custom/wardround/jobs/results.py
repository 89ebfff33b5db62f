"""Finds what a run left behind, reads it strictly, and says in words how the run ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, INCOMPLETE, counted

NAMES = ("run.json", "report.json")
SIMULATED = Path("server/simulate_job/wardround")
# As deep as a run lies in a downloaded result or a POC workspace. What lies deeper is
# somebody's data, which may be large.
_DEPTH = 6


def find(place: Path) -> Path:
    """Return the run.json, or else the report.json, of a file, a run folder, a
    simulator workspace or a downloaded job result.

    A place with several runs or with none is refused with ConfigRefused, which for a
    simulator workspace says which log to read.
    """
    if (one := record_in(place)) is not None:
        return one
    if (place / "server" / "simulate_job").is_dir():
        raise crashed(place)
    found = _deeper(place)
    listed = "".join(f"\n    {path.parent}" for path in found[:10])
    raise ConfigRefused(
        f"a run in {place}",
        found=f"{len(found)} runs:{listed}" if found else "no run.json and no report.json",
        expected="one run: a simulator workspace, a downloaded job result, a run folder, or its run.json",
        fix="name one of these folders" if found else "name the folder that `-w` of the simulator named",
    )


def record_in(place: Path) -> Path | None:
    """Return the one record of a file, a run folder, a simulator workspace or a
    downloaded job result; None where there is none, or several.
    """
    if place.is_file():
        return place
    for folder in (place / SIMULATED, place):
        for name in NAMES:
            if (folder / name).is_file():
                return folder / name
    found = _deeper(place)
    return found[0] if len(found) == 1 else None


def read(file: Path) -> dict[str, Any]:
    """Return the run in a run.json or report.json. Anything but one JSON object is
    refused with ConfigRefused.
    """
    from wardround.reports.schema import DERIVED, run_of

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigRefused(
            str(file),
            found=f"no JSON ({type(error).__name__})",
            expected="a run.json or report.json of wardround",
            fix="copy the file again",
        ) from error
    if not isinstance(content, dict):
        raise ConfigRefused(
            str(file),
            found=f"a JSON {type(content).__name__}",
            expected="one JSON object",
            fix="name another file",
        )
    return run_of(content) if DERIVED.keys() & content.keys() else content


def report_at(page: Path) -> dict[str, Any]:
    """Return the content of the report.json that lies beside a page."""
    content: dict[str, Any] = json.loads(
        (page.parent / "report.json").read_text(encoding="utf-8"),
    )
    return content


def conclude(report: Mapping[str, Any], page: Path) -> int:
    """Print the remarks, the problems, a verdict for each hospital and, last, the page
    to open. Return 0 for a complete run, else 1.
    """
    from wardround.reports.summary import ending

    if report["phantoms"]:
        print("SYNTHETIC PATIENTS: the software works; nothing here is about real patients.")
    for remark in report.get("remarks") or ():
        print(f"REMARK: {remark}")
    for problem in report["problems"]:
        print(f"PROBLEM: {problem}")
    print(f"{report['job']}: {report['outcome'].upper()}, {counted(len(report['rounds']), 'round')}.")
    for line in ending(report, page):
        print(line)
    return DONE if report["outcome"] == "complete" else INCOMPLETE


def crashed(workspace: Path) -> ConfigRefused:
    """Return the refusal for a simulator workspace whose run ended before the server
    wrote its record.
    """
    logs = [path for path in sorted(workspace.glob("*/error_log.txt")) if path.stat().st_size]
    look = ", ".join(str(path) for path in logs) or str(
        workspace / "server" / "log.txt",
    )
    return ConfigRefused(
        f"the run in {workspace}",
        found="no run.json: it was stopped or crashed before its end",
        expected="a run that ended, complete or not",
        fix=f"read why in {look}, and mend it; a run with `--state DIR` then goes on after its last round",
    )


def _deeper(place: Path) -> list[Path]:
    """Return one record for each folder below, no deeper than a downloaded result or a
    POC workspace is.
    """
    for name in NAMES:
        found = [p for p in place.rglob(name) if len(p.relative_to(place).parts) <= _DEPTH and _is_run(p)]
        if found:
            return sorted(found)
    return []


def _is_run(path: Path) -> bool:
    return path.parent.name == "wardround" and path.is_file()
