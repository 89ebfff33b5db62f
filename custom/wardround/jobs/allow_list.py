"""Which classes may a party's jobs name when they bring no code? NVFlare's
`class_allow_list`, computed from the jobs.

A party builds only its own config: sites never build the server's classes, and the
server never builds a site's. So there are two lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.flare import plain_jobs, posture
from wardround.flare.kit import read_object
from wardround.jobs import folder, fragments, recipes
from wardround.jobs.job_classes import NETWORKS, PHANTOMS, classes, shipped
from wardround.jobs.recipes import Job, Json

SITE, SERVER = "site", "server"
AllowList = dict[str, list[str]]
RIGHTS = (
    "submit_job",
    "clone_job",
    "manage_job",
    "download_job",
    "view",
    "operate",
    "shell_commands",
    "byoc",
    "server-predeployed-flwr",
)
SERVER_FORBIDDEN = ("byoc", "server-predeployed-flwr", "shell_commands")
# A hospital operates its site on its own machine: nobody restarts it, reads from it,
# sets its log or deletes there from afar.
FORBIDDEN = (
    *SERVER_FORBIDDEN,
    "operate",
    "configure_job_log",
    "delete_workspace",
    "delete_job",
    "reset_errors",
    "show_errors",
    "show_stats",
)


def allow_list(jobs: Sequence[Job] = ()) -> AllowList:
    """Return {"site": classes, "server": classes}, each sorted: exactly the classes
    that these jobs name.

    none given: all jobs, the networks and phantoms that any of them can be given (job_classes.py), at the server every aggregation
    that `--set aggregation=` names, every compression and server optimizer at both, at a site every check that
      `--set validation=` names
    """
    chosen = jobs or [recipes.job(name) for name in recipes.names()]
    sides = {SITE: folder.client_config, SERVER: folder.server_config}
    found = {side: {path for job in chosen for path in classes(config(job))} for side, config in sides.items()}
    if not jobs:
        page = fragments.table()
        compressions, validations = set(classes(page["compressions"])), set(classes(page["validations"]))
        optimizers, works = set(classes(page["server_optimizers"])), set(classes(page["work_by_patients"]))
        found[SERVER] |= {*classes(page["aggregations"]), *compressions, *optimizers, *NETWORKS}
        # The sites of a secure sum are their own server.
        found[SITE] |= {*compressions, *validations, *optimizers, *works, *NETWORKS, *PHANTOMS}
    return {side: sorted(paths) for side, paths in found.items()}


def named_by(words: Sequence[str]) -> AllowList:
    """Return the two lists of jobs, each given by its name or by the folder that it was
    written to. No words mean all jobs.

    A folder that names something that is not a class is refused with ConfigRefused.
    """
    folders = [Path(word).expanduser() for word in words if (Path(word).expanduser() / "meta.json").is_file()]
    names = [word for word in words if Path(word).expanduser() not in folders]
    found = allow_list([recipes.job(name) for name in names]) if names or not words else {SITE: [], SERVER: []}
    for place in folders:
        for side, file in (
            (SITE, "config_fed_client.json"),
            (SERVER, "config_fed_server.json"),
        ):
            config = read_object(place / "app" / "config" / file)
            found[side] = sorted({*found[side], *classes(config)})
        if wide := [name for side in found.values() for name in side if not is_class(name)]:
            raise ConfigRefused(
                f"the job {place.name}",
                found=f"{', '.join(map(repr, wide[:3]))} in the place of a class",
                expected="the full name of one class: on a list, the name of a module allows everything below it",
                fix="do not run this job; ask who wrote it",
            )
    return found


def strangers(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the sorted classes of these lists that wardround does not ship for that
    side.

    A listed class is built with the arguments that a job gives it: `subprocess.Popen`
    in a list is a shell for every project lead.
    """
    ours = allow_list()
    return sorted(
        {path for side, listed in found.items() for path in listed if path not in {*ours[side], *shipped()}},
    )


def read(path: Path) -> AllowList:
    """Return the two lists in a file. Anything but full class names, such as a trailing
    dot or star, is refused with ConfigRefused.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(path, f"no JSON ({error})") from error
    sides = content if isinstance(content, dict) else {}
    named = [name for side in sides.values() for name in (side if isinstance(side, list) else [None])]
    if set(sides) != {SITE, SERVER} or not all(isinstance(name, str) and is_class(name) for name in named):
        raise _refused(
            path,
            "another structure, or an entry that allows more than one class",
        )
    return {side: list(found) for side, found in sides.items()}


def resources(found: Json, role: str, allowed: Sequence[str]) -> Json:
    """Return a party's resources.json: what was found, with this allow-list, enforced,
    and with PlainJobs.

    PlainJobs takes a job without code only as two JSON files and a card. A site also
    streams no log to the server.
    """
    silent = {"allow_log_streaming": False} if role == SITE else {}
    return found | {
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": list(allowed),
        "app_validator": dict(plain_jobs.ENTRY),
        **silent,
    }


def authorization(found: Json, role: str = SITE) -> Json:
    """Return a party's authorization.json: what was found, without any role's right to
    bring code or to use a shell.

    At a site nobody has the rights of operators either (see FORBIDDEN). A role with one
    word for all rights ("any") is written out, with that word for each right but the
    forbidden ones. A right for a single command ("cat": "any") goes with its category,
    because NVFlare prefers it to the category's right. Rights are compared without
    case, as NVFlare does.
    """
    permissions: Mapping[str, Any] = found.get("permissions") or {}
    if not isinstance(permissions, dict) or not permissions:
        raise ConfigRefused(
            "the site's authorization.json",
            found="no `permissions`",
            expected="a policy as provisioning writes it",
            fix="remove local/authorization.json, so that the default counts, and harden again",
        )
    denied = dict.fromkeys(FORBIDDEN if role == SITE else SERVER_FORBIDDEN, "none")
    closed = {*denied, *posture.commands_in(denied)}
    whole = {
        name: dict.fromkeys(RIGHTS, rights) if not isinstance(rights, dict) else rights
        for name, rights in permissions.items()
    }
    kept = {
        name: {right: who for right, who in rights.items() if posture.spelled(right) not in closed}
        for name, rights in whole.items()
    }
    return found | {
        "permissions": {name: rights | denied for name, rights in kept.items()},
    }


def is_class(name: str) -> bool:
    """Return whether a line names one class only. NVFlare reads the name of a module as
    leave for everything below it.
    """
    *places, last = name.split(".")
    return bool(places) and all(part.isidentifier() for part in (*places, last)) and last[0].isupper()


def _refused(path: Path, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the allow-list {path}",
        found=found,
        expected='{"site": [class paths], "server": [class paths]}, each the full name of one class',
        fix="print one with `wardround sites allow-list`, and edit that",
    )
