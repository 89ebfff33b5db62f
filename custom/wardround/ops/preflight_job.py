"""What preflight says about a job's folder. The folder is read as text: nothing that it
names is built or run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.data.source import BRAIN_MRI, Source
from wardround.flare import plain_jobs
from wardround.flare.plain_jobs import CODE
from wardround.jobs.allow_list import allow_list
from wardround.jobs.job_classes import classes
from wardround.ops.findings import Finding, failed
from wardround.tasks.task import task_from_json


def folder(place: Path, *, hardened: bool) -> list[Finding]:
    """Return what is wrong with the files of a job's app.

    hardened: whether this party takes no code, not even a text file beside it. Where a
      party takes code, app/custom is the job's own affair, and only links and other
      configs are looked for.
    """
    app = place / "app"
    code = app / CODE
    if code.is_dir() and not code.is_symlink() and not hardened:
        return _plain(app, without=CODE)
    if code.exists() or code.is_symlink():
        words = f"{place.name} brings app/{CODE}, so NVFlare takes it for a job with code, and this party refuses it"
        return [
            failed(
                "code",
                words,
                f"`wardround package {place.name} --config-only --out DIR`, and submit that folder",
            ),
        ]
    return _plain(app)


def strangers(
    name: str,
    config: Mapping[str, Any],
    role: str,
    listed: Collection[str],
) -> list[Finding]:
    """Return one FAIL where a config names classes that neither wardround ships nor
    this kit lists; otherwise an empty list.
    """
    known = {*_shipped(role), *listed}
    if found := sorted({path for path in classes(config) if path not in known}):
        words = f"{name} names classes that wardround does not ship: {', '.join(found[:5])}; none of them was built"
        mend = "do not run it; ask who wrote it. A class of your own: its full name into class_allow_list in local/resources.json"
        return [failed("code", words, mend)]
    return []


def source_of(config: Mapping[str, Any]) -> Source:
    """Return how the files of a job's task are read, according to a client's config. A
    config that does not say it means brain MRI.
    """
    for part in config.get("executors") or ():
        try:
            said = part["executor"]["args"]["sampling"]["args"]["task"]
        except (KeyError, TypeError):
            continue
        return task_from_json(said, "the job's sampling").source
    return BRAIN_MRI


@lru_cache
def _shipped(role: str) -> frozenset[str]:
    """Return the classes that all jobs of this version name on one side."""
    return frozenset(allow_list()[role])


def _plain(app: Path, without: str = "") -> list[Finding]:
    try:
        plain_jobs.require_plain(app, without)
    except (ConfigRefused, OSError) as refusal:
        found = refusal.found if isinstance(refusal, ConfigRefused) else type(refusal).__name__
        return [
            failed(
                "code",
                f"the files of the job: {found}",
                "do not run it; ask who wrote it, or print it again with `wardround jobs write`",
            ),
        ]
    return []
