"""Can these hospitals run a job together: who are they, how many must answer, and how long does the server wait?"""

from __future__ import annotations

import re
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.jobs.job import Json

EVERYBODY = "@ALL"
# What a name may hold: it becomes the name of a folder at the server and in the simulator.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# 0 seconds means without a deadline.
SECONDS = ("round_timeout_s", "step_timeout_s", "wait_time_after_min_received")


def require_federation(federation: Json) -> None:
    """Raise ConfigRefused unless the federation of a job can run.

    The names of its sites must differ and be plain words, or be `@ALL` alone. The job
    must wait for one site at least; whether it names enough is checked where it is run
    or submitted, because sites can be named there too (forms.py). Times are whole
    seconds, 0 or more.
    """
    _require_names(federation["sites"])
    least = federation["min_clients"]
    if not _is_count(least) or least < 1:
        _refuse("min_clients", least, "a whole number of sites, 1 or more", "--set federation.min_clients=2")
    for name in SECONDS:
        if not _is_count(federation[name]) or federation[name] < 0:
            _refuse(name, federation[name], "whole seconds, 0 or more", f"--set federation.{name}=SECONDS")


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
