"""What a crash, a full disk or many processes at once do to the ledger's file: a release is never missed."""

import errno
import os
import resource
import signal

import pytest

from wardround.core.errors import ReleaseRefused
from wardround.dp import ledger_file
from wardround.dp.ledger_file import FILE, read, writing
from wardround.dp.releases import GaussianRelease

ONE = GaussianRelease("patient", 2.0, 1)


def append(folder, count=1):
    for _ in range(count):
        with writing(folder) as writer:
            entry = writer.append("job-1", "brats", "0.1.0", "spend", "update", ONE)
    return entry


@pytest.fixture
def three(tmp_path):
    append(tmp_path, 3)
    return tmp_path


def in_child(work):
    """Run work() in a forked process and return (what it sent, how it ended: exit code or -signal)."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        code = 1
        try:
            code = work(lambda text, write=os.write: write(into, text)) or 0
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        said = file.read()
    return said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_is_announced_is_written_and_synced_in_this_order(three, monkeypatch):
    """A release that was written to a page cache only would be forgotten by a power cut."""
    calls = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def spy(*args, name=name, real=real, **kwargs):
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, spy)
    append(three)
    head = ["write", "fsync", "replace", "fsync"]
    assert calls == [*head, "write", "fsync", *head]


def kill_at(boundary, half):
    """Patch os in this (child) process: die with SIGKILL before call number `boundary`, or after half of a write."""
    count = [0]
    for name in ("open", "write", "fsync", "lseek", "replace", "close"):
        real = getattr(os, name)

        def patched(*args, name=name, real=real, **kwargs):
            count[0] += 1
            if count[0] == boundary:
                if half and name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                elif half:
                    real(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, patched)


@pytest.mark.parametrize("half", [False, True], ids=["before", "after or half"])
def test_killed_at_any_boundary_no_release_is_missed(tmp_path, half):
    killed = 0
    for boundary in range(1, 200):
        folder = tmp_path / str(boundary)

        def work(say, boundary=boundary, folder=folder):
            kill_at(boundary, half)
            for _ in range(3):
                append(folder)
                say(b"r")  # what the caller does next: release

        released, end = in_child(work)
        counted = len(read(folder).entries)
        assert len(released) <= counted <= len(released) + 1, boundary
        append(folder)
        assert len(read(folder).entries) == counted + 1, boundary
        assert not read(folder).pending
        assert (folder / FILE).read_bytes().count(b"\n") == counted + 1
        if end == 0:
            break
        assert end == -signal.SIGKILL
        killed += 1
    assert end == 0
    assert killed >= 3 * 15


def test_an_announced_line_counts_at_every_length(three):
    """The process died while it wrote line 3: whatever of it is there, it counts and is completed."""
    chain, whole = read(three), (three / FILE).read_bytes()
    start = len(b"".join(chain.lines[:2]))
    for size in range(start, len(whole) + 1):
        (three / FILE).write_bytes(whole[:size])
        ledger_file._write_head(three, chain.lines[:2], chain.lines[2].decode())
        found = read(three)
        assert (found.entries, found.pending) == (chain.entries, True)
        with writing(three) as writer:
            assert not writer.chain.pending
        assert (three / FILE).read_bytes() == whole
        assert read(three) == chain


@pytest.mark.parametrize("partial", [False, True], ids=["nothing written", "half written"])
def test_a_full_disk_at_any_write_releases_nothing(tmp_path, partial, monkeypatch):
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace")}
    for boundary in range(1, 40):
        folder, count = tmp_path / str(boundary), [0]
        append(folder, 2)

        def full(*args, name, count=count, boundary=boundary, **kwargs):
            count[0] += 1
            if count[0] == boundary:
                if partial and name == "write":
                    real["write"](args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*args, **kwargs)

        for name in real:
            monkeypatch.setattr(os, name, lambda *args, name=name, **kwargs: full(*args, name=name, **kwargs))
        try:
            append(folder)
        except ReleaseRefused as refusal:
            failed = refusal.found == "No space left on device" and "nothing is released" in refusal.fix
        else:
            failed = None
        monkeypatch.undo()
        assert failed is not False
        assert len(read(folder).entries) in ((3,) if failed is None else (2, 3))
        assert len(read(folder).entries) + 1 == append(folder).n + 1
        if failed is None:
            break
    assert failed is None
    assert boundary > 10


@pytest.mark.parametrize(("room", "counted"), [(10, 5), (100, 6)], ids=["head does not fit", "line is torn"])
def test_a_real_limit_on_file_size(tmp_path, room, counted):
    append(tmp_path, 5)
    size = (tmp_path / FILE).stat().st_size
    limit = room if room == 10 else size + room

    def work(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            append(tmp_path)
        except ReleaseRefused as refusal:
            return 7 if refusal.found == "File too large" else 8

    assert in_child(work)[1] == 7
    assert len(read(tmp_path).entries) == counted
    assert read(tmp_path).pending == (counted == 6)
    assert append(tmp_path).n == counted


def test_many_processes_write_one_chain(tmp_path):
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                append(tmp_path, 10)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert [entry.n for entry in read(tmp_path).entries] == list(range(40))
