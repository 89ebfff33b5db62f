"""The settings of a job that `--set` changes: where each of them stands, and which type
its value has.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from wardround.core.errors import ConfigRefused
from wardround.jobs.first_weights import SETTING
from wardround.jobs.job import Job, Json, Typed, is_monai_path
from wardround.jobs.nearest import did_you_mean

# Settings that name a row or a fragment of app_configs/, and are applied before all others.
BY_NAME = (
    "privacy=",
    "sharing=",
    "aggregation=",
    "compression=",
    "validation=",
    "server_optimizer=",
    "work_by_patients=",
    "schedule=",
)

# Settings that stand for a class; each takes the settings of that class, whatever they
# are called.
CLASSES = (
    "model.path",
    "algorithm.path",
    "sharing.path",
    "aggregation.path",
    "server_optimizer.path",
)

_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")
MIXED = "wardround.aggregation.mixing.Mixed"


def places(made: Job) -> dict[str, Json]:
    """Return the settings that can be changed, as the dictionary that holds them by its
    prefix ('' for the short names).
    """
    return {
        "": made.schedule,
        "federation": made.federation,
        "algorithm": made.algorithm["site"]["args"],
        "sharing": made.sharing["args"],
        **_aggregation(made),
        **({"compression": made.compression["args"]} if made.compression is not None else {}),
        **({"validation": made.validation["args"]} if made.validation is not None else {}),
        "server_optimizer": made.server_optimizer["args"],
        **({"work_by_patients": works["args"]} if (works := made.schedule.get("work_by_patients")) else {}),
        "model": made.task["model"]["args"],
        "sampling": made.task["sampling"]["args"],
        **({"sampling.task": learns} if (learns := made.task["sampling"]["args"].get("task")) else {}),
        "model_selection": made.task["model_selection"]["args"],
        "phantoms": made.task["phantoms"]["args"],
        "task": made.task,
        **({"secagg": made.secagg} if made.secagg is not None else {}),
        **({"scaling": made.privacy["scaling"]["args"]} if "scaling" in made.privacy else {}),
        **({"dp": made.dp, "mechanism": made.privacy["mechanism"]["args"]} if made.dp is not None else {}),
    }


def _aggregation(made: Job) -> dict[str, Json]:
    """Return the settings of the aggregation and, where updates are mixed before it,
    those of the mixing beside them.
    """
    args = made.aggregation["args"]
    if made.aggregation["path"] != MIXED:
        return {"aggregation": args}
    return {"aggregation": args["then"]["args"], "aggregation.mixing": args}


def listed(made: Job) -> dict[str, Any]:
    """Return the value of every setting of a job, by the name that `--set` takes."""
    found = {
        f"{prefix}.{key}".lstrip("."): value
        for prefix, place in places(made).items()
        for key, value in place.items()
        if _leaf(value)
    }
    parts = (
        made.task["model"],
        made.algorithm["site"],
        made.sharing,
        made.aggregation,
        made.server_optimizer,
    )
    paths = [part["path"] for part in parts]
    return {
        "fedavg_baseline": made.fedavg_baseline,
        **dict(zip(CLASSES, paths, strict=True)),
        **found,
    }


def apply(made: Job, setting: str) -> Job:
    """Return the job with one "NAME=VALUE" applied.

    A missing value, a name that the job does not have, and a value that is not YAML or
    has another type are refused with ConfigRefused.
    """
    key, equals, text = setting.partition("=")
    if not equals:
        raise ConfigRefused(
            f"setting {setting!r}",
            found="a name without a value",
            expected="NAME=VALUE",
            fix=f"for example `--set {key}={shown(listed(made).get(key, 'VALUE'))}`",
        )
    if key in CLASSES:
        return _of_class(made, key, text)
    if key.startswith("model.args.") and is_monai_path(made.task["model"]["path"]):
        key = f"model.{key.removeprefix('model.args.')}"
    value = _value(setting, text)
    if key == "fedavg_baseline":
        require_type(setting, value, made.fedavg_baseline)
        return replace(made, fedavg_baseline=value)
    prefix, _, last = key.rpartition(".")
    place = places(made).get(prefix, {})
    if key == SETTING:
        # A name, a path, a promise or none (first_weights.py): no one type.
        place["weights"] = value
        return made
    if last in place and _leaf(place[last]):
        require_type(setting, value, place[last])
    elif last in place or not _takes_any(made, prefix):
        raise _no_such(made, setting, key)
    place[last] = value
    return made


def require_type(setting: str, value: object, before: object) -> None:
    """Raise ConfigRefused unless a value has the type of the setting in the recipe.
    Where the recipe says null, any type is accepted.
    """
    found, expected = kind(value), kind(before)
    same = found == expected or (found, expected) == ("a whole number", "a number")
    lists = isinstance(value, list) and isinstance(before, list)
    if before is None or same or (lists and (not value or not before)):
        return
    raise ConfigRefused(
        f"setting {setting!r}",
        found=found,
        expected=f"{expected}, as in the recipe: {shown(before)}",
        fix=f"for example `--set {setting.partition('=')[0]}={shown(before)}`",
    )


def _of_class(made: Job, key: str, text: str) -> Job:
    """Return the job with another class in one place, without settings yet, and marked
    as typed by a person.
    """
    chosen = Typed(path=text, args={})
    if key == "server_optimizer.path":
        return replace(made, server_optimizer=chosen)
    if key == "aggregation.path":
        return replace(made, aggregation=chosen)
    if key == "sharing.path":
        return replace(made, sharing=chosen)
    if key == "algorithm.path":
        return replace(made, algorithm=made.algorithm | {"site": chosen})
    return replace(made, task=made.task | {"model": chosen})


def _takes_any(made: Job, prefix: str) -> bool:
    """Return whether settings with this prefix may have any name: those of a network,
    and those of a class that was typed.
    """
    typed = {
        "algorithm": made.algorithm["site"],
        "sharing": made.sharing,
        "server_optimizer": made.server_optimizer,
    }
    typed |= {"aggregation": made.aggregation}
    return prefix == "model" or isinstance(typed.get(prefix), Typed)


def _no_such(made: Job, setting: str, key: str) -> ConfigRefused:
    options = sorted([*listed(made), *(one.removesuffix("=") for one in BY_NAME)])
    return ConfigRefused(
        f"setting {setting!r}",
        found="no such setting",
        expected=f"NAME=VALUE with one of {', '.join(options)}",
        fix=f"{did_you_mean(key, options)}`wardround jobs settings {made.name}` says what each one means",
    )


def _value(setting: str, text: str) -> Any:
    """Return a YAML value. Text such as 1e-3, which YAML 1.1 reads as a string, is a
    number here.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigRefused(
            f"setting {setting!r}",
            found="a value that is not YAML",
            expected="a number, a word, true or false, or a list such as [16, 32]",
            fix="put the setting into quotes",
        ) from error
    if isinstance(value, str):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
            return int(number) if number.is_integer() else number
    return value


def kind(value: object) -> str:
    """Return the type of a value in words; for a list, with the type of its elements."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return "a word"
    if isinstance(value, list):
        inside = {kind(one).replace("whole ", "") for one in value}
        return f"a list of {inside.pop().removeprefix('a ')}s" if len(inside) == 1 else "a list"
    return "null" if value is None else "a mapping"


def shown(value: object) -> str:
    """Return a value as it is typed behind `--set NAME=`, without blanks where it is a
    list of plain words or numbers: a shell would take what follows for another word.
    """
    if isinstance(value, list | tuple) and value and all(_PLAIN.fullmatch(str(one)) for one in value):
        return f"[{','.join(shown(one) for one in value)}]"
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return text


def _leaf(value: object) -> bool:
    return not (isinstance(value, Mapping) and "path" in value)
