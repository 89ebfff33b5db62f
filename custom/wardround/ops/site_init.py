"""What `wardround sites init` writes into a kit's local/, beside what `harden` writes.
No file is overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core import files as core_files
from wardround.core.errors import ConfigRefused
from wardround.data.site_config import EXAMPLE
from wardround.dp import budget
from wardround.flare.kit import SITE, Kit, read_object
from wardround.flare.workspaces import STATE_FILE
from wardround.training.opening import SITE_FILE

Files = Mapping[Path, dict[str, Any]]
STATE = {"folder": "kept"}
POLICY = "privacy.json"
_TYPED = "`--budget patient=8,1e-5`, with the hospital's own numbers"


def files(
    kit: Kit,
    data: Path | None,
    name: str | None,
    limit: str | None,
    privacy: Path | None,
) -> Files:
    """Return the content of the party's own files, by their path.

    A site without data whose file does not exist either, a server with a site's
    settings, and a limit that is not one are refused with ConfigRefused.
    """
    made: dict[Path, dict[str, Any]] = {kit.local / STATE_FILE: STATE}
    if kit.role != SITE:
        given = [
            ("--data", data),
            ("--name", name),
            ("--budget", limit),
            ("--privacy", privacy),
        ]
        wrong = [option for option, value in given if value is not None]
        if wrong:
            raise ConfigRefused(
                "the set-up of a server",
                found=", ".join(wrong),
                expected="a server holds no data and spends no budget",
                fix="leave these options out, or name a site's kit",
            )
        return made
    if data is not None:
        made[kit.root / SITE_FILE] = {
            "data": str(data.resolve()),
            **({"name": name} if name else {}),
        }
    elif not (kit.root / SITE_FILE).is_file():
        raise ConfigRefused(
            "the set-up of a site",
            found=f"no --data, and no {SITE_FILE} in the kit",
            expected="the folder of its cases",
            fix=f"add --data DIR, or write {SITE_FILE} yourself, like {EXAMPLE}",
        )
    if limit is not None:
        made[kit.local / budget.FILE] = _limit(limit)
    if privacy is not None:
        made[kit.local / POLICY] = read_object(privacy)
    return made


def require_same(wanted: Files) -> None:
    """Raise ConfigRefused, with its name, for a file that exists and says something
    else.
    """
    for path, content in wanted.items():
        if path.is_file() and read_object(path) != content:
            raise ConfigRefused(
                f"the file local/{path.name}",
                found="another content than these options would write",
                expected="no such file yet, or the same content",
                fix="leave the option out to keep the file, or move the file away first",
            )


def write(wanted: Files) -> list[Path]:
    """Write the files that do not exist yet, for their owner only, and return them."""
    new = [path for path in wanted if not path.is_file()]
    for path in new:
        core_files.write(
            path,
            (json.dumps(wanted[path], indent=2) + "\n"),
            private=True,
            durable=True,
        )
    return new


def _limit(text: str) -> dict[str, Any]:
    unit, _, numbers = text.partition("=")
    try:
        epsilon, delta = (float(one) for one in numbers.split(","))
    except ValueError as error:
        raise ConfigRefused(
            "--budget",
            found=text,
            expected="UNIT=EPSILON,DELTA",
            fix=_TYPED,
        ) from error
    try:
        budget.Limit(unit, epsilon, delta)  # type: ignore[arg-type]  # Limit refuses what is no unit
    except ConfigRefused as refusal:
        raise ConfigRefused(f"--budget {text}", found=refusal.found, expected=refusal.expected, fix=_TYPED) from refusal
    return {unit: {"epsilon": epsilon, "delta": delta}}
