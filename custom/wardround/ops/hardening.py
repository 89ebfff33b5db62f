"""What `wardround sites harden` writes into a party's own files, beside the class
allow-list. Pure functions of JSON.

components: this package's components that a hardened party must list in
  local/resources.json.
storage: where a server keeps jobs and results.
denied: what nobody may do at a party from afar.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.jobs.allow_list import SERVER, SITE

Json = dict[str, Any]
GUARD: Json = {"id": "wardround_guard", "path": "wardround.flare.guard.SiteGuard", "args": {}}
OWNER_ONLY: Json = {"id": "wardround_owner_only", "path": "wardround.flare.guard.OwnerOnly", "args": {}}
REJOIN: Json = {"id": "rejoin", "path": "wardround.flare.rejoin.Rejoin", "args": {}}
COMPONENTS: Mapping[str, tuple[Json, ...]] = {SITE: (GUARD,), SERVER: (OWNER_ONLY, REJOIN)}
STORAGE = "storage"
PLACES = ("root_dir", "uri_root")
TEMPORARY = (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108 - to refuse them


def with_components(found: Json, role: str) -> Json:
    """Return a party's resources.json in which the components that its role requires
    come first. Other components stay as they were.
    """
    required = COMPONENTS[role]
    ids = {one["id"] for one in required}
    paths = {one["path"] for one in required}
    others = [one for one in _components(found) if one.get("id") not in ids and one.get("path") not in paths]
    return found | {"components": [*required, *others]}


def missing_components(found: Json, role: str) -> list[str]:
    """Return the class paths of required components that a resources.json does not list
    exactly as `harden` writes them.
    """
    listed = _components(found)
    return [one["path"] for one in COMPONENTS[role] if one not in listed]


def own_components(found: Json, default: Json, role: str) -> list[str]:
    """Return the class paths of components that neither provisioning nor `harden`
    listed. They run in the party's process.
    """
    known = {one.get("path") for one in (*_components(default), *COMPONENTS[role])}
    return sorted({str(one.get("path")) for one in _components(found)} - {str(path) for path in known})


def with_storage(found: Json, folder: Path, *, every: bool = False) -> Json:
    """Return a server's resources.json whose places under a temporary folder lie in
    `folder` instead.

    every: whether all places move there, not only temporary ones.
    """
    return {key: _moved(value, folder, every) for key, value in found.items()}


def storage_of(found: Any) -> Iterator[Path]:
    """Yield every absolute place, except the root itself, that a server's
    resources.json names for its storage.
    """
    if isinstance(found, list):
        for part in found:
            yield from storage_of(part)
    elif isinstance(found, dict):
        for key, value in found.items():
            if _is_place(key, value):
                yield Path(value)
            yield from storage_of(value)


def is_temporary(place: Path) -> bool:
    """Return whether a place lies in a temporary folder, which other users read and a
    restart empties.
    """
    return any(place.resolve().is_relative_to(one.resolve()) for one in TEMPORARY)


def _moved(value: Any, folder: Path, every: bool) -> Any:
    if isinstance(value, list):
        return [_moved(part, folder, every) for part in value]
    if not isinstance(value, dict):
        return value
    return {key: _place(key, part, folder, every) for key, part in value.items()}


def _place(key: str, value: Any, folder: Path, every: bool) -> Any:
    if _is_place(key, value) and not Path(value).is_relative_to(folder) and (every or is_temporary(Path(value))):
        return str(folder / Path(value).name)
    return _moved(value, folder, every)


def _is_place(key: str, value: Any) -> bool:
    return key in PLACES and isinstance(value, str) and Path(value).is_absolute() and value != "/"


def _components(found: Json) -> list[Json]:
    listed = found.get("components", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ConfigRefused(
            "local/resources.json",
            found="`components` that are no list of objects",
            expected="the components as provisioning writes them",
            fix="remove local/resources.json, so that the signed default counts, and run `wardround sites harden` again",
        )
    return listed
