"""Only one run at a time may use a workspace: NVFlare's simulator empties the folder
that it is given, whoever works in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround.core.errors import ConfigRefused


@contextmanager
def alone(workspace: Path) -> Iterator[None]:
    """Hold a workspace for this process. Another run in it is refused with
    ConfigRefused, before anything is deleted.

    The file of the lock lies in the folder for temporary files, under a digest of the
    workspace's path: a file beside the workspace would be one more thing to remove.
    """
    digest = hashlib.sha256(str(workspace.resolve()).encode()).hexdigest()[:32]
    file = Path(tempfile.gettempdir()) / f"wardround-{os.getuid()}-{digest}.lock"
    # O_NOFOLLOW: the folder is shared, and a link of another user must not make this
    # process write elsewhere. The file is never deleted: a second process could then
    # lock a new file while the first still holds the old one.
    opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            # The operating system frees this lock when the process ends, however it
            # ends. A file with a process id alone would survive a crash.
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(
                workspace,
                os.pread(opened, 32, 0).decode(errors="replace"),
            ) from None
        os.ftruncate(opened, 0)
        os.pwrite(opened, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(opened)


def _in_use(workspace: Path, process: str) -> ConfigRefused:
    return ConfigRefused(
        f"the workspace {workspace}",
        found=f"another run that works in it (process {process or 'unknown'})",
        expected="one run at a time: the simulator empties its workspace before it starts",
        fix=f"wait for that run, or name another folder: `-w {shlex.quote(str(workspace) + '_2')}`",
    )
