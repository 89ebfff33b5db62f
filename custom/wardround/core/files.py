"""The one writer of files: whoever reads a file finds the old content or the new one, never a half.

The content goes into a new file in the same folder, which then takes the name. Three things can be asked for beyond that:
private (nobody but the owner can read it), durable (it survives a power cut once the call returns), room (a full disk
is a refusal that says what may be deleted).
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
PRIVATE, PUBLIC = 0o600, 0o666
_OTHERS = 0o077


def write(path: Path, content: str | bytes, *, private: bool = False, durable: bool = False) -> Path:
    """Write a file whole or not at all, and return its path; its folder is made if absent.

    content: a text is written as UTF-8
    private: mode 600; otherwise the mode follows the process's umask
    durable: on the disk when this returns
    no room on the disk: DiskRefused, and the old file stays; any other OSError is left as it is
    """
    data = content.encode() if isinstance(content, str) else content
    with room(path.parent, path.name), replacing(path, private=private, durable=durable) as file:
        write_all(file.fileno(), data)
    return path


@contextmanager
def replacing(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes the name `path` when the block ends; a block that raises leaves no trace.

    OSError, a full disk among them, is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two processes may write the same file at once, and the later one wins whole.
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE if private else PUBLIC)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        # The order matters: content on the disk, then the name, then the folder that holds the name.
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all the bytes: one call of the system may take only some of them."""
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
    """Return the folder, made if absent, with mode 700; a looser mode of one that was there before is tightened."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if path.stat().st_mode & _OTHERS:
        path.chmod(FOLDER_MODE)
    return path


def owner_only() -> None:
    """From here on, this process makes files and folders that only their owner may read, whatever its umask was."""
    os.umask(os.umask(_OTHERS) | _OTHERS)
