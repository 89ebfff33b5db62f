"""How does the file of a ledger survive crashes? What it means is in dp/ledger.py.

    wardround_ledger.jsonl       one entry a line; `previous`: SHA-256 of the line before
    wardround_ledger_head.json   how many lines, the hash of the last, the line in writing

To append, under the lock on the ledger:
    1. announce   a new head with the whole next line; fsynced, renamed, folder fsynced
    2. write      the line; fsynced
    3. settle     a new head that counts it, written in the same way
    4. return     only now may the caller release anything
From 1 on the line COUNTS: whoever opens the ledger after a crash in 1, 2 or 3 finds
nothing, a piece, or all of the announced line behind the counted ones, counts it and,
when writing, completes it. Before 1 nothing was promised or released. So a crash can
count a release that did not happen, and cannot miss one that did. Anything else behind
the counted lines, and a line that does not fit its neighbours or the head, is refused.
Not seen: ledger AND head deleted, put back to an older copy, or forged (a chain has no
key). Note the head elsewhere: `wardround ledger verify FOLDER --expect COUNT:SHA256`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from typing import Any, final

from wardround.core import files
from wardround.core.errors import ReleaseRefused
from wardround.dp.releases import Release, from_json, to_json

FILE = "wardround_ledger.jsonl"
HEAD = "wardround_ledger_head.json"
FORMAT = "wardround ledger 1"
GENESIS = "0" * 64
KINDS = ("reserve", "spend", "close")
LOCK_S = 60.0
_TEXTS = ("time", "job_id", "job", "version", "what", "key")
_OPTIONAL = ("settings", "continues")


@final
@dataclass(frozen=True)
class Entry:
    """One line: `what` is reserve, spend or close.

    clock_back_s: by how much its time lies before that of the line above.
    settings: of a reservation, the digest of what shapes the job's updates.
    continues: the job that this one continues. Both are left out where they are empty.
    """

    n: int
    time: str
    clock_back_s: float
    job_id: str
    job: str
    version: str
    what: str
    key: str
    release: Release | None
    settings: str = ""
    continues: str = ""


@final
@dataclass(frozen=True)
class Chain:
    """A checked ledger. If `pending`, the last entry is not settled yet; it counts."""

    entries: tuple[Entry, ...]
    lines: tuple[bytes, ...]
    pending: bool

    def head(self, count: int | None = None) -> str:
        """Return "COUNT:SHA256" of all lines, or of the first `count`."""
        lines = self.lines[:count]
        return f"{len(lines)}:{_digest(lines)}"


def read(folder: Path) -> Chain:
    """Return the checked ledger of a folder, without entries if there is none.

    A damaged, edited, shortened or replaced one raises ReleaseRefused with the line.
    """
    path = folder / FILE
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return _checked(folder, None)
    except OSError as error:
        raise _damaged(path, _unreadable(path, error), "a file that this site may read") from error
    with file:
        _lock(file.fileno(), path, fcntl.LOCK_SH)
        return _checked(folder, file.read())


@final
class Writer:
    """A ledger that is open and locked."""

    def __init__(self, folder: Path, descriptor: int, chain: Chain) -> None:
        self.chain = chain
        self._folder = folder
        self._descriptor = descriptor

    def append(
        self, job_id: str, job: str, version: str, what: str, key: str, release: Release | None, **more: str
    ) -> Entry:
        """Return the new entry once it is on the disk: now the caller may release."""
        now, settled = datetime.now(timezone.utc), self.chain
        above = datetime.fromisoformat(settled.entries[-1].time) if settled.entries else now
        back = round(max(0.0, (above - now).total_seconds()), 3)
        stamp = now.isoformat(timespec="microseconds")
        entry = Entry(len(settled.lines), stamp, back, job_id, job, version, what, key, release, **more)
        content = vars(entry) | {"previous": _digest(settled.lines), "release": to_json(release) if release else None}
        content = {name: value for name, value in content.items() if name not in _OPTIONAL or value}
        line = _canonical(content) + b"\n"
        _write_head(self._folder, settled.lines, line.decode())
        self.chain = Chain((*settled.entries, entry), (*settled.lines, line), pending=True)
        self.finish()
        return entry

    def finish(self) -> None:
        """Complete a pending entry: write its line, and settle the head."""
        # A piece of the line, left by a crash, is written over.
        os.lseek(self._descriptor, sum(map(len, self.chain.lines[:-1])), os.SEEK_SET)
        _write(self._descriptor, self.chain.lines[-1])
        _write_head(self._folder, self.chain.lines, "")
        self.chain = Chain(self.chain.entries, self.chain.lines, pending=False)


@contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """Open the ledger, alone, while the block runs; a pending entry is completed first.

    What `read` refuses, a lock for a minute, or an OSError: ReleaseRefused. Then
    nothing may be released.
    """
    path = folder / FILE
    try:
        with _opened(folder) as file:
            _lock(file.fileno(), path, fcntl.LOCK_EX)
            # The lock is on the file that was opened: a file that has taken its name
            # has none.
            if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                raise _damaged(path, "a file that was replaced while it was being opened", "that nobody touches it")
            writer = Writer(folder, file.fileno(), _checked(folder, file.readall()))
            if writer.chain.pending:
                writer.finish()
            yield writer
    except OSError as error:
        raise ReleaseRefused(
            f"the ledger {path}",
            found=_unreadable(path, error),
            expected="that every release is written down before it happens",
            fix="make room on the disk and look who may write there; until then nothing is released",
        ) from error


def _opened(folder: Path) -> FileIO:
    """Open the ledger. An empty one is made only where there is no head either."""
    path = folder / FILE
    try:
        return FileIO(path, "r+")
    except FileNotFoundError:
        _checked(folder, None)
    folder.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return FileIO(path, "r+")


def _checked(folder: Path, data: bytes | None) -> Chain:
    """Return the chain in the ledger's bytes (None: no file), after checking all of it."""
    path, count, last, announced = folder / FILE, *_read_head(folder, bool(data))
    if data is None and (count or announced):
        raise _damaged(path, f"no such file, though its head counts {count} lines", "the ledger beside its head")
    *whole, torn = (data or b"").split(b"\n")
    lines, entries = [line + b"\n" for line in whole[:count]], []
    for number, line in enumerate(lines):
        entries.append(_entry(path, number, line, lines[max(0, number - 1) : number]))
    if len(lines) < count:
        raise _damaged(path, f"line {len(lines) + 1} is missing or cut off", f"{count} lines, as its head says")
    if _digest(lines) != last:
        raise _damaged(path, f"line {count} is not the one that the head knows", "the line that was written last")
    behind = b"".join(line + b"\n" for line in whole[count:]) + torn
    if not announced.encode().startswith(behind):
        raise _damaged(path, f"line {count + 1} was never announced", f"{count} lines, as its head says")
    if announced:
        entries.append(_entry(folder / HEAD, count, announced.encode(), lines[-1:]))
        lines.append(announced.encode())
    return Chain(tuple(entries), tuple(lines), pending=bool(announced))


def _entry(path: Path, number: int, line: bytes, above: list[bytes]) -> Entry:
    """Return the entry in a line: written as we write it, and following the line above."""
    where, previous = f"line {number + 1}", ""
    try:
        content = json.loads(line)
        written = _canonical(content) + b"\n" == line
        previous, released = content.pop("previous"), content.pop("release")
        found = Entry(**content, release=None if released is None else from_json(released))
        if not written or not all(isinstance(getattr(found, name), str) for name in (*_TEXTS, *_OPTIONAL)):
            raise ValueError
        datetime.fromisoformat(found.time)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{where} is no entry as wardround writes it", "a line that nobody changed") from error
    if found.n != number:
        raise _damaged(path, f"{where} is entry {found.n}", f"entry {number}: no line added, removed or moved")
    if previous != _digest(above):
        raise _damaged(
            path,
            f"{where} does not follow from line {number}: one of them was changed"
            if number
            else f"{where} begins another",
            "lines as they were written",
        )
    if found.what not in KINDS or (found.release is None) != (found.what == "close"):
        raise _damaged(path, f"{where} says {found.what!r:.40}", "reserve, spend or close (by a newer wardround?)")
    return found


def _unreadable(path: Path, error: OSError) -> str:
    return "a folder of that name" if path.is_dir() else error.strerror or type(error).__name__


def _digest(lines: list[bytes] | tuple[bytes, ...]) -> str:
    return hashlib.sha256(lines[-1]).hexdigest() if lines else GENESIS


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _read_head(folder: Path, needed: bool) -> tuple[int, str, str]:
    """Return how many lines count, the hash of the last, and the announced line or ""."""
    path = folder / HEAD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        head = content["format"], content["count"], content["sha256"], content["next"]
    except FileNotFoundError as error:
        if needed:
            raise _damaged(path, "no such file", "the head that belongs to the ledger") from error
        return 0, GENESIS, ""
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, f"not readable ({type(error).__name__})", "the head that belongs to the ledger") from error
    kinds = [type(part) for part in head]
    if head[0] != FORMAT or kinds != [str, int, str, str] or head[1] < 0 or (head[3] and head[3][-1] != "\n"):
        raise _damaged(path, "another format", f"the head that belongs to the ledger ({FORMAT!r})")
    return head[1:]


def _write_head(folder: Path, lines: tuple[bytes, ...], announced: str) -> None:
    content = {"format": FORMAT, "count": len(lines), "sha256": _digest(lines), "next": announced}
    with files.replacing(folder / HEAD, private=True, durable=True) as file:
        files.write_all(file.fileno(), json.dumps(content).encode())


def _write(descriptor: int, data: bytes) -> None:
    files.write_all(descriptor, data)
    os.fsync(descriptor)


def _lock(descriptor: int, path: Path, kind: int) -> None:
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise ReleaseRefused(
                    f"the ledger {path}",
                    found=f"another process has held it for {LOCK_S:.0f} s",
                    expected="a ledger that is free within seconds",
                    fix="look which job hangs, and stop it",
                ) from error
            time.sleep(0.02)
        else:
            return


def _damaged(path: Path, found: str, expected: str) -> ReleaseRefused:
    return ReleaseRefused(
        f"the ledger {path}",
        found=found,
        expected=expected,
        fix="nothing private is released on top of it: find out who changed it, and put the true files back from a copy",
    )
