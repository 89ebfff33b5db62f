"""How is a file written so that a reader finds the old content or the new one, whole?

This is the only writer of files. The content goes into a new file in the same folder,
and that file then takes the name. A caller can ask for two things beyond that: private
(nobody but the owner can read the file) and durable (the file survives a power cut once
the call has returned). `write` also turns a full disk into a refusal that says what may
be deleted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wardround.core.paths import room

FOLDER_MODE = 0o700
# The umask of the process is applied on top of PUBLIC.
PRIVATE = 0o600
PUBLIC = 0o666
_OTHERS = 0o077


def write(path: Path, content: str | bytes, *, private: bool = False, durable: bool = False) -> Path:
    """Write a file whole or not at all, and return its path.

    Its folder is made if it does not exist. When the disk has no room, it raises
    DiskRefused and the old file stays; any other OSError is raised as it is.

    content: a text is written as UTF-8.
    private: the file gets mode 600; otherwise the mode follows the process's umask.
    durable: the content is on the disk when this returns.
    """
    data = content.encode() if isinstance(content, str) else content
    with (
        room(path.parent, path.name),
        replacing(path, private=private, durable=durable) as file,
    ):
        write_all(file.fileno(), data)
    return path


@contextmanager
def replacing(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes the name `path` when the block ends.

    A block that raises leaves no trace. An OSError is raised as it is, also that of a
    full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two processes may write the same file at once, and the later
    # one wins whole.
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE if private else PUBLIC)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        # The order matters: content on the disk, then the name, then the folder that
        # holds the name.
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all the bytes: one system call may take only some of them."""
    while data:
        data = data[os.write(descriptor, data) :]


def sync_folder(path: Path) -> None:
    """Put the names of a folder's files on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> Path:
    """Return the folder with mode 700, and make it if it does not exist.

    An existing folder with a looser mode is tightened.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if path.stat().st_mode & _OTHERS:
        path.chmod(FOLDER_MODE)
    return path


def owner_only() -> None:
    """Let this process make files and folders that only their owner can read.

    It holds from this call on, whatever the umask was.
    """
    # The umask can only be read by setting it: the inner call reads it and closes it to
    # all others, the outer call restores what was stricter before.
    os.umask(os.umask(_OTHERS) | _OTHERS)
