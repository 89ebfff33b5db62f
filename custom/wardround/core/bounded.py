"""Reading what strangers wrote without growing beyond a limit: sizes are compared before anything is read.

A small file can announce petabytes, or inflate to them. What is too much raises TooMuch, a ValueError whose text says what
was found; the caller knows which file it was and makes a refusal of it.
"""

from __future__ import annotations

import gzip
import io
import json
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 2**20
MOST_JSON, MOST_TABLE, MOST_PICTURE, MOST_WEIGHTS = 64 * MIB, 256 * MIB, 256 * MIB, 8192 * MIB
MOST_ENTRIES = 100_000
CHUNK = MIB


class TooMuch(ValueError):
    """More bytes, entries or levels than a reader takes; the text is a refusal's `found`."""


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of `most` bytes at most; a pipe or device is never read.

    larger, or no regular file: TooMuch | not readable: OSError (a folder: IsADirectoryError)
    """
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not stat.S_ISREG(about.st_mode):
        raise TooMuch("a pipe or device, not a file")
    if about.st_size > most:
        raise TooMuch(f"{about.st_size} bytes (limit {most})")
    with path.open("rb") as stream:
        return stream.read(most + 1)[:most]


def read_json(path: Path, most: int = MOST_JSON, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the JSON in a file in UTF-8, with or without a byte order mark; refused like `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, most).decode("utf-8-sig"), pairs)


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return parsed JSON; no JSON: ValueError | nested deeper than the parser can go: TooMuch"""
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise TooMuch("JSON that is nested too deep") from None


def gunzip(content: bytes, most: int) -> bytes:
    """Return decompressed gzip data, counted while they grow; more than `most` bytes: TooMuch, damaged: as gzip says."""
    parts, size = [], 0
    with gzip.open(io.BytesIO(content)) as stream:
        while part := stream.read(CHUNK):
            parts.append(part)
            size += len(part)
            if size > most:
                raise TooMuch(f"more than {most} bytes after decompression")
    return b"".join(parts)


def gunzip_head(content: bytes, size: int) -> bytes:
    """Return the first `size` bytes of decompressed gzip data, or all of them; nothing behind them is decompressed."""
    with gzip.open(io.BytesIO(content)) as stream:
        return stream.read(size)


@contextmanager
def stored_zip(path: Path, most: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose entries are stored as they are, so that none is larger than the file that holds it.

    compressed or encrypted entries, entries that overlap, too many, a file above `most` bytes, no regular file: TooMuch
    no zip: BadZipFile
    """
    size = path.stat().st_size
    if not stat.S_ISREG(path.stat().st_mode) or size > most:
        raise TooMuch(f"{size} bytes (limit {most})" if path.is_file() else "no regular file")
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_ENTRIES:
            raise TooMuch(f"{len(entries)} entries (limit {MOST_ENTRIES})")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise TooMuch("compressed or encrypted entries")
        if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
            raise TooMuch("entries that announce more bytes than the file has")
        yield archive
