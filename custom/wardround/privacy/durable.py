"""Floor 3: files of a hospital's own: a crash leaves them old or new, never half, and nobody but their owner reads them."""

from __future__ import annotations

import os
from pathlib import Path

from wardround.paths import room

FOLDER_MODE, FILE_MODE = 0o700, 0o600
_OTHERS = 0o077


def owner_only() -> None:
    """From here on, this process makes files and folders that only their owner may read, whatever its umask was."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def folder(path: Path) -> Path:
    """Return the folder, made if absent, with mode 700; a looser mode of one that was there before is tightened."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if path.stat().st_mode & _OTHERS:
        path.chmod(FOLDER_MODE)
    return path


def write(path: Path, content: bytes) -> None:
    """Write the content, on the disk when this returns, for its owner only.

    no room: DiskRefused, and the old file stays
    """
    new = path.with_suffix(".new")
    with room(path.parent, path.name):
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
