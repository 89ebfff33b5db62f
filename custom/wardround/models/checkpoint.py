"""How do weights lie on disk?

They are one .npz without pickle, written atomically, that says which architecture it
belongs to. It holds one float32 entry `block.NAME` per block, and `header`: UTF-8 JSON
with format, fingerprint, digest and meta.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wardround.core import files
from wardround.core.arrays import Array, Arrays, digest
from wardround.core.bounded import (
    MOST_JSON,
    MOST_WEIGHTS,
    TooMuch,
    parse_json,
    stored_zip,
)
from wardround.core.errors import ModelRefused
from wardround.core.paths import room
from wardround.models.stored_arrays import npy

FORMAT = "wardround weights 1"


def save(path: str | Path, arrays: Arrays, fingerprint: str, meta: Mapping[str, Any]) -> None:
    """Write the arrays so that a reader sees the old file or the new one, never a part.

    meta: Anything that JSON can hold; otherwise TypeError is raised and nothing
        written.

    A missing folder is made. DiskRefused is raised if there is no room.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "digest": digest(arrays),
        "meta": dict(meta),
    }
    entries: dict[str, Any] = {f"block.{name}": np.asarray(block, np.float32) for name, block in arrays.items()}
    entries["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    # For its owner only: weights can tell of patients.
    with (
        room(path.parent, f"the weights {path.name}"),
        files.replacing(path, private=True, durable=True) as file,
    ):
        np.savez(file, allow_pickle=False, **entries)


def load(
    path: str | Path,
    expected_fingerprint: str | None = None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return (arrays, meta) as they were saved.

    ModelRefused is raised for a file that is missing, truncated, damaged, not written
    by `save`, or announces more than it holds, and for another architecture than the
    expected one (if one is given).
    """
    path = Path(path)
    try:
        with stored_zip(path, MOST_WEIGHTS) as file:
            # The file may come from elsewhere: a size is checked before memory is
            # allocated for it.
            if file.getinfo("header.npy").file_size > MOST_JSON:
                raise TooMuch(f"a header of more than {MOST_JSON} bytes")
            header = parse_json(npy(file.read("header.npy")).tobytes())
            names = [name for name in file.namelist() if name.startswith("block.") and name.endswith(".npy")]
            arrays = {name[len("block.") : -len(".npy")]: npy(file.read(name)) for name in names}
        intact = header["format"] == FORMAT and header["digest"] == digest(arrays)
        found, meta = str(header["fingerprint"]), dict(header["meta"])
    except FileNotFoundError as error:
        raise _refused(path, "no such file") from error
    except TooMuch as error:
        raise _refused(path, f"not readable: {error}") from error
    except MemoryError as error:
        raise _refused(path, "more than this machine's memory holds") from error
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RuntimeError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise _refused(path, f"not readable ({type(error).__name__})") from error
    if not intact:
        raise _refused(path, "a content that does not match its own digest or format")
    if expected_fingerprint is not None:
        require_fingerprint(found, expected_fingerprint, path)
    return arrays, meta


def require_fingerprint(found: str, expected: str, file: str | Path) -> None:
    """Raise ModelRefused unless the weights in `file` belong to the expected architecture."""
    if found != expected:
        raise ModelRefused(
            f"weights of another architecture: {file}",
            found=f"fingerprint {found}",
            expected=f"fingerprint {expected}",
            fix="load them with the model settings of the job that wrote them",
        )


def _refused(path: Path, found: str) -> ModelRefused:
    return ModelRefused(
        f"weights: {path}",
        found=found,
        expected=f"an intact file of format {FORMAT!r}",
        fix="copy the file again, or take the weights of an earlier round",
    )
