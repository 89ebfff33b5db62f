"""Floor 2: a network's settings as JSON beside its weights, and back. Only the networks of nets.py are ever built.

A file of weights may come from another building, so a class path inside it is a name to look up, never one to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from wardround.errors import ConfigRefused, ModelRefused
from wardround.models.nets import SegResNet3d, UNet3d

KNOWN = {"UNet3d": UNet3d, "SegResNet3d": SegResNet3d}


def describe(spec: Any) -> dict[str, Any]:
    """Return {"path": class name, "args": settings} of a network's settings (a frozen dataclass)."""
    return {"path": type(spec).__qualname__, "args": asdict(spec)}


def rebuild(description: object, where: str) -> UNet3d | SegResNet3d:
    """Return the settings that `describe` wrote; `where` is the file they came from.

    another class, unknown or refused settings, no description at all: ModelRefused
    """
    try:
        if isinstance(description, Mapping):
            spec: UNet3d | SegResNet3d = KNOWN[description["path"]](**description["args"])
            return spec
        found = f"a {type(description).__name__}"
    except (KeyError, TypeError, ConfigRefused) as error:
        found = f"settings that cannot be built ({type(error).__name__})"
    raise ModelRefused(
        f"the architecture in {where}",
        found=found,
        expected=f"one of {', '.join(KNOWN)} with its settings",
        fix="use a file that this version of wardround wrote",
    )
