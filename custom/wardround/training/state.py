"""What survives a restarted process: a site's memory and the server's variables, one file per round, two rounds kept.

Two, the newest and the one that it was made from: the server repeats a round where a crash fell between a site's write and its
own, and a site whose update of a round was not counted starts the next one from its state before that round, as if it had not
taken part. So a gap of any length costs nothing but the rounds that were missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core.arrays import Arrays
from wardround.core.errors import RoundRefused
from wardround.models import checkpoint


def save(
    folder: Path, round_: int, arrays: Arrays, fingerprint: str, meta: Mapping[str, Any], since: int | None = None
) -> None:
    """Write the state BEFORE round `round_` atomically; of all others only the one it was made from is kept.

    since: the round of that one (None: the round before) | later rounds in the folder: left by a run that was started anew
    since, removed
    """
    checkpoint.save(_path(folder, round_), arrays, fingerprint, {**meta, "round": round_})
    for other in folder.glob("round-*.npz"):
        if other not in (_path(folder, round_), _path(folder, round_ - 1 if since is None else since)):
            other.unlink()


def load(folder: Path, round_: int, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (arrays, meta) of the state before `round_`; nothing in round 0; RoundRefused when it is missing later."""
    if round_ == 0:
        return {}, {}
    path = _path(folder, round_)
    if not path.is_file():
        raise RoundRefused(
            f"this site's state before round {round_}",
            found=f"no file {path.name} in its state folder",
            expected="the state that the last round left",
            fix="resume with the same state folder, or start the job anew",
        )
    return checkpoint.load(path, fingerprint)


def latest(folder: Path) -> int | None:
    """Return the newest round with a state in the folder, None when there is none."""
    rounds = sorted(int(path.stem.split("-")[1]) for path in folder.glob("round-*.npz"))
    return rounds[-1] if rounds else None


def _path(folder: Path, round_: int) -> Path:
    return folder / f"round-{round_:05d}.npz"
