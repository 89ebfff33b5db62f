"""What does wardround read of a MONAI bundle that it wrote?

It reads configs/metadata.json and models/model.pt. A bundle may have been anywhere
since: its code and the expressions in its configs are never run, its weights are read
without unpickling and without trusting a size that they state, and they must match the
digest and the architecture of metadata.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wardround.core.arrays import Array, digest
from wardround.core.bounded import TooMuch, read_json
from wardround.core.errors import ModelRefused
from wardround.models import checkpoint
from wardround.models.checkpoint import require_fingerprint
from wardround.models.stored_arrays import DAMAGED, state_dictionary

FORMAT = "wardround MONAI bundle 1"
METADATA, WEIGHTS = Path("configs/metadata.json"), Path("models/model.pt")
ENTRY = "wardround"


def about(
    arrays: Mapping[str, Array],
    fingerprint: str,
    version: str,
    meta: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the entry of metadata.json by which wardround recognises its own bundles."""
    return {
        "format": FORMAT,
        "wardround_version": version,
        "fingerprint": fingerprint,
        "digest": digest(arrays),
        "meta": dict(meta),
    }


def write_weights(bundle: Path, arrays: Mapping[str, Array]) -> None:
    """Write models/model.pt: a state dictionary as `torch.save` makes it."""
    file = bundle / WEIGHTS
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {name: torch.from_numpy(np.array(block, np.float32, order="C")) for name, block in arrays.items()},
        file,
    )


def load(
    bundle: Path,
    expected_fingerprint: str | None = None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return (arrays, meta) of a bundle, like `checkpoint.load`.

    ModelRefused is raised when there is no bundle, when it is not ours, damaged or too
    large, when it holds pickled objects, when the weights are not those it was written
    with, and when the architecture is not the expected one (if one is given).
    """
    try:
        entry = read_json(bundle / METADATA)[ENTRY]
        found = str(entry["fingerprint"])
        meta = dict(entry["meta"])
        said = entry["digest"]
        ours = entry["format"] == FORMAT
        arrays = state_dictionary(bundle / WEIGHTS)
        intact = said == digest(arrays)
    except TooMuch as error:
        raise _refused(bundle, f"not readable: {error}") from error
    except MemoryError as error:
        raise _refused(bundle, "more than this machine's memory holds") from error
    except OSError as error:
        raise _refused(
            bundle,
            f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}",
        ) from error
    except DAMAGED as error:
        raise _refused(bundle, f"not readable ({type(error).__name__})") from error
    if not ours:
        raise _refused(bundle, f"format {entry['format']!r}")
    # Format first: another format may compute its digest another way.
    if not intact:
        raise _refused(bundle, "weights that do not match the digest in metadata.json")
    if expected_fingerprint is not None:
        require_fingerprint(found, expected_fingerprint, bundle)
    return arrays, meta


def load_any(
    path: Path,
    expected_fingerprint: str | None = None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return what `load` reads of a folder, or `checkpoint.load` of a file."""
    return (load if path.is_dir() else checkpoint.load)(path, expected_fingerprint)


def _refused(bundle: Path, found: str) -> ModelRefused:
    return ModelRefused(
        f"the bundle {bundle}",
        found=found,
        expected=f"an intact folder of format {FORMAT!r}: {METADATA} and {WEIGHTS}",
        fix="write it again with `wardround export`, or name a file of weights (.npz)",
    )
