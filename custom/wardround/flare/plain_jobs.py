"""Whether a job without code is just two JSON files and a card: everything else that
NVFlare would read from a job is refused here.

NVFlare reads a job's config as JSON, else as HOCON or YAML. HOCON includes files and
URLs and reads the environment, and in any of them "{$NAME}" is a variable of the
environment. With these, a config reads what the site knows before any class is checked.
NVFlare also takes the first file of a name that lies anywhere below a folder, and takes
top-level keys of a job for its own settings. `wardround sites harden` installs
PlainJobs as `app_validator` in local/resources.json. NVFlare builds it at the start of
the parent process, and again in every job process before that process reads the job's
config.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.app_validation import AppValidator
from nvflare.fuel.utils.config import Config, ConfigFormat, ConfigLoader
from nvflare.fuel.utils.config_factory import ConfigFactory
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE

from wardround.core.errors import ConfigRefused
from wardround.core.validate import once

CLIENT, SERVER = "config/config_fed_client.json", "config/config_fed_server.json"
CARD = "CARD.md"
OUTBOUND = "wardround.flare.outbound_filter.OutboundFilter"
CODE = "custom"
_META = "meta.json"
ENTRY = {"path": "wardround.flare.plain_jobs.PlainJobs", "args": {}}
MOST_BYTES = 1_000_000
_SIGNED = (NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE)
_KEYS = {
    CLIENT: {"format_version", "executors", "task_data_filters", "task_result_filters", "components"},
    SERVER: {"format_version", "server", "workflows", "task_data_filters", "task_result_filters", "components"},
}
# The one address that a job may hold: where the server sends curves. A site never reads
# the server's config.
_ADDRESS = "tracking_uri"


class JsonOnly(ConfigLoader):  # type: ignore[misc]
    """Stands where NVFlare keeps a loader of HOCON or YAML, and reads nothing."""

    def load_config(self, file_path: str) -> Config:
        """Refuse a file."""
        raise _not_json(Path(file_path).name)

    def load_config_from_str(self, config_str: str) -> Config:
        """Refuse a text."""
        raise _not_json("a config")

    def load_config_from_dict(self, config_dict: dict[str, Any]) -> Config:
        """Refuse a dictionary."""
        raise _not_json("a config")


class PlainJobs(AppValidator):  # type: ignore[misc]
    """Makes a party accept only jobs that are two JSON configs and a card.

    Building one closes NVFlare's other loaders in this process.
    """

    def __init__(self) -> None:
        super().__init__()
        close_other_loaders()

    def validate(self, app_folder: str) -> tuple[str, dict[str, Any]]:
        """Return ("", {}) for a deployed app that is plain, or what is wrong with it.
        The text names only what the job itself brought.

        An app that brings `custom` is a job with code. Whether it may is NVFlare's own
        question (the right `byoc`, which a hardened party denies). Its configs must be
        plain all the same.
        """
        try:
            require_plain(Path(app_folder), CODE)
        except ConfigRefused as refusal:
            return str(refusal), {}
        return "", {}


def close_other_loaders() -> None:
    """Let NVFlare read configs as JSON only, in this process.

    An NVFlare whose loaders are kept elsewhere is a ConfigRefused.
    """
    others = [fmt for fmt in ConfigFormat if fmt != ConfigFormat.JSON]
    # NVFlare has no public way to remove a loader; whether this one worked is asked
    # below.
    table = getattr(ConfigFactory, "_fmt2Loader", {})
    table.update({fmt: JsonOnly(fmt) for fmt in others})
    if not all(isinstance(ConfigFactory.get_config_loader(fmt), JsonOnly) for fmt in others):
        raise ConfigRefused(
            "the loaders of NVFlare's configs",
            found="they are kept elsewhere in this version of NVFlare",
            expected="the NVFlare that this package was tested with",
            fix="install the pinned NVFlare (`wardround preflight` names it)",
        )


def require_plain(app: Path, without: str = "") -> None:
    """Raise ConfigRefused unless a deployed app is the two JSON configs, and beside
    them at most a card and signatures.

    Refused are a link, another file or folder, an app without a client's or a server's
    config, a config that is not strict JSON, an unknown top-level key, a reference to a
    variable, and an address.

    without: a folder of the app that is not examined.
    """
    if app.is_symlink() or not app.is_dir():
        raise _refused("an app that is no folder", "a link is never followed")
    found = [(name, kind) for name, kind in _walk(app, "") if not without or name.split("/")[0] != without]
    if others := [f"{name} ({kind})" for name, kind in found if not _belongs(name, kind)]:
        raise _refused(", ".join(others[:5]), "such files do not belong to a job without code")
    names = {name for name, _ in found}
    if missing := [name for name in (CLIENT, SERVER) if name not in names]:
        raise _refused(f"no {' and no '.join(missing)}", "both configs are needed")
    for name in (CLIENT, SERVER):
        _require_plain_config(name, app / name)


def require_plain_folder(folder: Path) -> None:
    """Raise ConfigRefused unless a job's folder is meta.json, a card, and apps as
    above. Code in an app's `custom` passes.

    NVFlare's command line reads a folder that is submitted as HOCON. What it includes,
    and the environment of the person who submits it, would become part of the job.
    """
    apps = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]
    others = [path.name for path in sorted(folder.iterdir()) if path not in apps and path.name not in (_META, CARD)]
    if others or (folder / _META).is_symlink():
        raise _refused(
            f"{', '.join(others[:5]) or f'the link {_META}'} in {folder.name}", "a folder has meta.json besides"
        )
    meta = _strict(_META, folder / _META)
    if problem := _problem_of_texts(_META, meta):
        raise _refused(f"{_META}: {problem}", "values are written out: no variables, no environment, no addresses")
    for app in apps:
        require_plain(app, CODE)


def _walk(folder: Path, before: str) -> Iterator[tuple[str, str]]:
    """Yield (name below the app, kind) of everything. Links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        # The entry itself, not what a link points to.
        name, mode = f"{before}{entry.name}", entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield name, "folder"
            yield from _walk(Path(entry.path), f"{name}/")
        else:
            yield name, "link" if stat.S_ISLNK(mode) else "file" if stat.S_ISREG(mode) else "no plain file"


def _belongs(name: str, kind: str) -> bool:
    if kind == "folder":
        return name == "config"
    return kind == "file" and (name in (CLIENT, SERVER, CARD) or name.removeprefix("config/") in _SIGNED)


def _require_plain_config(name: str, path: Path) -> None:
    config = _strict(name, path)
    if unknown := sorted(config.keys() - _KEYS[name]):
        words = f"the top-level keys {', '.join(map(repr, unknown[:5]))}"
        raise _refused(f"{name}: {words}", "NVFlare takes other keys for settings of its own")
    if problem := _problem_of_texts(name, config):
        raise _refused(f"{name}: {problem}", "values are written out: no variables, no environment, no addresses")
    if name == CLIENT and (open_tasks := _without_outbound(config)):
        words = f"{name}: no {OUTBOUND} last in task_result_filters for {', '.join(map(repr, open_tasks[:5]))}"
        raise _refused(words, "every reply of a site passes the outbound filter")


def _without_outbound(config: dict[str, Any]) -> list[str]:
    """Return the tasks of a client's config whose replies would leave without passing
    OutboundFilter as their last filter; "executors" where none can be read from it.
    """
    last: dict[str, str] = {}
    for tasks, parts in _chains(config.get("task_result_filters"), "filters"):
        last |= dict.fromkeys(tasks, str(parts[-1].get("path")) if parts else "")
    named = [task for tasks, _ in _chains(config.get("executors"), "executor") for task in tasks]
    return [task for task in named if last.get(task) != OUTBOUND] if named else ["executors"]


def _chains(rows: Any, key: str) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Yield (tasks, parts) of rows such as {"tasks": [...], "filters": [...]}; what is
    no such row is left out, and its tasks with it.
    """
    for row in rows if isinstance(rows, list) else ():
        tasks, parts = (row.get("tasks"), row.get(key)) if isinstance(row, dict) else (None, None)
        parts = parts if isinstance(parts, list) else [parts]
        if isinstance(tasks, list) and all(isinstance(part, dict) for part in parts):
            yield [str(task) for task in tasks], parts


def _strict(name: str, path: Path) -> dict[str, Any]:
    """Return the object in a short file of strict JSON; all else is a ConfigRefused."""
    if path.stat().st_size > MOST_BYTES:
        raise _refused(f"{name} of more than {MOST_BYTES:,} bytes", "a config is short")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(f"{name}: no strict JSON ({type(error).__name__})", "one JSON object, each key once") from error
    if not isinstance(found, dict):
        raise _refused(f"{name}: a JSON {type(found).__name__}", "one JSON object, each key once")
    return found


def _problem_of_texts(name: str, config: dict[str, Any]) -> str:
    for key, text in _texts(config, ""):
        if any(sign in text for sign in "{}$"):
            return f"a reference to a variable under {key!r}"
        if "://" in text and not (name == SERVER and key == _ADDRESS):
            return f"an address under {key!r}"
    return ""


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (nearest key, text) for every text in a config. A key is a text too."""
    if isinstance(value, str):
        yield key, value
    for part in value if isinstance(value, list) else ():
        yield from _texts(part, key)
    for inner, part in value.items() if isinstance(value, dict) else ():
        yield inner, inner
        yield from _texts(part, inner)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _refused(found: str, why: str) -> ConfigRefused:
    return ConfigRefused(
        "a job without code",
        found=found,
        expected=f"{CLIENT} and {SERVER}, and beside them at most {CARD} and NVFlare's signatures; {why}",
        fix="print it with `wardround package JOB --config-only`, and submit that folder",
    )


def _not_json(what: str) -> ConfigRefused:
    return ConfigRefused(
        what,
        found="a format other than JSON (HOCON or YAML can include files, addresses and the environment)",
        expected="this party reads JSON configs only",
        fix="print the job with `wardround package JOB --config-only`, and submit that folder",
    )
