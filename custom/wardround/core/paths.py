"""What can be wrong with a place on disk?

NVFlare cuts a path with blanks into pieces, and a disk may have no room.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround.core.errors import DiskRefused

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_plain(place: Path | str) -> bool:
    """Return whether a path stays whole in a command line.

    NVFlare writes a command line as one text and splits it as a shell does.
    """
    text = str(place)
    try:
        return shlex.split(text, comments=True) == [text] and text.isprintable()
    except ValueError:  # an open quote
        return False


def no_room(error: OSError) -> bool:
    """Return whether a write failed because a disk was full or a quota was used up.

    NumPy reports a full disk without an error number, so its text is read.
    """
    return error.errno in _NO_ROOM or (error.errno is None and "requested and" in str(error))


def disk_refused(place: Path, what: str) -> DiskRefused:
    """Return the refusal for a write that found no room.

    place: the path that was written, or a folder above it.
    what: what was to be written.
    """
    nearest = next((one for one in (place, *place.absolute().parents) if one.exists()), Path("/"))
    free = shutil.disk_usage(nearest).free / 1e6
    return DiskRefused(
        f"{what} in {place}",
        found=f"No space left on device ({free:.0f} MB free on the file system of {nearest}), or a quota that is used up",
        expected="room for it; nothing half written is used",
        fix="free space there: older run folders, downloads and decoded cases (`cache`) may go, the ledger and kept state may "
        "not; then start it again",
    )


@contextmanager
def room(place: Path, what: str) -> Iterator[None]:
    """Turn a write that finds no room into DiskRefused; other errors stay."""
    try:
        yield
    except OSError as error:
        if not no_room(error):
            raise
        raise disk_refused(place, what) from error


def reserve(file: Path) -> None:
    """Give a sparse file its blocks on the disk now.

    A memory map that finds no block later would kill the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            # Not on every system; where it is missing, a full disk shows only later.
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
