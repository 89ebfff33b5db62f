"""Checks of what others can do at a party and read of it: commands from afar, the
private folder, a server's storage.
"""

from __future__ import annotations

import os
from pathlib import Path

from wardround.flare import posture, workspaces
from wardround.flare.kit import SERVER, Kit, read_object, readable_by_others
from wardround.jobs.allow_list import FORBIDDEN, SERVER_FORBIDDEN
from wardround.ops import hardening
from wardround.ops.findings import Finding, failed, passed, warned

HARDEN = "wardround sites harden"
# Where the first release kept secrets, inside the workspace that results are copied
# from.
FIRST_RELEASE = (
    "*/wardround/refusals.txt",
    "*/wardround/secure/secrets.json",
    "kept/*/secure/secrets.json",
)


def remote(kit: Kit) -> list[Finding]:
    """Check that this party's process obeys what a job takes and no more, whoever asks:
    the site's guard, and its policy.
    """
    resources, default = (read_object(path) for path in (kit.own("resources.json"), _signed(kit, "resources.json")))
    mend = f"`{HARDEN} {kit.root}`, then start the party again"
    found = []
    for path in hardening.missing_components(resources, kit.role):
        if kit.role == SERVER:
            found.append(
                warned("remote", f"local/resources.json does not list {path}", mend),
            )
            continue
        words = "whoever runs the server can read this site's files, delete its runs and restart it, whatever its policy says"
        found.append(
            failed(
                "remote",
                f"local/resources.json does not list {path} as written: {words}",
                mend,
            ),
        )
    open_ = _open_rights(kit)
    if open_:
        words = f"local/authorization.json lets somebody do this from afar: {', '.join(open_)}"
        found.append((warned if kit.role == SERVER else failed)("remote", words, mend))
    own = hardening.own_components(resources, default, kit.role)
    if own:
        words = f"local/resources.json lists components of your own, which nothing here checks: {', '.join(own)}"
        found.append(
            warned(
                "remote",
                words,
                "read them; they run inside this party's NVFlare, and may undo its guard",
            ),
        )
    return found or [
        passed(
            "remote",
            "this party obeys what a job takes: no shell, no deletion, no restart from afar",
        ),
    ]


def _open_rights(kit: Kit) -> list[str]:
    authorization = read_object(kit.own("authorization.json"))
    forbidden = SERVER_FORBIDDEN if kit.role == SERVER else FORBIDDEN
    always = [right for right in forbidden if right == "shell_commands"]
    local = [right for right in forbidden if right not in (*always, *_OF_JOBS)]
    found = posture.who_may(authorization, always)
    found += posture.who_may(authorization, local, but_own_organisation=True)
    return sorted({f"{command} ({role})" for role, command in found})


_OF_JOBS = ("byoc", "server-predeployed-flwr")  # who may bring code is the check `code`


def _signed(kit: Kit, name: str) -> Path:
    default = kit.local / f"{name}.default"
    return default if default.is_file() else kit.local / name


def private(kit: Kit) -> list[Finding]:
    """Check where secrets and state go: outside the workspace, readable by their owner
    only, and writable. Also report what the first release left inside.
    """
    root, kept = workspaces.private_root(kit.root), workspaces.kept_root(kit.root)
    there = next(one for one in (root, *root.parents) if one.exists())
    found = []
    if not os.access(there, os.W_OK | os.X_OK):
        mend = f"make {root} with mode 700 for the user that runs the party, or set {workspaces.PRIVATE_VARIABLE}"
        found.append(
            failed("private", f"{root} cannot be made or written by this user", mend),
        )
    for place in (root, kept):
        if place is not None and place.exists() and readable_by_others(place):
            found.append(
                failed(
                    "private",
                    f"{place} can be read by others",
                    f"chmod 700 {place}, or `{HARDEN} {kit.root}`",
                ),
            )
    old = sum(len(list(kit.root.glob(pattern))) for pattern in FIRST_RELEASE)
    if old:
        words = f"{old} files with secrets or reasons of refusals of the first release lie in the workspace that NVFlare serves"
        found.append(
            warned(
                "private",
                words,
                "delete wardround/secure and wardround/refusals.txt in the folders of old jobs",
            ),
        )
    return found or [
        passed(
            "private",
            f"secrets and state: {root}" + ("" if kept is None else f"; kept for restarts: {kept}"),
        ),
    ]


def storage(kit: Kit) -> list[Finding]:
    """Check where a server keeps jobs and results: on a lasting disk, for its owner
    only.
    """
    found = []
    places_ = sorted(set(hardening.storage_of(read_object(kit.own("resources.json")))))
    for place in places_:
        lasting = place.is_relative_to(kit.root) or not hardening.is_temporary(place)
        if not lasting:
            words = f"{place}: every result lies in a temporary folder, which others may read and a restart empties"
            mend = (
                f"`{HARDEN} {kit.root}` moves it to {kit.root / hardening.STORAGE}; copy what is to be kept there first"
            )
            found.append(failed("storage", words, mend))
        elif _open_to_others(place):
            closed = next(one for one in (place, *place.parents) if one.exists())
            found.append(
                failed(
                    "storage",
                    f"{place} can be read by others",
                    f"chmod 700 {closed}",
                ),
            )
    return found or [
        passed("storage", ", ".join(map(str, places_)) or "nothing is named"),
    ]


def _open_to_others(place: Path) -> bool:
    """Return whether other users can reach a place: no folder on the way is closed to
    them.
    """
    return all(readable_by_others(one) for one in (place, *place.parents) if one.exists())
