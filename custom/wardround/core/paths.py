"""What can be wrong with a place on disk: a path that NVFlare cuts in pieces, a disk without room."""

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
    """Return whether a path stays whole in a command line: NVFlare writes one as a text and splits it as a shell does."""
    text = str(place)
    try:
        return shlex.split(text, comments=True) == [text] and text.isprintable()
    except ValueError:  # an open quote
        return False


def no_room(error: OSError) -> bool:
    """Return whether a write failed for want of room: a full disk or a quota. NumPy tells the first without a number."""
    return error.errno in _NO_ROOM or (error.errno is None and "requested and" in str(error))


def disk_refused(place: Path, what: str) -> DiskRefused:
    """Return the refusal for a write that found no room. place: in or above which it was | what: was to be written."""
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
    """Turn a write that finds no room into a DiskRefused; any other error stays what it is."""
    try:
        yield
    except OSError as error:
        if not no_room(error):
            raise
        raise disk_refused(place, what) from error


def reserve(file: Path) -> None:
    """Give a file of holes its blocks on the disk now: a memory map that finds none later kills the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
