"""Floor 3: files that a crash leaves old or new, never half: what the protocol must not forget."""

from __future__ import annotations

import os
from pathlib import Path

from wardround.paths import room


def write(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write the content, on the disk when this returns. mode: of a new file, less the process's umask.

    no room: DiskRefused, and the old file stays
    """
    new = path.with_suffix(".new")
    with room(path.parent, path.name):
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
