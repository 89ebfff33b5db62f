"""Under which settings was a folder of kept state made, and may this job go on from it?

State outlives a job (docs/operations.md), and a reservation of privacy budget continues
with it. A job that inherited both and trained in another way would be charged for a
promise that nobody keeps. Therefore the first job writes down a digest of everything
that shapes an update and its noise, and every later job must have the same digest,
whether its name is the same or not.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from wardround.core import files
from wardround.core.errors import RoundRefused

FILE = "settings.sha256"


def digest_of(*settings: object) -> str:
    """Return a digest of settings whose `repr` shows all that they hold."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()


def require_same(folder: Path, digest: str, what: str) -> None:
    """Write the digest into a folder that has neither a digest nor state.

    Another digest, or state without a digest, raises RoundRefused.

    what: whose settings they are, for the person who reads the refusal.
    """
    path = folder / FILE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if before == digest:
        return
    # State without a digest could be of any settings, so it is refused as well.
    if before or any(folder.glob("round-*.npz")) or any(folder.glob("secrets.*")):
        raise RoundRefused(
            f"the state that this site keeps in {folder}",
            found=f"{what} of another job" if before else f"state that does not say {what}",
            expected=f"{what} of this job, unchanged",
            fix="resume with the same job; or give this one a name of its own; or, to give up the old run, delete the folder",
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files.write(path, digest, private=True, durable=True)
