"""From app_configs/ to one job: an algorithm, a task, a federation and a privacy
fragment, with all values explicit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache

from wardround.core.errors import ConfigRefused
from wardround.dp.accounting import (
    claim,
    full_noise_multiplier_for,
    noise_multiplier_for,
)
from wardround.dp.releases import GaussianRelease, SampledGaussianRelease
from wardround.flare.reported_privacy import claimed, second_said
from wardround.jobs import first_weights, fragments, own_classes
from wardround.jobs import settings as settings_of
from wardround.jobs.job import HOSPITAL_DP, Job, Json
from wardround.jobs.joint_noise import joint_noise, rounded_up
from wardround.jobs.nearest import did_you_mean

__all__ = ["HOSPITAL_DP", "Job", "Json", "job", "names"]


def names() -> list[str]:
    """Return the names of all jobs."""
    return list(fragments.table()["jobs"])


def choices() -> dict[str, list[str]]:
    """Return, for every setting that names a row or a fragment of app_configs/, the
    names that `--set NAME=CHOICE` takes.
    """
    page = fragments.table()
    kinds = [one.removesuffix("=") for one in settings_of.BY_NAME]
    return {kind: fragments.names(kind) if kind == "privacy" else list(_rows(page, kind)) for kind in kinds}


def row_of(name: str, settings: Sequence[str] = ()) -> Json:
    """Return the row of a job that exists: its algorithm and, for each of `choices`,
    the name that it has with these settings.
    """
    page = fragments.table()
    row = page["defaults"] | page["jobs"][name]
    usual = {"server_optimizer": page["algorithms"][row["algorithm"]]["server_optimizer"]}
    chosen = dict(one.split("=", 1) for one in settings if one.startswith(settings_of.BY_NAME))
    return {**usual, **row, **chosen}


def job(name: str, settings: Sequence[str] = (), sites: Sequence[str] = ()) -> Job:
    """Return the job of this name with `settings` applied, such as "work=40",
    "algorithm.hessian=HF" or "sampling.patch=[64,64,16]".

    sites: the names of the sites; empty keeps those of the federation fragment.

    An unknown job, an unknown setting and a value that is not YAML are refused with
    ConfigRefused.
    """
    page = fragments.table()
    if name not in page["jobs"]:
        near = did_you_mean(name, page["jobs"])
        raise ConfigRefused(
            f"job {name!r}",
            found="no such job",
            expected=f"one of {', '.join(page['jobs'])}",
            fix=f"{near}`wardround jobs list` says what each one does",
        )
    of_recipe, row = row_of(name), row_of(name, settings)
    algorithm = copy.deepcopy(page["algorithms"][row["algorithm"]])
    usual = algorithm["server_optimizer"]
    of_row = of_recipe["sharing"], of_recipe["server_optimizer"]
    server_row = _row(page, "server_optimizer", row["server_optimizer"])
    sharing = copy.deepcopy(_sharing(page, row["sharing"]))
    task = fragments.fragment("task", row["task"])
    federation = fragments.fragment("federation", row["federation"])
    privacy = fragments.fragment("privacy", row["privacy"])
    federation |= algorithm.pop("federation", {}) | privacy.pop("federation", {})
    if sites:
        federation["sites"] = list(sites)
    if (by_patients := _row_or_none(page, "work_by_patients", row["work_by_patients"])) is not None:
        # Left out where the work is equal: such a job is printed as it was before there was a choice.
        federation["schedule"]["args"]["work_by_patients"] = by_patients
    made = Job(
        name=name,
        title=algorithm["title"],
        algorithm=algorithm,
        sharing=sharing["part"],
        aggregation=copy.deepcopy(_row(page, "aggregation", row["aggregation"])),
        compression=_row_or_none(page, "compression", row["compression"]),
        validation=_row_or_none(page, "validation", row["validation"]),
        server_optimizer=copy.deepcopy(server_row["part"]),
        task=task,
        federation=federation,
        privacy=privacy,
        fedavg_baseline=bool(row["fedavg_baseline"]),
    )
    # A schedule that is named goes before what the job's row says: `--set schedule=standard` is the whole standard recipe.
    # A row's setting of a choice that is made anew is a setting of another thing.
    changed = {kind for kind, chosen in row.items() if of_recipe.get(kind) != chosen}
    kept = {key: value for key, value in row.get("settings", {}).items() if key.partition(".")[0] not in changed}
    for name_, value in {**kept, **_schedule(page, row["schedule"], task)}.items():
        made = settings_of.apply(made, f"{name_}={settings_of.shown(value)}")
    for setting in settings:
        made = made if setting.startswith(settings_of.BY_NAME) else settings_of.apply(made, setting)
    _count_columns(made, settings)
    first_weights.promise(made.task["model"], settings)
    named = row.get("title") if of_row == (row["sharing"], row["server_optimizer"]) else None
    beside = None if row["server_optimizer"] == usual else server_row
    made = own_classes.finished(made, _sharing(page, row["sharing"]), named, beside)
    if made.secagg is not None:
        made.secagg["min_clients"] = made.federation["min_clients"]
    if made.compression is not None and "seed" in made.compression["args"]:
        made.compression["args"]["seed"] = made.task["seed"]
    if made.dp is not None:
        _promise(made)
    _require_patience(made)
    return made


def _sharing(page: Json, name: str) -> Json:
    """Return a row of `sharings`. A row that does not exist is refused with
    ConfigRefused.
    """
    if name not in page["sharings"]:
        near = did_you_mean(name, page["sharings"])
        raise ConfigRefused(
            f"setting 'sharing={name}'",
            found="no such way to share",
            expected=f"one of {', '.join(page['sharings'])}",
            fix=f"{near}--set sharing=NAME, or a class of your own with --set sharing.path=",
        )
    found: Json = page["sharings"][name]
    return found


def _schedule(page: Json, name: str, task: Json) -> Json:
    """Return the settings of a row of `schedules` for this task; no such row: ConfigRefused.

    What is learnt decides which of them count: classes of patients, or regions.
    """
    found = _row(page, "schedule", name)
    kind = "classes" if "classes" in task["sampling"]["args"] else "regions"
    return {**found.get("all", {}), **found.get(kind, {})}


def _row_or_none(page: Json, kind: str, name: str) -> Json | None:
    """Return a row of `compressions`, `validations` or `work_by_patients`; None for the row `none`."""
    found = copy.deepcopy(_row(page, kind, name))
    return found if isinstance(found, dict) else None


def _row(page: Json, kind: str, name: str) -> Json:
    """Return a row of `aggregations`, `compressions`, `validations` and so on.

    No such row: ConfigRefused.
    """
    rows = _rows(page, kind)
    if name not in rows:
        near = did_you_mean(name, rows)
        raise ConfigRefused(
            f"setting '{kind}={name}'",
            found=f"no such {kind}",
            expected=f"one of {', '.join(rows)}",
            fix=f"{near}--set {kind}=NAME",
        )
    found: Json = rows[name]
    return found


def _rows(page: Json, kind: str) -> Json:
    found: Json = page[kind if kind in page else f"{kind}s"]
    return found


def _count_columns(made: Job, settings: Sequence[str]) -> None:
    """Let a ViT read as many numbers of a health record as the job's columns make,
    where columns are given and their number is not.
    """
    sampling, model = made.task["sampling"]["args"], made.task["model"]["args"]
    named = {setting.partition("=")[0] for setting in settings}
    if "sampling.columns" in named and "columns" in model and "model.columns" not in named:
        from wardround.data.ehr import table_from_json

        table = table_from_json(sampling["columns"], "the job's sampling")
        model["columns"] = len(table.features) if sampling["record"] else 0


def _require_patience(made: Job) -> None:
    """Raise ConfigRefused unless the job states for how long the server waits for
    stragglers.
    """
    wait_time_after_min_received = made.federation["wait_time_after_min_received"]
    if type(wait_time_after_min_received) is not int or wait_time_after_min_received < 0:
        raise ConfigRefused(
            f"how job {made.name} treats stragglers",
            found=f"federation.wait_time_after_min_received={wait_time_after_min_received}",
            expected="whole seconds, 0 or more",
            fix="--set federation.wait_time_after_min_received=SECONDS",
        )


def _promise(made: Job) -> None:
    """Write the noise into the mechanism: the noise that was given, or the least that
    keeps the whole job within its target epsilon.
    """
    dp, args = made.privacy["dp"], made.privacy["mechanism"]["args"]
    numbers = {
        "delta": args["delta"],
        "num_rounds": made.schedule["num_rounds"],
        "work": made.schedule["work"],
    }
    numbers |= {f"dp.{key}": value for key, value in dp.items() if key not in ("unit", "normalised")}
    if wrong := [
        name for name, value in numbers.items() if isinstance(value, bool) or not isinstance(value, (int, float))
    ]:
        raise ConfigRefused(
            f"the privacy settings of {made.name}",
            found=f"no number for {', '.join(wrong)}",
            expected="a number",
            fix=f"give a number to {', '.join(wrong)}: --set NAME=NUMBER",
        )
    delta, given = float(args["delta"]), float(dp.pop("noise_multiplier"))
    if given:
        dp.pop("target_epsilon")
    make = _patient_noise if dp["unit"] == "patient" else _hospital_noise
    make = joint_noise if made.shares_noise else make
    release = make(made, delta, given)
    found = claim([release], dp["unit"], delta)
    dp |= {"noise_multiplier": release.noise_multiplier}
    dp |= claimed(found)
    if dp["unit"] == "patient":
        dp |= {"epsilon_by_opacus": second_said([release], "patient", delta)}
    guess = "its data are in it" if dp["unit"] == "hospital" else f"one {dp['unit']} was there"
    words = (
        f"epsilon {found.epsilon:.3g} at delta {delta:g} per {dp['unit']} for the whole job (the best guess at whether {guess} "
        f"is right {found.attack.accuracy:.0%} of the time, a coin 50%)"
    )
    made.privacy["guarantee"] = made.privacy["guarantee"].replace("{claim}", words)


def _patient_noise(made: Job, delta: float, given: float) -> SampledGaussianRelease:
    dp = made.privacy["dp"]
    args = made.privacy["mechanism"]["args"]
    schedule = made.schedule
    steps = schedule["num_rounds"] * schedule["work"]
    noise = given or _noise(
        float(dp["target_epsilon"]),
        delta,
        float(dp["sample_rate"]),
        steps,
    )
    promise = {"max_grad_norm": dp["max_grad_norm"], "noise_multiplier": noise}
    promise |= {key: dp[key] for key in ("sample_rate", "reference_patients")}
    args |= {"promise": {"path": "wardround.dp.patient_dp.PatientDP", "args": promise}}
    args |= {"work": schedule["work"], "num_rounds": schedule["num_rounds"]}
    return SampledGaussianRelease("patient", noise, float(dp["sample_rate"]), steps)


def _hospital_noise(made: Job, delta: float, given: float) -> GaussianRelease:
    """Calibrate the noise to the smallest sum that may be opened. Where single updates
    can be read, each of them carries the whole noise.
    """
    dp = made.privacy["dp"]
    args = made.privacy["mechanism"]["args"]
    rounds = made.schedule["num_rounds"]
    sum_ = made.secagg
    if sum_ is None:
        raise ConfigRefused(
            f"job {made.name} with hospital-level noise",
            found="a privacy fragment without a sum in integers",
            expected="`secagg` beside `dp`; without masks every hospital adds the whole noise itself",
            fix="use privacy=dp_adaptive",
        )
    target = 0.0 if given else float(dp["target_epsilon"])
    noise = given or rounded_up(
        full_noise_multiplier_for(target, delta, rounds, "hospital"),
    )
    promise = {
        "max_update_norm": dp["max_update_norm"],
        "noise_multiplier": noise,
        "colluders": dp["colluders"],
        "distributed": sum_["masks"],
    }
    promise |= {key: sum_[key] for key in ("sites", "min_clients", "bits")}
    args |= {"promise": {"path": HOSPITAL_DP, "args": promise}, "num_rounds": rounds}
    return GaussianRelease("hospital", noise, rounds)


@lru_cache
def _noise(target: float, delta: float, rate: float, steps: int) -> float:
    return rounded_up(noise_multiplier_for(target, delta, rate, steps))
