"""What survives a restarted process?

A site's memory and the server's variables do, in one file per round. Two files are
kept: the newest, and the one that it was made from. The server repeats a round if it
crashed after a site's write and before its own. A site whose update was not aggregated
starts the next round from its state before that update, as if it had not taken part. So
a gap of any length costs only the rounds that were missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core.arrays import Arrays
from wardround.core.errors import RoundRefused
from wardround.models import checkpoint


def save(
    folder: Path,
    round_: int,
    arrays: Arrays,
    fingerprint: str,
    meta: Mapping[str, Any],
    since: int | None = None,
) -> None:
    """Write the state BEFORE round `round_` atomically, and remove older ones.

    since: The round whose state this one was made from, which is kept too; None means
        the round before.

    States of later rounds were left by a run that has been started again since; they
    are removed as well.
    """
    checkpoint.save(_path(folder, round_), arrays, fingerprint, {**meta, "round": round_})
    # Files are removed only after the new one is in place: a crash leaves one too many,
    # never one too few.
    for other in folder.glob("round-*.npz"):
        if other not in (
            _path(folder, round_),
            _path(folder, round_ - 1 if since is None else since),
        ):
            other.unlink()


def load(folder: Path, round_: int, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (arrays, meta) of the state before `round_`.

    Round 0 has none, so both are empty. RoundRefused is raised if a later one is
    missing.
    """
    if round_ == 0:
        return {}, {}
    path = _path(folder, round_)
    if not path.is_file():
        raise RoundRefused(
            f"this site's state before round {round_}",
            found=f"no file {path.name} in its state folder",
            expected="the state that the last round left",
            fix="resume with the same state folder, or submit the job again as a new one",
        )
    return checkpoint.load(path, fingerprint)


def latest(folder: Path) -> int | None:
    """Return the newest round with a state in the folder, None if there is none."""
    rounds = sorted(int(path.stem.split("-")[1]) for path in folder.glob("round-*.npz"))
    return rounds[-1] if rounds else None


def _path(folder: Path, round_: int) -> Path:
    return folder / f"round-{round_:05d}.npz"
