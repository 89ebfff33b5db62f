"""What a report says about a job's settings, compared with the config that the sites
are built from.

The settings are written into the server's config when a job is printed, because the
server never sees a site's objects. A config can be edited afterwards. So the server,
and every site, compare before they work: either a report names what ran, or nothing
runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.core.errors import ConfigRefused
from wardround.data.ehr import table_from_json
from wardround.data.ehr_text import words_of

CLASS = "algorithm_class"
SHARING = "sharing_class"
AGGREGATION = "aggregation_class"
SERVER_OPTIMIZER = "server_optimizer_class"
# The server optimizer that a report does not name.
MEAN = "wardround.algorithms.server_optimizers.Mean"
_PARTS = {
    "model": "model",
    "sampling": "sampling",
    "model_selection": "model_selection",
    "algorithm": "algorithm_settings",
    "sharing": "sharing_settings",
}
# Parts that may stand in either config, more than once.
_ELSEWHERE = ("server_optimizer", "secagg", "scaling", "validation")
_CONFIGS = ("config_fed_server.json", "config_fed_client.json")
Json = dict[str, Any]


def settings_of(executor: Mapping[str, Any]) -> Json:
    """Return what a report says of the settings of a site's executor: groups of values,
    and the values of the schedule.

    Groups are dictionaries: a key with a dot in it would not survive `nvflare job
    submit`, which rewrites configs.

    executor: its arguments as they stand in the client's config, parts as {"path",
        "args"}.
    """
    groups = {group: executor[part]["args"] for part, group in _PARTS.items()}
    found = {group: {key: plain(value) for key, value in args.items()} for group, args in groups.items() if args}
    schedule = {key: plain(value) for key, value in executor["schedule"]["args"].items()}
    beside = {"fedavg_beside": bool(executor.get("fedavg_baseline")), "seed": executor["seed"]}
    classes = {CLASS: executor["algorithm"]["path"], SHARING: executor["sharing"]["path"]}
    return {**classes, **found, **schedule, **beside}


def compression_of(part: Mapping[str, Any]) -> Json:
    """Return what a report says of a job's compression: its class and its arguments."""
    return {"class": part["path"], **{key: plain(value) for key, value in part["args"].items()}}


def plain(value: Any) -> Any:
    """Return a setting as a report keeps it.

    Values and lists of values stay as they are. What is nested is written out as text.
    """
    if isinstance(value, Mapping) and "path" in value:
        return f"{value['path']} ({plain(value.get('args', {}))})"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    if isinstance(value, list) and value and all(isinstance(part, dict) and "path" not in part for part in value):
        return words_of(table_from_json(value, "the job's sampling"))
    if isinstance(value, list) and any(isinstance(part, list | dict) for part in value):
        return ", ".join(str(plain(part)) for part in value)
    return value


def _text(value: Any) -> str:
    """Return a nested setting as text, in which 374 and 374.0 are the same: NVFlare's
    command line may write either.
    """
    if isinstance(value, Mapping):
        # Round brackets, because a hardened party refuses a config with anything in
        # curly ones: those are NVFlare's variables.
        return "(" + ", ".join(f"{key}: {_text(part)}" for key, part in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_told(fl_ctx: FLContext) -> None:
    """Raise ConfigRefused where this party's copy of the job states other settings than
    its sites are built with.
    """
    folder = Path(fl_ctx.get_engine().get_workspace().get_app_config_dir(fl_ctx.get_job_id()))
    if folder.is_dir():
        require_same(*(_read(folder / name) for name in _CONFIGS))


def require_same(server: Json, client: Json) -> None:
    """Raise ConfigRefused where the two configs list different names that may leave, or
    where the `about` of the server's config differs from what they build.

    The report of a server without `about` names no settings, so only names are compared.
    """
    _require_same_names(server, client)
    told = next((about for about in _under(server, "about") if isinstance(about, dict)), None)
    if told is None:
        return
    try:
        runs = _runs(server, client)
        promised = list(_promised(client))
        runs += [pair for pair in promised if pair[0] in told.get("dp", {})]
    except (KeyError, TypeError, AttributeError) as error:
        raise _refused(f"a config of another structure ({type(error).__name__})", "a job of wardround") from error
    if told.get("dp") and not promised:
        raise _refused("a report that tells of differential privacy, and a job that promises none", "the same")
    for key, value in runs:
        said = told["dp"][key] if key in told.get("dp", {}) else told.get(key)
        if not _equal(said, value):
            raise _refused(f"{key}: the job runs {value!r}, the report would say {said!r}", "the same")


def _require_same_names(server: Json, client: Json) -> None:
    """Raise ConfigRefused unless the server accepts exactly the names that a site may say.

    A longer list at the server would be asked for by nobody, and one at the sites would
    stop a hospital's replies only after it had trained; either is a list that somebody
    has changed at one side.
    """
    accepted, said = _names(server), _names(client)
    if accepted != said:
        found = ", ".join(sorted(str(name) for name in accepted ^ said))
        raise ConfigRefused(
            "the names that may leave (allowed_names)",
            found=f"names that stand in the config of one side only: {found}",
            expected="one list, in the server's config and in the component `outbound` of the sites",
            fix="do not edit a printed config: print the job again with `wardround jobs write JOB`",
        )


def _names(config: Any) -> frozenset[str]:
    """Return all names that a config lists as `allowed_names`, at any depth."""
    if isinstance(config, dict):
        listed = config.get("allowed_names", [])
        # A list that is none is refused when the config is built.
        here = map(str, listed) if isinstance(listed, list) else [repr(listed)]
        return frozenset(here).union(*(_names(value) for key, value in config.items() if key != "about"))
    return frozenset().union(*map(_names, config)) if isinstance(config, list) else frozenset()


def _runs(server: Json, client: Json) -> list[tuple[str, Any]]:
    """Return (name in `about`, what the configs build) for all that both state."""
    executors = [part["executor"]["args"] for part in client["executors"] if "algorithm" in part["executor"]["args"]]
    found = [pair for executor in executors for pair in settings_of(executor).items()]
    for key in _ELSEWHERE:
        parts = [part for config in (server, client) for part in _under(config, key) if "path" in part]
        found += [(key, {name: plain(value) for name, value in part["args"].items()}) for part in parts if part["args"]]
        if key == "server_optimizer":
            # Two of them may have the same settings: FedAdam and FedYogi.
            found += [(SERVER_OPTIMIZER, part["path"] if part["path"] != MEAN else None) for part in parts]
    if not any(_under(client, "validation")):
        # A report must not tell of a check that no site makes.
        found.append(("validation", None))
    for part in (one for one in _under(server, "aggregation") if "path" in one):
        # The plain mean has no settings, and a report does not mention it.
        args = {name: plain(value) for name, value in part["args"].items()} or None
        found += [("aggregation", args), (AGGREGATION, part["path"] if args else None)]
    for part in (one for config in (server, client) for one in _under(config, "compression") if "path" in one):
        found.append(("compression", compression_of(part)))
    # The server of a plaintext job forms the final model, the sites of a secure sum do.
    modes = [part["args"] for part in _under(server, "mode")]
    found += [("final_model", mode["final_model"]) for mode in modes if "final_model" in mode]
    if not executors:
        raise KeyError("an executor with an algorithm")
    return found


def _promised(client: Json) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of every number that a mechanism of privacy promises."""
    for mechanism in _under(client, "privacy"):
        args = mechanism.get("args", {})
        yield from args.items()
        yield from args.get("promise", {}).get("args", {}).items()


def _equal(told: Any, runs: Any) -> bool:
    """Compare two settings, numbers by value: NVFlare may write 1 as 1.0."""
    if isinstance(told, dict) and isinstance(runs, dict):
        return told.keys() == runs.keys() and all(_equal(told[key], runs[key]) for key in told)
    if isinstance(told, int | float) and isinstance(runs, int | float):
        return float(told) == float(runs)
    return bool(told == runs)


def _under(config: Any, name: str) -> Iterator[Json]:
    """Yield every dictionary under this key, at any depth, except inside `about`."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == name and isinstance(value, dict):
                yield value
            elif key != "about":
                yield from _under(value, name)
    for part in config if isinstance(config, list) else ():
        yield from _under(part, name)


def _read(path: Path) -> Json:
    try:
        found: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(f"{path.name}: {type(error).__name__}", "both configs of the job, in one app") from error
    return found


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "what the report would say about this job",
        found=found,
        expected=f"{expected}: a report and the weights name what ran",
        fix="do not edit a printed config: print it with `wardround jobs write JOB --set "
        "...` (an algorithm of your own: --set algorithm.path=...)",
    )
