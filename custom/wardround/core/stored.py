"""Named arrays and what JSON can hold beside them, as one file of a party's own state."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core import files

_SAID, _ARRAY = "said", "array."


def save(path: Path, arrays: Mapping[str, NDArray[Any]], said: Mapping[str, Any]) -> None:
    """Write both so that they survive a power cut, whole or not at all, for their owner only.

    said: what JSON can hold; otherwise TypeError, and nothing is written
    """
    file = io.BytesIO()
    entries: dict[str, Any] = {f"{_ARRAY}{name}": array for name, array in arrays.items()}
    np.savez(file, allow_pickle=False, **entries, said=json.dumps(dict(said)))
    files.write(path, file.getvalue(), private=True, durable=True)


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Return (arrays, said) as `save` wrote them; no such file, or one that is damaged: None."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name.removeprefix(_ARRAY): file[name] for name in file.files if name.startswith(_ARRAY)}
            return arrays, dict(json.loads(str(file[_SAID])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
