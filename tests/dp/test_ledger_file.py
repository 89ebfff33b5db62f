import json
import os
import sys
from datetime import datetime, timedelta, timezone

import pytest

from wardround.core.errors import ReleaseRefused
from wardround.dp import ledger_file
from wardround.dp.ledger_file import FILE, HEAD, read, writing
from wardround.dp.releases import GaussianRelease, UnknownRelease

ONE = GaussianRelease("patient", 2.0, 1)


def append(folder, count=1, release=ONE):
    for _ in range(count):
        with writing(folder) as writer:
            entry = writer.append("job-1", "brats", "0.1.0", "spend", "update", release)
    return entry


@pytest.fixture
def three(tmp_path):
    append(tmp_path, 3)
    return tmp_path


def test_an_entry_is_on_the_disk_when_append_returns(tmp_path):
    entry = append(tmp_path)
    line = json.loads((tmp_path / FILE).read_text())
    assert set(line) == {
        *("n", "previous", "time", "clock_back_s", "job_id", "job", "version", "what", "key", "release"),
    }
    assert line["previous"] == ledger_file.GENESIS
    assert line["release"] == {"kind": "gaussian", "unit": "patient", "noise_multiplier": 2.0, "count": 1}
    chain = read(tmp_path)
    assert chain.entries == (entry,)
    assert not chain.pending
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / HEAD).stat().st_mode & 0o777 == 0o600


def test_no_ledger_is_an_empty_one_and_reading_makes_nothing(tmp_path):
    assert read(tmp_path / "none").entries == ()
    assert list(tmp_path.iterdir()) == []


def test_lines_are_chained_and_the_head_knows_the_last(three):
    chain, head = read(three), json.loads((three / HEAD).read_text())
    lines = [json.loads(line) for line in chain.lines]
    assert [line["n"] for line in lines] == [0, 1, 2]
    assert len({line["previous"] for line in lines}) == 3
    assert chain.head() == f"{head['count']}:{head['sha256']}"
    assert chain.head(2) == f"2:{lines[2]['previous']}"


def test_a_settled_ledger_that_is_cut_anywhere_is_refused(three):
    whole = (three / FILE).read_bytes()
    for size in range(len(whole)):
        (three / FILE).write_bytes(whole[:size])
        with pytest.raises(ReleaseRefused, match=r"line \d is missing or cut off") as refused:
            read(three)
        complete = whole[:size].count(b"\n")
        assert f"line {complete + 1} " in refused.value.found
        assert refused.value.what == f"the ledger {three / FILE}"


def test_any_changed_byte_is_refused(three):
    whole = (three / FILE).read_bytes()
    for place in range(len(whole)):
        (three / FILE).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ReleaseRefused, match=r"line \d"):
            read(three)
        with pytest.raises(ReleaseRefused), writing(three):
            raise AssertionError("nothing may be written on top of it")


def rewritten(lines, last=b"\n"):
    return b"\n".join(lines) + last


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda a, b, c: rewritten([a, b.replace(b'"count":1', b'"count":2'), c]),
            "line 3 does not follow from line 2",
        ),
        (lambda a, b, c: rewritten([a, b, c.replace(b"2.0", b"9.0")]), "line 3 is not the one that the head knows"),
        (lambda a, b, c: rewritten([a, b]), "line 3 is missing"),
        (lambda a, b, c: rewritten([b, c]), "line 1 is entry 1"),
        (lambda a, b, c: rewritten([a, c, b]), "line 2 is entry 2"),
        (lambda a, b, c: rewritten([a, b, c, c]), "line 4 was never announced"),
        (lambda a, b, c: rewritten([a, b, c], b"\n{"), "line 4 was never announced"),
        (lambda a, b, c: rewritten([a, b"", c]), "line 2 is no entry"),
        (lambda a, b, c: rewritten([a, b, c.replace(b"{", b"{ ", 1)]), "line 3 is no entry"),
        (lambda a, b, c: rewritten([a, b, c[:-1] + b',"count":0}']), "line 3 is no entry"),
        (lambda a, b, c: rewritten([a.replace(b'"0000', b'"1000'), b, c]), "line 1 begins another"),
        (lambda a, b, c: rewritten([a, b, b"[1]"]), "line 3 is no entry"),
        (lambda a, b, c: b"", "line 1 is missing"),
    ],
)
def test_tampering_is_refused_with_the_line(three, change, words):
    path = three / FILE
    path.write_bytes(change(*path.read_bytes().splitlines()))
    with pytest.raises(ReleaseRefused) as refused:
        read(three)
    assert words in refused.value.found
    assert str(path) in refused.value.what


def test_a_replaced_ledger_is_refused(three, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    append(other, 3, GaussianRelease("patient", 200.0, 1))
    (other / FILE).replace(three / FILE)
    with pytest.raises(ReleaseRefused, match="line 3 is not the one"):
        read(three)


def test_a_deleted_ledger_is_refused_and_not_begun_anew(three):
    (three / FILE).unlink()
    for _ in range(2):
        with pytest.raises(ReleaseRefused, match="its head counts 3 lines"):
            append(three)
        with pytest.raises(ReleaseRefused, match="no such file"):
            read(three)
    assert not (three / FILE).exists()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{}",
        b"[]",
        b'{"format": "wardround ledger 1", "count": 3}',
        b'{"format": "wardround ledger 2", "count": 3, "sha256": "", "next": ""}',
        b'{"format": "wardround ledger 1", "count": true, "sha256": "", "next": ""}',
        b'{"format": "wardround ledger 1", "count": -1, "sha256": "", "next": ""}',
        b'{"format": "wardround ledger 1", "count": 3, "sha256": "", "next": null}',
        b'{"format": "wardround ledger 1", "count": 3, "sha256": "", "next": "{"}',
        b"\xff",
    ],
)
def test_a_missing_or_damaged_head_is_refused(three, content):
    (three / HEAD).unlink()
    if content is not None:
        (three / HEAD).write_bytes(content)
    with pytest.raises(ReleaseRefused, match=HEAD):
        read(three)
    with pytest.raises(ReleaseRefused, match=HEAD):
        append(three)


def test_a_head_put_back_is_refused(three):
    old = (three / HEAD).read_bytes()
    append(three)
    (three / HEAD).write_bytes(old)
    with pytest.raises(ReleaseRefused, match="line 4 was never announced"):
        read(three)


def test_an_announced_line_must_be_an_entry_that_follows(three):
    ledger_file._write_head(three, read(three).lines, read(three).lines[1].decode())
    with pytest.raises(ReleaseRefused, match="line 4 is entry 1"):
        read(three)


def test_a_kind_of_entry_that_nobody_knows_is_refused(tmp_path):
    with writing(tmp_path) as writer:
        writer.append("job-1", "brats", "9.0", "refund", "update", ONE)
    with pytest.raises(ReleaseRefused, match="line 1 says 'refund'"):
        read(tmp_path)


def test_a_release_of_a_newer_version_is_kept_and_unknown(three):
    """The chain is over the bytes that are there: an unknown release is read, and nothing is refused for it."""
    chain = read(three)
    content = json.loads(chain.lines[2]) | {"release": {"kind": "skellam", "unit": "patient", "mu": 3}}
    line = ledger_file._canonical(content) + b"\n"
    (three / FILE).write_bytes(b"".join(chain.lines[:2]) + line)
    ledger_file._write_head(three, (*chain.lines[:2], line), "")
    append(three)
    assert isinstance(read(three).entries[2].release, UnknownRelease)
    assert (three / FILE).read_bytes().splitlines(keepends=True)[2] == line


def test_time_that_goes_back_is_recorded_and_not_refused(three, monkeypatch):
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=1)

    monkeypatch.setattr(ledger_file, "datetime", Yesterday)
    assert append(three).clock_back_s == pytest.approx(86400, abs=60)
    monkeypatch.undo()
    assert append(three).clock_back_s == 0
    assert [entry.clock_back_s > 0 for entry in read(three).entries] == [False, False, False, True, False]
    assert datetime.fromisoformat(read(three).entries[0].time).tzinfo == timezone.utc


def test_a_ledger_that_another_process_holds_is_refused_after_a_while(three, monkeypatch):
    monkeypatch.setattr(ledger_file, "LOCK_S", 0.05)
    with writing(three):
        with pytest.raises(ReleaseRefused, match="another process has held it"):
            append(three)
        with pytest.raises(ReleaseRefused, match="another process has held it"):
            read(three)
    assert append(three).n == 3


def test_a_ledger_that_is_replaced_while_it_is_opened_is_refused(three, monkeypatch):
    real = ledger_file._lock

    def lock(descriptor, path, kind):
        real(descriptor, path, kind)
        other = path.with_suffix(".other")
        other.write_bytes(path.read_bytes())
        other.replace(path)

    monkeypatch.setattr(ledger_file, "_lock", lock)
    with pytest.raises(ReleaseRefused, match="replaced while"):
        append(three)


@pytest.mark.skipif(os.getuid() == 0 or sys.platform == "win32", reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(three):
    three.chmod(0o500)
    with pytest.raises(ReleaseRefused, match="Permission denied"):
        append(three)
    three.chmod(0o700)


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "local").write_text("")
    with pytest.raises(ReleaseRefused, match="Not a directory"):
        append(tmp_path / "local")


@pytest.mark.parametrize("file", [FILE, HEAD])
def test_a_folder_where_a_file_should_be_is_refused(three, file):
    (three / file).unlink()
    (three / file).mkdir()
    for ask in (append, read):
        with pytest.raises(ReleaseRefused):
            ask(three)
