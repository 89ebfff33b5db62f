"""A file of weights is what the job says it is, or nothing is read from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.weights_file import WeightsFile

EMPTY = hashlib.sha256(b"").hexdigest()


def test_the_content_that_was_promised_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (str(tmp_path / "w.pt"), "~/w.pt"):
        assert WeightsFile.of({"file": path, "sha256": digest}).read() == b"weights"


def test_another_content_is_refused_with_both_digests(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(ModelRefused, match=rf"(?s){EMPTY}.*{'1' * 64}.*print the job again"):
        WeightsFile(tmp_path / "w.pt", "1" * 64).read()


@pytest.mark.parametrize("path", ["gone.pt", "."])
def test_a_file_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelRefused, match=r"(?s)every site and at the server; nothing is downloaded.*copy it there"):
        WeightsFile(tmp_path / path, EMPTY).read()


@pytest.mark.parametrize(
    "given",
    [
        None,
        "/w.pt",
        {"file": "/w.pt"},
        {"sha256": EMPTY},
        {"file": "w.pt", "sha256": EMPTY},
        {"file": 3, "sha256": EMPTY},
        {"file": "/w.pt", "sha256": EMPTY.upper()},
        {"file": "/w.pt", "sha256": EMPTY[:-1]},
        {"file": "/w.pt", "sha256": None},
        {"file": "/w.pt", "sha256": EMPTY, "more": 1},
    ],
    ids=str,
)
def test_anything_but_a_path_and_a_digest_is_refused(given: object) -> None:
    with pytest.raises(ConfigRefused, match="sha256sum"):
        WeightsFile.of(given)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin"])
def test_a_device_is_not_read(path: str) -> None:
    """A job names the path: one that never ends would hold, or fill, a hospital's machine."""
    with pytest.raises(ModelRefused, match="cannot be read"):
        WeightsFile.of({"file": path, "sha256": EMPTY}).read()
