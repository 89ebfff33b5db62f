"""Floor 2: a network's settings as JSON beside its weights, and back. Only the networks listed here are ever built.

A file of weights may come from another building, so a class path inside it is a name to look up, never one to import, and
a path to pretrained weights is dropped: the file brings the weights, and none other is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

from wardround.errors import ConfigRefused, ModelRefused
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.vit import ViTFusion

KNOWN: Mapping[str, Callable[..., UNet3d | SegResNet3d]] = {"UNet3d": UNet3d, "SegResNet3d": SegResNet3d}
Spec = TypeVar("Spec")


def describe(spec: Any) -> dict[str, Any]:
    """Return {"path": class name, "args": settings} of a network's settings (a frozen dataclass)."""
    return {"path": type(spec).__qualname__, "args": asdict(spec)}


def rebuild(description: object, where: str) -> UNet3d | SegResNet3d:
    """Return the settings of a segmentation network that `describe` wrote; `where` is the file they came from.

    another class, unknown or refused settings, no description at all: ModelRefused
    """
    return _rebuilt(description, where, KNOWN)


def rebuild_classifier(description: object, where: str) -> ViTFusion:
    """Return the settings of a classifier that `describe` wrote, without `weights`; refused like `rebuild`."""
    return replace(_rebuilt(description, where, {"ViTFusion": ViTFusion}), weights=None)


def _rebuilt(description: object, where: str, known: Mapping[str, Callable[..., Spec]]) -> Spec:
    try:
        if isinstance(description, Mapping):
            spec: Spec = known[description["path"]](**description["args"])
            return spec
        found = f"a {type(description).__name__}"
    except (KeyError, TypeError, ConfigRefused) as error:
        found = f"settings that cannot be built ({type(error).__name__})"
    raise ModelRefused(
        f"the architecture in {where}",
        found=found,
        expected=f"one of {', '.join(known)} with its settings",
        fix="use a file that this version of wardround wrote",
    )
