"""What does a report say about a job's settings? It is computed from the parts of the
job, as {"path", "args"}: when a job is printed, and again from the two configs of a
printed job by every party that runs it.

Pure. Groups are dictionaries: a key with a dot in it would not survive `nvflare job
submit`, which rewrites configs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
Json = dict[str, Any]


def of_parts(
    executor: Mapping[str, Any],
    *,
    server_optimizer: Json,
    aggregation: Json | None,
    compression: Json | None,
    secagg: Json | None,
    dp: Mapping[str, Any] | None,
    min_clients: int | None,
) -> Json:
    """Return everything that a report says of the settings, less the words (titles).

    executor: the arguments of the sites' executor. A scaling and a check of every step
        stand in it, where a job has them.
    aggregation: None in a secure sum, whose sum is its mean.
    dp: the promise of differential privacy as a report prints it; None without one.
    min_clients: how many updates a round of a plaintext job needs; None in a secure
        sum, where it stands among the settings of `secagg`.
    """
    scaling, validation = executor.get("scaling"), executor.get("validation")
    groups: Json = {"server_optimizer": server_optimizer["args"]}
    groups |= {"secagg": secagg["args"]} if secagg else {}
    groups |= {"dp": dp} if dp else {}
    groups |= {"scaling": scaling["args"]} if scaling else {}
    groups |= {"validation": validation["args"]} if validation else {}
    if aggregation is not None and aggregation["args"]:
        groups |= {"aggregation": aggregation["args"]}
    named: Json = {group: {key: plain(value) for key, value in args.items()} for group, args in groups.items() if args}
    # The plain mean has no settings, and a report does not mention it.
    if aggregation is not None and "aggregation" in named:
        named[AGGREGATION] = aggregation["path"]
    # Two of them may have the same settings: FedAdam and FedYogi.
    if server_optimizer["path"] != MEAN:
        named[SERVER_OPTIMIZER] = server_optimizer["path"]
    if compression is not None:
        named["compression"] = {
            "class": compression["path"],
            **{key: plain(value) for key, value in compression["args"].items()},
        }
    if min_clients is not None:
        named["min_clients"] = min_clients
    return settings_of(executor) | named


def settings_of(executor: Mapping[str, Any]) -> Json:
    """Return what a report says of the settings of a site's executor: groups of values,
    and the values of the schedule.

    executor: its arguments as they stand in the client's config, parts as {"path",
        "args"}.
    """
    groups = {group: executor[part]["args"] for part, group in _PARTS.items()}
    if isinstance(groups["sampling"].get("task"), Mapping):
        # A group of its own: as one long text nobody would see what differs between two.
        groups["task"] = groups["sampling"]["task"]
        groups["sampling"] = {key: value for key, value in groups["sampling"].items() if key != "task"}
    found = {group: {key: plain(value) for key, value in args.items()} for group, args in groups.items() if args}
    schedule = {key: plain(value) for key, value in executor["schedule"]["args"].items()}
    beside = {"fedavg_baseline": bool(executor.get("fedavg_baseline")), "seed": executor["seed"]}
    classes = {CLASS: executor["algorithm"]["path"], SHARING: executor["sharing"]["path"]}
    return {**classes, **found, **schedule, **beside}


def plain(value: Any) -> Any:
    """Return a setting as a report keeps it.

    Values and lists of values stay as they are. What is nested is written out as text.
    """
    if isinstance(value, Mapping) and "path" in value:
        return f"{value['path']} ({plain(value.get('args', {}))})"
    if isinstance(value, Mapping):
        return _entries(value)
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
        return f"({_entries(value)})"
    if isinstance(value, list):
        return ", ".join(f"[{_text(part)}]" if isinstance(part, list) else _text(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _entries(value: Mapping[str, Any]) -> str:
    """Return entries such as "ET 3; TC 1, 3"; one with an empty list is its key alone."""
    return "; ".join(f"{key} {_text(part)}".rstrip() for key, part in value.items())
