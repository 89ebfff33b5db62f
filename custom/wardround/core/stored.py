"""How does one party keep named arrays, and JSON beside them, in one file of its own?"""

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

# The arrays have a prefix, so that no array can take the name of the JSON entry.
_SAID = "said"
_ARRAY = "array."


def save(path: Path, arrays: Mapping[str, NDArray[Any]], said: Mapping[str, Any]) -> None:
    """Write both for their owner only, whole or not at all, through a power cut.

    said: values that JSON can hold. Any other value raises TypeError, and nothing is
        written.
    """
    file = io.BytesIO()
    entries: dict[str, Any] = {f"{_ARRAY}{name}": array for name, array in arrays.items()}
    np.savez(file, allow_pickle=False, **entries, said=json.dumps(dict(said)))
    files.write(path, file.getvalue(), private=True, durable=True)


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Return (arrays, said) as `save` wrote them.

    It returns None when there is no such file, or when the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name.removeprefix(_ARRAY): file[name] for name in file.files if name.startswith(_ARRAY)}
            return arrays, dict(json.loads(str(file[_SAID])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
