"""Small pickles and headers that would take memory or hours are refused at once."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from wardround.models.stored_arrays import DAMAGED, npy, state_dictionary

# Instructions of pickle: protocol 2, then the values that each test builds.
START, STOP = b"\x80\x02", b"."


def archive(steps: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", START + steps + STOP)
        file.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return stream.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little")


def tensor(shape: list[int], strides: list[int], kind: str = "FloatStorage") -> bytes:
    """Return a dictionary of one tensor."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + whole(4) + b"tQ"
    sizes = b"".join(b"(" + b"".join(whole(one) for one in values) + b"t" for values in (shape, strides))
    ordered = b"ccollections\nOrderedDict\n)R"
    values = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(0) + sizes + b"\x89" + ordered + b"tR"
    return b"}" + text("a") + values + b"s"


def test_a_tensor_is_read(tmp_path: Path) -> None:
    content = archive(tensor([2, 2], [1, 2]))
    (tmp_path / "w.pt").write_bytes(content)
    for source in (content, tmp_path / "w.pt"):
        assert state_dictionary(source)["a"].tolist() == [[1, 3], [2, 4]]


# Tuples of the same tuple, twice in each of 64 levels.
NESTED = b")q\x00" + b"h\x00h\x00\x86q\x00" * 64


@pytest.mark.parametrize(
    "steps",
    [
        b"}" + NESTED + whole(1) + b"s",
        b"}(" + NESTED + whole(1) + b"u",
        tensor([2**2000] * 20_000, [1] * 20_000),
        tensor([2**63, 2**63], [0, 0]),
        tensor([1] * 40 + [4], [1] * 41),
        tensor([4], [1], "LongStorage"),
        # The pair that a storage is turned into, built by hand with a type of one's own.
        tensor([4], [1]).replace(b"tQ", b"t"),
        b"ccollections\nOrderedDict\nb",
        b"b",
    ],
    ids=["hash", "hash of many", "product", "announced", "axes", "whole numbers", "no storage", "text", "nothing"],
)
def test_steps_that_torch_does_not_write_are_refused_at_once(steps: bytes) -> None:
    with pytest.raises(DAMAGED):
        state_dictionary(archive(steps))


def test_an_array_of_many_axes_is_refused_at_once() -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'999999999999999, ' * 500_000}), }}\n".encode()
    with pytest.raises(ValueError, match="500000 axes"):
        npy(b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header)
