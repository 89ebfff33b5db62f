"""What does a name of app_configs/jobs.yaml mean in a question to the compatibility table?

Rows that `--set NAME=CHOICE` takes (norms_at_home, secagg_masks, mixed_krum, ...) and
algorithms (fedprox, ditto, ...) are built, and asked for their traits like the options
of the table itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.traits import Misfit, misfit
from wardround.jobs import compat, fragments, recipes
from wardround.jobs.building import build
from wardround.jobs.nearest import did_you_mean

# Kinds that the table has no axis for: a job without one of them lacks nothing.
BESIDE = ("server_optimizer", "validation", "work_by_patients")
# Any job has these parts; which one it is does not matter here.
_JOB = "brats_fedavg"
Chosen = dict[str, tuple[str, Any]]


def asked(names: Sequence[str]) -> Chosen:
    """Return, for each kind of which an option is named, (the name, its value).

    A name may be an option of the table, a row of app_configs/jobs.yaml, or
    NAME=CHOICE as `--set` takes it. An unknown one, and two of one kind, are refused
    with ConfigRefused.
    """
    chosen: Chosen = {}
    for name in dict.fromkeys(names):
        for kind, value in _meaning(name).items():
            before = chosen.get(kind)
            if before is not None and before[1] != value:
                others = [one for one in names if one not in (before[0], name)]
                raise ConfigRefused(
                    f"the options {before[0]} and {name}",
                    found=f"two of one kind ({kind})",
                    expected="one of each kind: a job has no second",
                    fix=f"`{' '.join(['wardround jobs compat', *others, name])}`, or the same with {before[0]}",
                )
            chosen[kind] = name, value
    return chosen


def why_not(chosen: Chosen) -> Misfit | None:
    """Return what does not fit in a job with these options and else the default of
    every axis; None where its parts go together.
    """
    default = {axis: compat.options()[axis][name] for axis, name in compat.default().items()}
    values = default | {kind: value for kind, (_, value) in chosen.items()}
    values["beside"] = values["beside"] is not None
    return misfit(compat.chain(values.pop("algorithm"), values.pop("sharing"), **values))


def words(chosen: Chosen) -> str:
    """Return the options with what each of them is."""
    told: dict[str, list[str]] = {}
    for kind, (name, value) in chosen.items():
        told.setdefault(name, []).append(compat.title(kind, value))
    return ", ".join(f"{name} ({', '.join(titles)})" for name, titles in told.items())


def _meaning(name: str) -> dict[str, Any]:
    """Return the value of every kind that a name stands for."""
    setting, equals, choice = name.partition("=")
    for axis in compat.AXES:
        if not equals and name in compat.options()[axis]:
            return {axis: compat.options()[axis][name]}
    for kind, one in _rows():
        if (kind, one) == (setting, choice) or (not equals and one == name):
            return _built(kind, one)
    known = [one for kind, one in _rows() if equals and kind == setting]
    known = known or [*(one for axis in compat.AXES for one in compat.options()[axis]), *(one for _, one in _rows())]
    raise ConfigRefused(
        f"the option {name!r}",
        found="no such option of a job",
        expected=f"one of {', '.join(dict.fromkeys(known))}",
        fix=f"{did_you_mean(choice or name, dict.fromkeys(known))}`wardround jobs compat` prints what each one is",
    )


@lru_cache
def _rows() -> tuple[tuple[str, str], ...]:
    """Return every (kind, name) of app_configs/: the kinds of `--set`, and algorithms."""
    return tuple((kind, one) for kind, names in _kinds() for one in names)


def _kinds() -> Iterator[tuple[str, list[str]]]:
    page = fragments.table()
    yield "algorithm", list(page["algorithms"])
    for kind, names in recipes.choices().items():
        if kind != "schedule":
            # How long a job trains fits whatever else it has.
            yield kind, names


@lru_cache
def _built(kind: str, name: str) -> dict[str, Any]:
    if kind == "algorithm":
        return {kind: build(fragments.table()["algorithms"][name]["site"], kind)}
    job = recipes.job(_JOB, [f"{kind}={name}"])
    if kind == "privacy":
        dp = {} if job.dp is None else {"dp": compat.options()["dp"]["joint" if job.shares_noise else job.dp["unit"]]}
        secagg = build(job.privacy["secagg"], "secagg") if job.secagg is not None else None
        return dp | ({} if dp and secagg is None else {"secagg": secagg})
    if kind == "work_by_patients":
        return {kind: build(job.federation["schedule"], "schedule").work_by_patients}
    part = getattr(job, kind)
    return {kind: None if part is None else build(part, kind)}
