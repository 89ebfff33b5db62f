import os
import stat

import pytest

from wardround.core import files
from wardround.core.errors import DiskRefused


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("content", ["Größe\n", b"\0\xff" * 70_000, ""])
def test_what_is_written_is_read(tmp_path, content):
    path = files.write(tmp_path / "new" / "folder" / "a.json", content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]


def test_who_may_read_it(tmp_path):
    before = os.umask(0o022)
    try:
        assert mode(files.write(tmp_path / "open", "x")) == 0o644
        assert mode(files.write(tmp_path / "own", "x", private=True)) == 0o600
        (tmp_path / "loose").touch(mode=0o666)
        assert mode(files.write(tmp_path / "loose", "x", private=True)) == 0o600
        assert mode(files.private_folder(tmp_path / "folder")) == 0o700
        (tmp_path / "folder").chmod(0o755)
        assert mode(files.private_folder(tmp_path / "folder")) == 0o700
    finally:
        os.umask(before)


def test_a_durable_file_is_on_the_disk_before_it_has_the_name_and_then_the_name_is(tmp_path, monkeypatch):
    calls = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real, **k: calls.append(name) or real(*a, **k))
    files.write(tmp_path / "a", "x", durable=True)
    assert calls == ["write", "fsync", "replace", "fsync"]
    calls.clear()
    files.write(tmp_path / "a", "y")
    assert calls == ["write", "replace"]


def test_a_system_call_that_takes_a_part_is_repeated(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    assert files.write(tmp_path / "a", "0123456789").read_text() == "0123456789"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = files.write(tmp_path / "a", "old")
    with pytest.raises(TypeError), files.replacing(path) as file:
        file.writelines([b"half of the new", None])
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DiskRefused, match="may go"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_an_error_that_is_not_about_room_stays_what_it_is(tmp_path):
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path, "x")
