"""How are a network's settings kept as JSON beside its weights, and read again?

Only the networks listed here are ever built, and of MONAI those that monai_network.py
loads. A file of weights may come from another building: a class path inside it is a
name to look up, never one to import, and a path to pretrained weights is dropped,
because the file brings the weights and no other is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from wardround.core.arrays import Arrays
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.blend import Blend
from wardround.models.monai_network import MonaiNetwork
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.vit import ViTFusion

Single = UNet3d | SegResNet3d | MonaiNetwork
Segmenting = Single | Blend
# A class name in a file is looked up here, never imported.
KNOWN: Mapping[str, Callable[..., Single]] = {
    "UNet3d": UNet3d,
    "SegResNet3d": SegResNet3d,
    "MonaiNetwork": MonaiNetwork,
}
# The largest width, and the largest number of repeated parts, that a file may ask for.
LARGEST, LOOPS = 2**14, 64
# Settings lie in lists of lists at most: deeper ones would end Python's stack.
DEEPEST = 8
COUNTED = ("residual_units", "adapter_rank", "depth", "fusion_depth", "modalities")
Spec = TypeVar("Spec")


def describe(spec: Any) -> dict[str, Any]:
    """Return {"path": class name, "args": settings} of a frozen dataclass.

    The network inside a blend is described in the same way.
    """
    if isinstance(spec, Blend):
        args = {"network": describe(spec.network), "share": spec.share, "exclusive": spec.exclusive}
        return {"path": Blend.__qualname__, "args": args}
    return {"path": type(spec).__qualname__, "args": asdict(spec)}


def rebuild(description: object, where: str) -> Segmenting:
    """Return the settings of a segmentation network that `describe` wrote, without `weights`.

    where: The file they came from, for messages.

    ModelRefused is raised for another class, for settings that are unknown or refused,
    and without a description. A blend holds one of the networks of KNOWN, never another
    blend.
    """
    if inside := _inside(description):
        return _blend(description, rebuild_single(inside, where), where, classes=False)
    return rebuild_single(description, where)


def rebuild_single(description: object, where: str) -> Single:
    """Return what `rebuild` returns, and refuse a blend as well."""
    return replace(_rebuilt(description, where, KNOWN), weights=None)


def rebuild_classifier(description: object, where: str) -> ViTFusion | Blend:
    """Return the settings of a classifier that `describe` wrote, without `weights`.

    Refusals are those of `rebuild`; a blend is one of two classifiers.
    """
    if inside := _inside(description):
        return _blend(description, _classifier(inside, where), where, classes=True)
    return _classifier(description, where)


def _classifier(description: object, where: str) -> ViTFusion:
    return replace(_rebuilt(description, where, {"ViTFusion": ViTFusion}), weights=None)


def require_size(spec: Any, arrays: Arrays, where: str) -> None:
    """Raise ModelRefused unless a network's blocks are those of a file.

    No block is made in memory to find out. A description of a few bytes could ask for a
    network of any size: building it would be the harm.
    """
    with torch.device("meta"), _NumbersOnCpu():
        wanted = {name: tuple(block.shape) for name, block in spec.build(0).named_parameters()}
    if wanted != {name: block.shape for name, block in arrays.items()}:
        raise ModelRefused(
            f"weights of another architecture: {where}",
            found=f"a network of {sum(math.prod(shape) for shape in wanted.values())} parameters, and weights for "
            f"{sum(block.size for block in arrays.values())}, or of other shapes",
            expected="the network that the weights were trained in",
            fix="use a file that this version of wardround wrote",
        )


class _NumbersOnCpu(TorchFunctionMode):
    """Keeps torch.linspace on the CPU while a network is built on "meta".

    MONAI's transformers read single numbers of it.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        more = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **more})


def _sound(value: object, most: int = LARGEST, depth: int = DEEPEST) -> bool:
    """Return whether settings from a file are of a size that some network has."""
    if not depth:
        return False
    if isinstance(value, Mapping):
        return all(_sound(one, LOOPS if key in COUNTED else LARGEST, depth - 1) for key, one in value.items())
    if isinstance(value, list):
        return len(value) <= LOOPS and all(_sound(one, most, depth - 1) for one in value)
    return not isinstance(value, int | float) or abs(value) <= most


def _inside(description: object) -> Mapping[str, Any] | None:
    """Return the description of the network in a blend; None for anything else."""
    if not isinstance(description, Mapping) or description.get("path") != Blend.__qualname__:
        return None
    args = description.get("args")
    found = args.get("network") if isinstance(args, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _blend(description: object, member: Single | ViTFusion, where: str, *, classes: bool) -> Blend:
    """Return the blend of a description whose network was rebuilt already."""

    def made(network: object, share: float, exclusive: bool) -> Blend:
        # A blend of classifiers says so itself: otherwise its mean would be another one.
        if exclusive is not classes:
            raise TypeError
        return Blend(member, share, exclusive)

    return _rebuilt(description, where, {Blend.__qualname__: made})


def network_name(description: Mapping[str, Any]) -> str:
    """Return the name of the class that a description names; of a blend, the class of
    its members.
    """
    inside = _inside(description)
    return str(description.get("path") if inside is None else inside.get("path"))


def _rebuilt(description: object, where: str, known: Mapping[str, Callable[..., Spec]]) -> Spec:
    try:
        if isinstance(description, Mapping) and not _sound(description["args"]):
            found = "settings that no network has"
        elif isinstance(description, Mapping):
            spec: Spec = known[description["path"]](**description["args"])
            return spec
        else:
            found = f"a {type(description).__name__}"
    except (KeyError, TypeError, ConfigRefused) as error:
        found = f"settings that cannot be built ({type(error).__name__})"
    raise ModelRefused(
        f"the architecture in {where}",
        found=found,
        expected=f"one of {', '.join(known)} with its settings",
        fix="use a file that this version of wardround wrote",
    )
