from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from wardround.core.errors import ModelRefused
from wardround.models import checkpoint

WEIGHTS = {
    "model:conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "file": np.array(3, np.float32),
    "header": np.zeros((0, 2), np.float32),
}
META = {"round": 3, "dice": [0.5, None], "job": {"name": "brats_fedavg", "note": "Grüße"}}


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "new" / "folder" / "best.npz"
    checkpoint.save(target, WEIGHTS, "f00d", META)
    return target


def test_what_was_saved_is_loaded(path):
    arrays, meta = checkpoint.load(path, "f00d")
    assert meta == META
    assert arrays.keys() == WEIGHTS.keys()
    for name, block in WEIGHTS.items():
        assert arrays[name].dtype == np.float32
        assert arrays[name].shape == block.shape
        np.testing.assert_array_equal(arrays[name], block)
    assert checkpoint.load(path)[1] == META


def test_only_the_file_itself_is_left_behind(path):
    checkpoint.save(path, WEIGHTS, "f00d", {})
    assert [entry.name for entry in path.parent.iterdir()] == ["best.npz"]


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.save(path, WEIGHTS, "f00d", {"when": object()})
    with pytest.raises(ValueError, match="could not convert"):
        checkpoint.save(path, {"a": np.array(["x"])}, "f00d", {})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["best.npz"]


def test_a_write_that_breaks_off_leaves_nothing(path, monkeypatch):
    before = path.read_bytes()

    def breaks_off(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.np, "savez", breaks_off)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, WEIGHTS, "f00d", {})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["best.npz"]


def test_another_architecture_is_refused(path):
    with pytest.raises(ModelRefused, match=r"(?s)best\.npz.*f00d.*beef"):
        checkpoint.load(path, "beef")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match=r"(?s)none\.npz.*no such file"):
        checkpoint.load(tmp_path / "none.npz")
    with pytest.raises(ModelRefused, match="not readable"):
        checkpoint.load(tmp_path)


def test_every_truncation_is_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelRefused, match=r"best\.npz"):
            checkpoint.load(path)


def test_a_changed_weight_is_refused(path):
    whole = path.read_bytes()
    place = whole.index(np.arange(24, dtype=np.float32).tobytes())
    path.write_bytes(whole[: place + 5] + b"\x07" + whole[place + 6 :])
    with pytest.raises(ModelRefused):
        checkpoint.load(path)


@pytest.mark.parametrize("content", ["pickle", "npy", "text", "other npz", "not json", "no object", "swapped"])
def test_other_files_are_refused(path, content):
    header = {"format": checkpoint.FORMAT, "fingerprint": "f00d", "digest": "0", "meta": {}}

    def as_bytes(value):
        return np.frombuffer(json.dumps(value).encode(), np.uint8)

    if content == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content == "text":
        path.write_text("version https://example.org/pointer")
    elif content == "other npz":
        np.savez(path, a=np.zeros(3))
    elif content == "not json":
        np.savez(path, header=np.zeros(3, np.uint8))
    elif content == "no object":
        np.savez(path, header=as_bytes([1, 2]))
    else:
        np.savez(path, header=as_bytes(header), **{"block.a": np.ones(2, np.float32)})
    with pytest.raises(ModelRefused, match=r"best\.npz"):
        checkpoint.load(path)


def test_pickled_content_is_never_run(path, tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    np.savez(path, header=np.array([Harm()], object))
    with pytest.raises(ModelRefused):
        checkpoint.load(path)
    assert not (tmp_path / "harm").exists()
