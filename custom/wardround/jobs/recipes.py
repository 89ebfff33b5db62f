"""From app_configs/ to one job: an algorithm plus a task, a federation and a privacy fragment, all values explicit."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from wardround.errors import ConfigRefused
from wardround.privacy.accounting import claim, noise_multiplier_for
from wardround.privacy.releases import SampledGaussianRelease

Json = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One job with nothing left to look up: fragments as read, settings applied."""

    name: str
    title: str
    algorithm: Json
    rule: Json
    task: Json
    federation: Json
    privacy: Json
    rival: bool

    @property
    def banks(self) -> list[str]:
        """The banks that travel: the algorithm's own, then FedAvg's when it runs beside it."""
        return [*self.algorithm["banks"], *(["fedavg"] if self.rival else [])]

    @property
    def protection(self) -> Json | None:
        """The settings of the hidden sum; None where the server reads updates."""
        part = self.privacy.get("protection")
        return part["args"] if part else None

    @property
    def dp(self) -> Json | None:
        """The settings of differential privacy; None without."""
        part: Json | None = self.privacy.get("dp")
        return part

    @property
    def schedule(self) -> Json:
        args: Json = self.federation["schedule"]["args"]
        return args


def names() -> list[str]:
    """Return the names of all jobs."""
    return list(_page()["jobs"])


def job(name: str, settings: Sequence[str] = (), sites: Sequence[str] = ()) -> Job:
    """Return a job by name with `settings` applied ("work=40", "algorithm.hessian=HF", "sampling.patch=[64,64,16]").

    an unknown job, an unknown setting, a value that is not YAML: ConfigRefused
    """
    page = _page()
    if name not in page["jobs"]:
        known = ", ".join(page["jobs"])
        raise ConfigRefused(
            f"job {name!r}", found="no such job", expected=f"one of {known}", fix="`wardround jobs list`"
        )
    row = page["defaults"] | page["jobs"][name]
    algorithm = copy.deepcopy(page["algorithms"][row["algorithm"]])
    rule = copy.deepcopy(page["rules"][algorithm["rule"]])
    chosen = [setting.partition("=")[2] for setting in settings if setting.startswith("privacy=")]
    row |= {"privacy": chosen[-1]} if chosen else {}
    task, federation, privacy = (_fragment(kind, row[kind]) for kind in ("task", "federation", "privacy"))
    federation |= privacy.pop("federation", {})
    if sites:
        federation["sites"] = list(sites)
    made = Job(name, algorithm["title"], algorithm, rule, task, federation, privacy, bool(row["rival"]))
    for setting in settings:
        made = made if setting.startswith("privacy=") else _apply(made, setting)
    if made.protection is not None:
        made.protection["min_sites"] = made.federation["min_sites"]
    if made.dp is not None:
        _promise(made)
    hessian = made.algorithm["site"]["args"].get("hessian")
    return replace(made, title=f"{made.title} ({hessian})") if hessian else made


def places(made: Job) -> dict[str, Json]:
    """Return the settings that can be changed: prefix -> the dictionary that holds them ('' for the short names)."""
    return {
        "": made.schedule,
        "federation": made.federation,
        "algorithm": made.algorithm["site"]["args"],
        "rule": made.rule["args"],
        "model": made.task["model"]["args"],
        "sampling": made.task["sampling"]["args"],
        "judging": made.task["judging"]["args"],
        "phantoms": made.task["phantoms"]["args"],
        "task": made.task,
        **({"protection": made.protection} if made.protection is not None else {}),
        **({"dp": made.dp, "mechanism": made.privacy["mechanism"]["args"]} if made.dp is not None else {}),
    }


def _apply(made: Job, setting: str) -> Job:
    key, equals, text = setting.partition("=")
    prefix, _, last = key.rpartition(".")
    if key == "rival" and equals:
        return replace(made, rival=bool(_value(setting, text)))
    if key == "model.path" and equals:
        made.task["model"] = {"path": text, "args": {}}
        return made
    place = places(made).get(prefix)
    free = prefix == "model" and place is not None
    if not equals or place is None or (last not in place and not free) or not _leaf(place.get(last)):
        options = sorted(f"{p}.{k}".lstrip(".") for p, d in places(made).items() for k, v in d.items() if _leaf(v))
        raise ConfigRefused(
            f"setting {setting!r}",
            found="no such setting",
            expected=f"NAME=VALUE with one of {', '.join(options)}",
            fix="correct it",
        )
    place[last] = _value(setting, text)
    return made


def _promise(made: Job) -> None:
    """Find the noise that keeps the whole job within its target epsilon, and write the promise into the mechanism."""
    dp, args, schedule = made.privacy["dp"], made.privacy["mechanism"]["args"], made.schedule
    steps = schedule["rounds"] * schedule["work"]
    noise = _noise(float(dp["target_epsilon"]), float(args["delta"]), float(dp["sampling_rate"]), steps)
    promise = {"clip": dp["clip"], "noise_multiplier": noise}
    promise |= {key: dp[key] for key in ("sampling_rate", "reference_patients")}
    args |= {"promise": {"path": "wardround.privacy.dp_sgd.PatientDP", "args": promise}}
    args |= {"work": schedule["work"], "rounds": schedule["rounds"]}
    release = SampledGaussianRelease("patient", noise, float(dp["sampling_rate"]), steps)
    found = claim([release], "patient", float(args["delta"]))
    dp |= {"epsilon": round(found.epsilon, 4), "mu": round(found.mu, 4)}
    dp |= {"attack_accuracy": round(found.attack.accuracy, 4), "attack_tpr_at_1_percent": round(found.attack.tpr, 4)}
    words = (
        f"epsilon {found.epsilon:.3g} at delta {float(args['delta']):g} per patient for the whole job (the best guess at whether "
        f"one patient was there is right {found.attack.accuracy:.0%} of the time, a coin 50%)"
    )
    made.privacy["guarantee"] = made.privacy["guarantee"].replace("{claim}", words)


@lru_cache
def _noise(target: float, delta: float, rate: float, steps: int) -> float:
    """Return the noise multiplier for a target epsilon, rounded up to 4 digits so that it can be read and typed."""
    return math.ceil(noise_multiplier_for(target, delta, rate, steps) * 1e4) / 1e4


def _value(setting: str, text: str) -> Any:
    """Return a YAML value; 1e-3, which YAML 1.1 takes for a text, is a number here."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigRefused(
            f"setting {setting!r}",
            found="a value that is not YAML",
            expected="a number, a word, true or false, or a list such as [16, 32]",
            fix="put the setting into quotes",
        ) from error
    with contextlib.suppress(TypeError, ValueError):
        return float(value) if isinstance(value, str) else value
    return value


def _leaf(value: object) -> bool:
    return not (isinstance(value, Mapping) and "path" in value)


def _page() -> Json:
    page: Json = yaml.safe_load(_text("jobs.yaml"))
    return page


def _fragment(kind: str, name: str) -> Json:
    known = sorted(path.stem for path in (_root() / kind).glob("*.yaml"))
    if name not in known:
        raise ConfigRefused(
            f"the {kind} fragment {name!r}",
            found="no such file in app_configs",
            expected=", ".join(known),
            fix="correct it",
        )
    fragment: Json = yaml.safe_load(_text(f"{kind}/{name}.yaml"))
    return fragment


def _text(path: str) -> str:
    return (_root() / path).read_text(encoding="utf-8")


def _root() -> Path:
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "app_configs", package.parents[1] / "app_configs"
    return installed if installed.is_dir() else checkout
