"""How are arrays in a zip read without a general parser?

They are entries of .npz files, and tensors of .pt files. A description is compared
with the bytes that are there before an array is made, so that nothing is larger than
its file. No object is unpickled: of a .pt file only the few steps are followed that
`torch.save` writes for a dictionary of float tensors.

Sources: NumPy's NPY format 1.0 and 2.0 (numpy.lib.format); Python's pickletools;
torch/serialization.py.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wardround.core.arrays import Array
from wardround.core.bounded import MIB, MOST_WEIGHTS, TooMuch, stored_zip

# The pickle of a state dictionary holds names and shapes only: 16 MiB is plenty.
MOST_STEPS = 16 * MIB
# Sizes are multiplied before they are compared: more or larger ones would take hours.
MOST_AXES, LARGEST_AXIS = 32, 2**48
# Under these names a checkpoint holds its state dictionary beside other values.
WRAPPERS = ("model", "state_dict")
# What reading a damaged or crafted file raises.
DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
)
_NPY = re.compile(
    rb"\{'descr': '(?P<kind><f4|\|u1)', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,15}, )*(?:\d{1,15},?)?)\), \} *\n"
)
_REBUILD = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_KINDS = {"torch FloatStorage": "<f4", "torch HalfStorage": "<f2", "torch DoubleStorage": "<f8"}
_ORDERED = "collections OrderedDict"


def npy(content: bytes) -> np.ndarray[Any, Any]:
    """Return the array of a .npy entry as `numpy.save` writes float32 and uint8.

    ValueError is raised for another type, and for other bytes than it announces.
    """
    start = {b"\x93NUMPY\x01\x00": 10, b"\x93NUMPY\x02\x00": 12}.get(content[:8], 0)
    length = int.from_bytes(content[8:start], "little")
    match = _NPY.fullmatch(content[start : start + length]) if start else None
    if match is None:
        raise ValueError("no array of float32 or uint8")
    sizes = match["shape"].replace(b",", b" ").split()
    if len(sizes) > MOST_AXES:
        raise ValueError(f"an array of {len(sizes)} axes")
    shape = tuple(int(one) for one in sizes)
    values = np.frombuffer(
        content,
        "<f4" if match["kind"] == b"<f4" else "u1",
        offset=start + length,
    )
    if math.prod(shape) != len(values):
        raise TooMuch(
            f"an array that announces {math.prod(shape)} values, and {len(values)} are there",
        )
    return values.reshape(shape, order="F" if match["order"] == b"True" else "C").copy(
        order="K",
    )


def state_dictionary(source: Path | bytes) -> dict[str, Array]:
    """Return the arrays of a file that `torch.save` wrote, as float32.

    source: The file, or its content.

    The file holds a dictionary of CPU tensors of 16, 32 or 64 bits, one storage each,
    or a checkpoint that holds one under a name of WRAPPERS. One of DAMAGED is raised for
    anything else in it, and for sizes or strides that do not fit the bytes.
    """
    with stored_zip(source, MOST_WEIGHTS) as archive:
        steps = [entry for entry in archive.infolist() if entry.filename.count("/") == 1]
        steps = [entry for entry in steps if entry.filename.endswith("/data.pkl")]
        if len(steps) != 1 or steps[0].file_size > MOST_STEPS:
            raise ValueError("no state dictionary")
        root = steps[0].filename.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("another byte order")
        found = _followed(archive.read(steps[0]))
        keys = [tensor.values.key for tensor in found.values()]
        # Tensors that share a storage could be many times larger together than the
        # file.
        if len(set(keys)) < len(keys):
            raise ValueError("tensors that share a storage")
        return {name: _array(archive, f"{root}data/{tensor.values.key}", tensor) for name, tensor in found.items()}


@dataclass(frozen=True)
class _Storage:
    """The values of a tensor: their entry in the archive, and their type in NumPy's word."""

    key: str
    kind: str


@dataclass(frozen=True)
class _Tensor:
    """A tensor, not read yet: its shape, and its strides in values, not bytes."""

    values: _Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _array(archive: zipfile.ZipFile, entry: str, tensor: _Tensor) -> Array:
    # A number beyond float32 becomes inf, for the caller to refuse.
    with np.errstate(over="ignore"):
        values = np.frombuffer(archive.read(entry), tensor.values.kind).astype("<f4", copy=False)
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) != len(values) or (len(values) and last >= len(values)):
        raise TooMuch(
            f"a tensor that announces {math.prod(tensor.shape)} values, and {len(values)} are there",
        )
    if not len(values):
        return np.empty(tensor.shape, "<f4")
    steps = tuple(4 * step if n > 1 else 4 for n, step in zip(tensor.shape, tensor.strides, strict=True))
    return np.lib.stride_tricks.as_strided(values, tensor.shape, steps).copy()


def _followed(steps: bytes) -> dict[str, _Tensor]:
    """Return the dictionary that the pickle's steps make.

    ValueError is raised for a step, class or value that `torch.save` does not write for
    one.
    """
    machine = _Machine([], [], {})
    for step, value, _ in pickletools.genops(steps):
        if step.name not in _STEPS:
            raise ValueError(f"the step {step.name}")
        _STEPS[step.name](machine, value)
    result = machine.stack[0] if len(machine.stack) == 1 and not machine.marks else None
    for wrapper in WRAPPERS:
        if isinstance(result, dict) and isinstance(result.get(wrapper), dict):
            result = result[wrapper]
    if not isinstance(result, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in result.items()
    ):
        raise ValueError("no dictionary of tensors")
    return result


@dataclass(frozen=True)
class _Machine:
    """What pickle's steps work on; each method is one step, or a few of a kind."""

    stack: list[Any]
    marks: list[int]
    memo: dict[Any, Any]

    def nothing(self, _: Any) -> None:
        """Do nothing, for PROTO and STOP."""

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def name(self, value: Any) -> None:
        if value not in (_REBUILD, _PARAMETER, _ORDERED, *_KINDS):
            raise ValueError("a class of another kind")
        self.stack.append(value)

    def put(self, value: Any) -> None:
        self.memo[value] = self.stack[-1]

    def get(self, value: Any) -> None:
        self.stack.append(self.memo[value])

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def gather(self, count: int | None) -> None:
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise ValueError("a tuple of nothing")
        self.stack[start:] = [tuple(self.stack[start:])]

    def storage(self, _: Any) -> None:
        match self.stack[-1]:
            case ("storage", str(kind), str(key), str(), int()) if kind in _KINDS and key.isdecimal():
                self.stack[-1] = _Storage(key, _KINDS[kind])
            case _:
                raise ValueError("a storage of another kind")

    def drop(self, _: Any) -> None:
        """Leave out what BUILD adds to an object: a state dictionary's notes on versions."""
        self.stack.pop()

    def call(self, _: Any) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], arguments)

    def fill(self, count: int | None) -> None:
        start = self.marks.pop() if count is None else len(self.stack) - count
        pairs, self.stack[start:] = self.stack[start:], []
        # A tuple of tuples of the same tuple is small, and its hash takes for ever.
        if not all(isinstance(name, str) for name in pairs[::2]):
            raise ValueError("a name that is no text")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))


def _made(what: Any, arguments: Any) -> Any:
    match what, arguments:
        case str(kind), () if kind == _ORDERED:
            return {}
        case str(kind), (_Storage() as values, 0, tuple(shape), tuple(strides), bool(), dict()) if kind == _REBUILD:
            if len(shape) == len(strides) and _counts(shape) and _counts(strides):
                return _Tensor(values, shape, strides)
        case str(kind), (_Tensor() as tensor, bool(), dict()) if kind == _PARAMETER:
            return tensor
    raise ValueError("a call that torch.save does not write")


def _counts(values: Sequence[Any]) -> bool:
    return len(values) <= MOST_AXES and all(type(value) is int and 0 <= value < LARGEST_AXIS for value in values)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "STOP"), _Machine.nothing),
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "GLOBAL": _Machine.name,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.gather(None),
    "TUPLE1": lambda machine, _: machine.gather(1),
    "TUPLE2": lambda machine, _: machine.gather(2),
    "TUPLE3": lambda machine, _: machine.gather(3),
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.drop,
    "SETITEM": lambda machine, _: machine.fill(2),
    "SETITEMS": lambda machine, _: machine.fill(None),
}
