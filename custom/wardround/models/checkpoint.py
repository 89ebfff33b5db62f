"""Floor 2: weights on disk: one .npz without pickle, written atomically, that says which architecture it belongs to.

Content: one float32 entry `block.NAME` per block, and `header`: UTF-8 JSON with format, fingerprint, digest and meta.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wardround.arrays import Array, Arrays, digest
from wardround.errors import ModelRefused
from wardround.models.fingerprint import require_fingerprint

FORMAT = "wardround weights 1"


def save(path: str | Path, arrays: Arrays, fingerprint: str, meta: Mapping[str, Any]) -> None:
    """Write the arrays so that a reader sees the old file or the new one, never a part.

    meta: what JSON can hold (otherwise TypeError, nothing written) | folder missing: made
    """
    path = Path(path)
    header = {"format": FORMAT, "fingerprint": fingerprint, "digest": digest(arrays), "meta": dict(meta)}
    entries: dict[str, Any] = {f"block.{name}": np.asarray(block, np.float32) for name, block in arrays.items()}
    entries["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, allow_pickle=False, **entries)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def load(path: str | Path, expected_fingerprint: str | None = None) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return (arrays, meta) as they were saved.

    missing, truncated, damaged, or not written by `save`: ModelRefused
    another architecture than expected (if one is given): ModelRefused
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes().decode())
            arrays = {key.removeprefix("block."): file[key] for key in file.files if key.startswith("block.")}
        intact = header["format"] == FORMAT and header["digest"] == digest(arrays)
        found, meta = str(header["fingerprint"]), dict(header["meta"])
    except FileNotFoundError as error:
        raise _refused(path, "no such file") from error
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise _refused(path, f"not readable ({type(error).__name__})") from error
    if not intact:
        raise _refused(path, "a content that does not match its own digest or format")
    if expected_fingerprint is not None:
        require_fingerprint(found, expected_fingerprint, path)
    return arrays, meta


def _refused(path: Path, found: str) -> ModelRefused:
    return ModelRefused(
        f"weights: {path}",
        found=found,
        expected=f"an intact file of format {FORMAT!r}",
        fix="copy the file again, or take the weights of an earlier round",
    )
