import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wardround.core.errors import ModelRefused
from wardround.models import bundle_files

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}
META = {"model": {"path": "UNet3d", "args": {}}, "candidate": "local", "k": 0}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    bundle_files.write_weights(tmp_path, ARRAYS)
    write(tmp_path, bundle_files.about(ARRAYS, "0123456789abcdef", "9.9", META))
    return tmp_path


def write(bundle: Path, entry: object) -> None:
    (bundle / "configs").mkdir(exist_ok=True)
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"version": "1.0.0", "wardround": entry}))


def test_round_trip(bundle: Path) -> None:
    arrays, meta = bundle_files.load(bundle, "0123456789abcdef")
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)


def test_another_architecture(bundle: Path) -> None:
    with pytest.raises(ModelRefused, match="another architecture"):
        bundle_files.load(bundle, "0" * 16)


def test_other_weights_than_those_it_was_written_with(bundle: Path) -> None:
    bundle_files.write_weights(bundle, ARRAYS | {"b": np.array([1, 1.0001], np.float32)})
    with pytest.raises(ModelRefused, match="digest"):
        bundle_files.load(bundle)


def test_pickled_objects_are_never_made(bundle: Path) -> None:
    """A state dictionary with an object in it would run code when it is unpickled."""
    torch.save({"a.weight": Path("x")}, bundle / bundle_files.WEIGHTS)
    with pytest.raises(ModelRefused, match="not readable"):
        bundle_files.load(bundle)


@pytest.mark.parametrize(
    "content", [b"", b".", b"\x80\x02.", b"\x80\x02h\x05.", b"\x80\x02]a.", b"\x80\x02M\x01", b"PK\x03\x04"]
)
def test_what_is_no_state_dictionary(bundle: Path, content: bytes) -> None:
    (bundle / bundle_files.WEIGHTS).write_bytes(content)
    with pytest.raises(ModelRefused, match="not readable"):
        bundle_files.load(bundle)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "not readable"),
        ({"format": "x"}, "not readable"),
        (bundle_files.about(ARRAYS, "0", "1", META) | {"format": "wardround MONAI bundle 7"}, "bundle 7"),
    ],
)
def test_bundles_of_others(bundle: Path, entry: object, words: str) -> None:
    write(bundle, entry)
    with pytest.raises(ModelRefused, match=words):
        bundle_files.load(bundle)


def test_missing_and_damaged_files(bundle: Path, tmp_path: Path) -> None:
    (bundle / bundle_files.WEIGHTS).write_bytes((bundle / bundle_files.WEIGHTS).read_bytes()[:200])
    with pytest.raises(ModelRefused, match="not readable"):
        bundle_files.load(bundle)
    (bundle / bundle_files.METADATA).unlink()
    with pytest.raises(ModelRefused, match="No such file"):
        bundle_files.load(bundle)
