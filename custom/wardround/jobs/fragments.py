"""The pages of app_configs/: the table of all jobs, and the fragments that a job is put
together from.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from wardround.core.errors import ConfigRefused
from wardround.jobs.job import Json
from wardround.jobs.nearest import did_you_mean


def table() -> Json:
    """Return jobs.yaml: the defaults, jobs, algorithms and server optimizers."""
    found: Json = _read(_root() / "jobs.yaml")
    return found


def names(kind: str) -> list[str]:
    """Return the names of the files of task/, federation/ or privacy/."""
    return sorted(path.stem for path in (_root() / kind).glob("*.yaml"))


def fragment(kind: str, name: str) -> Json:
    """Return one file of task/, federation/ or privacy/. A file that does not exist is
    refused with ConfigRefused.
    """
    known = names(kind)
    if name not in known:
        raise ConfigRefused(
            f"the {kind} fragment {name!r}",
            found="no such file in app_configs",
            expected=", ".join(known),
            fix=f"{did_you_mean(name, known)}name one of these, or add app_configs/{kind}/{name or 'NAME'}.yaml",
        )
    return _read(_root() / kind / f"{name}.yaml")


def pages() -> list[Json]:
    """Return the content of every page."""
    return [_read(path) for path in sorted(_root().rglob("*.yaml"))]


def _read(path: Path) -> Json:
    found: Json = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _root() -> Path:
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "app_configs", package.parents[1] / "app_configs"
    return installed if installed.is_dir() else checkout
