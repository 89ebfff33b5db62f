"""Can these hospitals run a job together: who are they, how many must answer, and how long does the server wait?"""

from __future__ import annotations

import re
from typing import Any, cast

from wardround.aggregation.collect import Majority, Rule, require_tolerates
from wardround.core.errors import ConfigRefused
from wardround.core.terminal import counted
from wardround.jobs.job import Json

EVERYBODY = "@ALL"
# What a name may hold: it becomes the name of a folder at the server and in the simulator.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# 0 seconds means without a deadline.
SECONDS = ("round_timeout_s", "step_timeout_s", "wait_time_after_min_received")

INTERVAL = "task_request_interval_s"
MOST_SEED = 2**32
LEAST_INTERVAL_S, MOST_INTERVAL_S = 0.01, 3600.0


def require_federation(federation: Json) -> None:
    """Raise ConfigRefused unless the federation of a job can run.

    The names of its sites must differ and be plain words, or be `@ALL` alone. The job
    must wait for one site at least; whether it names enough is checked where its sites
    are final (require_enough). Times are whole seconds, 0 or more.
    """
    _require_names(federation["sites"])
    least = federation["min_clients"]
    if not _is_count(least) or least < 1:
        _refuse("min_clients", least, "a whole number of sites, 1 or more", "--set federation.min_clients=2")
    for name in SECONDS:
        if not _is_count(federation[name]) or federation[name] < 0:
            _refuse(name, federation[name], "whole seconds, 0 or more", f"--set federation.{name}=SECONDS")
    name, often = INTERVAL, federation[INTERVAL]
    if type(often) not in (int, float) or not LEAST_INTERVAL_S <= often <= MOST_INTERVAL_S:
        expected = f"seconds, {LEAST_INTERVAL_S:g} to {MOST_INTERVAL_S:g}"
        _refuse(name, often, expected, f"--set federation.{name}=0.1")


def require_seed(seed: object) -> None:
    """Raise ConfigRefused for a seed that not every generator of random numbers takes."""
    if type(seed) is not int or not 0 <= seed < MOST_SEED:
        raise ConfigRefused(
            "the seed of the job",
            found=repr(seed),
            expected=f"a whole number, 0 or more, below {MOST_SEED}",
            fix="--set task.seed=1",
        )


def require_majority(aggregation: Any, federation: Json) -> None:
    """Raise ConfigRefused where the hospitals of a plaintext job are too few for the f
    of its aggregation: those that it names, or those for which a round waits.

    The named hospitals come first: `min_clients` cannot be raised above their number.
    """
    named = federation["sites"]
    if isinstance(aggregation, Majority) and named != [EVERYBODY]:
        rule = cast(Rule, aggregation)
        if len(named) < rule.least_sites:
            raise _too_few_for(rule, len(named))
    require_tolerates(aggregation, federation["min_clients"])


def _too_few_for(rule: Rule, sites: int) -> ConfigRefused:
    # The median needs the fewest hospitals of all rules: 2f + 1.
    f = min(rule.f, (sites - 1) // 2)
    robust = f"--set aggregation=median --set aggregation.f={f} --set federation.min_clients={2 * f + 1}"
    return ConfigRefused(
        f"{rule.name} with f {rule.f} at {counted(sites, 'site')}",
        found=counted(sites, "site"),
        expected=f"{rule.least_sites} or more, all of which answer in every round",
        fix=f"with these sites: `{robust if f else '--set aggregation=mean'}`; with {rule.least_sites} sites or more: "
        f"name them (--sites A,B,...; `jobs run`: -n {rule.least_sites}), and "
        f"`--set federation.min_clients={rule.least_sites}`",
    )


def require_enough(sites: int, min_clients: int, least: int = 2) -> None:
    """Raise ConfigRefused when a job would wait for more sites than it names.

    least: the value to which `min_clients` may be lowered.
    """
    if sites < min_clients:
        raise ConfigRefused(
            f"{counted(sites, 'site')} for a job that needs {min_clients} (min_clients)",
            found=counted(sites, "site"),
            expected=f"{min_clients} or more: a round is added up once so many have answered",
            fix=f"name {min_clients} sites or more with --sites"
            + (f", or lower min_clients with `--set federation.min_clients={sites}`" if sites >= least else ""),
        )


def _require_names(sites: Any) -> None:
    named = isinstance(sites, list) and bool(sites) and all(isinstance(one, str) for one in sites)
    plain = named and (sites == [EVERYBODY] or all(NAME.fullmatch(one) for one in sites))
    if not plain or "server" in sites or len(set(sites)) < len(sites):
        raise ConfigRefused(
            "the sites of a job",
            found=f"{sites!r}",
            expected="different names of letters, digits, '_', '.' and '-', none of them `server`; or @ALL alone",
            fix="name them with --sites site-1,site-2",
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse(name: str, found: object, expected: str, fix: str) -> None:
    raise ConfigRefused(f"federation.{name} of a job", found=repr(found), expected=expected, fix=fix)
