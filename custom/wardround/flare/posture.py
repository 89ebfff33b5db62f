"""What NVFlare itself would read in a kit: who may do what from afar, and the privacy
scopes. Nothing is run.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from nvflare.apis.workspace import Workspace
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.fuel.common.excepts import ConfigError
from nvflare.fuel.sec.authz import parse_policy_config
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.security.security import COMMAND_CATEGORIES

from wardround.core.errors import ConfigRefused
from wardround.flare import plain_jobs
from wardround.flare.class_paths import require_known_filters
from wardround.flare.site_policy import ALIKE, unlike

FILE = "privacy.json"
BYOC = "byoc"
CLASSES = "class_allow_list"
ENFORCEMENT = "class_list_enforcement_mode"


def commands_in(categories: Iterable[str]) -> set[str]:
    """Return the commands of NVFlare that belong to these categories of rights."""
    wanted = set(categories)
    return {str(command) for command, category in COMMAND_CATEGORIES.items() if category in wanted}


def spelled(right: str) -> str:
    """Return the name of a right as NVFlare compares it."""
    return " ".join(right.lower().split())


def may_bring_code(authorization: dict[str, Any]) -> list[str]:
    """Return the roles of which anybody may submit jobs with code here. A policy that
    NVFlare refuses is a ConfigRefused.
    """
    return sorted({role for role, _ in who_may(authorization, (BYOC,))})


def who_may(
    authorization: dict[str, Any], rights: Iterable[str], *, but_own_organisation: bool = False
) -> list[tuple[str, str]]:
    """Return (role, command) wherever somebody of that role may do it: every command of
    a category, or the right itself.

    Only a plain "none" counts as closed: a condition ("n:lead@hospital", "o:submitter")
    lets somebody in. A policy that NVFlare refuses is a ConfigRefused.

    but_own_organisation: what is limited to the party's own organisation ("o:site")
        counts as closed too.
    """
    policy, problem = parse_policy_config(authorization, COMMAND_CATEGORIES)
    if policy is None:
        raise ConfigRefused(
            "local/authorization.json",
            found=str(problem),
            expected="a policy that NVFlare can read",
            fix="remove it, and run `wardround sites harden` again",
        )
    closed = {"none", "no", *(("o:site", "org:site") if but_own_organisation else ())}
    found = []
    for role in policy.get_roles():
        for right in rights:
            for command in sorted(commands_in([right])) or [right]:
                given = policy.role_right_map.get(f"{role}:*") or policy.role_right_map.get(f"{role}:{command}")
                said = [] if given is None else given.exp if isinstance(given.exp, list) else [given.exp]
                if not {spelled(one) for one in said} <= closed:
                    found.append((str(role), command))
    return found


def listed_classes(resources: dict[str, Any]) -> list[str] | None:
    """Return the lines of the class allow-list that NVFlare enforces for jobs without
    code, or None where any class may be built.

    Where resources.json has no list, NVFlare's own is returned.
    """
    lines = resources.get(CLASSES, list(DEFAULT_CLASS_ALLOW_LIST))
    if not isinstance(lines, list) or "*" in lines or resources.get(ENFORCEMENT, "enforce") != "enforce":
        return None
    return [str(line) for line in lines]


def own_classes(resources: dict[str, Any]) -> list[str]:
    """Return the lines of a party's list that are not in the one that NVFlare delivers.
    A party without a list has none.
    """
    lines = (listed_classes(resources) or []) if CLASSES in resources else []
    return [line for line in lines if line not in DEFAULT_CLASS_ALLOW_LIST]


def takes_plain_jobs_only(resources: dict[str, Any]) -> bool:
    """Tell whether NVFlare builds PlainJobs here, which accepts a job without code only
    as two JSON files and a card.
    """
    found = resources.get("app_validator")
    return isinstance(found, dict) and found.get("path") == plain_jobs.ENTRY["path"] and not found.get("disabled")


def scopes(workspace: Path, site: str) -> tuple[str | None, list[str]]:
    """Return (default scope, names of scopes) of a site's privacy.json, each filter
    built as NVFlare builds it.

    Without that file the result is (None, []). A ConfigRefused is what NVFlare cannot
    read or build, a file without scopes, which lets every job do what it likes, and a
    scope whose two lists do not hold the hospital's policy alike.
    """
    _require_known_filters(workspace)
    try:
        with _quiet():
            manager = create_privacy_manager(Workspace(str(workspace), site), names_only=False)
    # NVFlare raises RuntimeError for a file that holds a list.
    except (ConfigError, ValueError, TypeError, RuntimeError, ConfigRefused) as error:
        raise _refused(str(error)[-300:], "scopes whose filters can be built") from error
    found = manager.name_to_scopes or {}
    names = sorted(found)
    if not names and (workspace / "local" / FILE).is_file():
        raise _refused("no scope", "a list `scopes` with at least one scope; or no such file")
    wrong = [words for name in names if (words := unlike(found[name]))]
    if wrong:
        raise _refused("; ".join(wrong), ALIKE)
    default = manager.default_scope
    return (default.name if default else None), names


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"local/{FILE}",
        found=found,
        expected=expected,
        fix="copy poc_workspace/privacy.json (or privacy_hospital.json, privacy_patient.json, privacy_secagg.json) to "
        f"local/{FILE} again",
    )


def _require_known_filters(workspace: Path) -> None:
    """Raise ConfigRefused where the privacy.json names what must not be built only to
    look at the kit.
    """
    local = workspace / "local"
    file, own = local / FILE, local / "resources.json"
    if file.is_file():
        resources = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
        require_known_filters(file, resources.get(CLASSES) or ())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what NVFlare prints and logs about a file that it cannot read: the page
    says it in one line.
    """
    scanner = logging.getLogger("nvflare.fuel.utils.json_scanner.JsonScanner")
    before, scanner.disabled = scanner.disabled, True
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        scanner.disabled = before
