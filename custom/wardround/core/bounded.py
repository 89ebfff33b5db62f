"""How is a file that a stranger wrote read without growing beyond a limit?

A small file can announce petabytes, or inflate to them, so sizes are compared before
anything is read. What exceeds a limit raises TooMuch, a ValueError whose text says what
was found. The caller knows which file it was and turns the error into a refusal.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 2**20
MOST_JSON = 64 * MIB
MOST_TABLE = 256 * MIB
MOST_PICTURE = 256 * MIB
MOST_WEIGHTS = 8192 * MIB
# Weights that a job starts from: the content is held whole, and a network of 120 million
# values in float32 fits.
MOST_FIRST_WEIGHTS = 512 * MIB
MOST_ENTRIES = 100_000
CHUNK = MIB


class TooMuch(ValueError):
    """A file has more bytes, entries or levels than a reader accepts.

    The text is the `found` of a refusal.
    """


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Never more is read than the size that the file states, because files of the system
    state 0 bytes and have no end (/proc/self/pagemap). A pipe or device is never read. A
    larger file, one that is not regular, and one with fewer bytes than it states raise
    TooMuch. A file that cannot be read raises OSError, and a folder raises
    IsADirectoryError.
    """
    _require_file(path.stat(), path, most)
    with path.open("rb") as stream:
        # Another file may lie there since: what was opened is what is read.
        about = os.fstat(stream.fileno())
        _require_file(about, path, most)
        content = stream.read(about.st_size)
    if len(content) != about.st_size:
        raise TooMuch(f"{len(content)} bytes of the {about.st_size} that it states")
    return content


def _require_file(about: os.stat_result, path: Path, most: int) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not stat.S_ISREG(about.st_mode):
        raise TooMuch("a pipe or device, not a file")
    if about.st_size > most:
        raise TooMuch(f"{about.st_size} bytes (limit {most})")


def read_json(
    path: Path,
    most: int = MOST_JSON,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the JSON in a UTF-8 file, with or without a byte order mark.

    It raises what `read_bytes` and `parse_json` raise.
    """
    return parse_json(read_bytes(path, most).decode("utf-8-sig"), pairs)


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the parsed JSON.

    Text that is not JSON raises ValueError. Text that is nested deeper than the parser
    can go raises TooMuch.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise TooMuch("JSON that is nested too deep") from None


def gunzip(content: bytes, most: int) -> bytes:
    """Return decompressed gzip data, which are counted while they grow.

    More than `most` bytes raise TooMuch. Damaged data raise what gzip raises.
    """
    parts, size = [], 0
    with gzip.open(io.BytesIO(content)) as stream:
        while part := stream.read(CHUNK):
            parts.append(part)
            size += len(part)
            if size > most:
                raise TooMuch(f"more than {most} bytes after decompression")
    return b"".join(parts)


def gunzip_head(content: bytes, size: int) -> bytes:
    """Return the first `size` bytes of decompressed gzip data, or all if there are
    fewer.

    Nothing behind them is decompressed.
    """
    with gzip.open(io.BytesIO(content)) as stream:
        return stream.read(size)


@contextmanager
def stored_zip(source: Path | bytes, most: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose entries are stored without compression.

    source: The file, or its content where that was read already.

    No entry can then be larger than the file that holds it. It raises TooMuch for
    compressed, encrypted or overlapping entries, for too many entries, for a file above
    `most` bytes, and for anything but a regular file. It raises BadZipFile for a file
    that is not a zip.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if not (isinstance(source, bytes) or stat.S_ISREG(source.stat().st_mode)):
        raise TooMuch("no regular file")
    if size > most:
        raise TooMuch(f"{size} bytes (limit {most})")
    opened = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with opened as stream, zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_ENTRIES:
            raise TooMuch(f"{len(entries)} entries (limit {MOST_ENTRIES})")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise TooMuch("compressed or encrypted entries")
        # Entries that overlap announce more bytes together than the file has.
        if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
            raise TooMuch("entries that announce more bytes than the file has")
        yield archive
