"""How is a network of ours written as a plain network of MONAI?

It is the same function, with weights under the same names. Adapters are added into the
kernels, which is what their forward pass does (adapters.py), so nothing is rounded a
second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from wardround.core.arrays import Array
from wardround.core.errors import ModelRefused
from wardround.models.adapters import Adapted, correction
from wardround.models.blend import PARTS, Blend
from wardround.models.monai_network import MonaiNetwork
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.norms import MAX_GROUPS

Spec = UNet3d | SegResNet3d | MonaiNetwork | Blend


def without_adapters(spec: Spec, arrays: Mapping[str, Array]) -> tuple[Spec, dict[str, Array]]:
    """Return settings and weights of the same function without adapters.

    With rank 0 they are what was given. Each member of a blend is treated alone.
    """
    if isinstance(spec, Blend):
        found = [without_adapters(spec.network, _part(arrays, part)) for part in PARTS]
        blocks = {
            f"{part}.{name}": one for part, (_, mine) in zip(PARTS, found, strict=True) for name, one in mine.items()
        }
        return replace(spec, network=found[0][0]), blocks
    if isinstance(spec, MonaiNetwork) or not spec.adapter_rank:
        return spec, dict(arrays)
    module = spec.build(0)
    module.load_state_dict(
        {name: torch.from_numpy(block.copy()) for name, block in arrays.items()},
    )
    folded = {name: block for name, block in arrays.items() if not name.endswith(".up")}
    with torch.no_grad():
        for name, part in module.named_modules():
            if isinstance(part, Adapted):
                folded[f"{name}.weight"] = (part.weight + correction(part)).numpy()
    return replace(spec, adapter_rank=0), folded


def monai_config(spec: Spec, package: str) -> dict[str, Any]:
    """Return the network as MONAI's config language builds it.

    Where possible this is its UNet or SegResNet and nothing else. MONAI cannot describe
    norms whose number of groups differs from layer to layer (norm "group", except in a
    SegResNet of 8 n filters), so `with_group_norms`, under the name
    `package`.models.norms, is put around the network. Nor does MONAI have a blend: it is
    `package`.models.blend.Blended of two such networks. ModelRefused is raised for a
    U-Net that reads a record, which MONAI does not have.
    """
    if columns := int(getattr(spec, "ehr_columns", 0)):
        raise ModelRefused(
            "a network for a MONAI bundle",
            found=f"one that reads {columns} columns of a record",
            expected="one that reads images alone",
            fix="export a model that was trained without `model.ehr_columns`",
        )
    if isinstance(spec, Blend):
        inside = monai_config(spec.network, package)
        return {
            "_target_": f"{package}.models.blend.Blended",
            **{part: dict(inside) for part in PARTS},
            "share": spec.share,
            "exclusive": spec.exclusive,
        }
    if isinstance(spec, MonaiNetwork):
        theirs = {"_target_": spec.network, **spec.args}
        if spec.batch_norms == "refuse":
            return theirs
        return {
            "_target_": f"{package}.models.norms.without_batch_norms",
            "network": theirs,
            "norm": spec.batch_norms,
        }
    args = {key: _listed(value) for key, value in spec.monai_args.items()}
    plain = {
        "_target_": "SegResNet" if isinstance(spec, SegResNet3d) else "UNet",
        **args,
    }
    if spec.norm == "instance":
        return plain
    if isinstance(spec, SegResNet3d) and spec.filters % MAX_GROUPS == 0:
        return plain | {"norm": ["group", {"num_groups": MAX_GROUPS}]}
    return {
        "_target_": f"{package}.models.norms.with_group_norms",
        "network": plain,
        "norm": spec.norm,
    }


def _part(arrays: Mapping[str, Array], part: str) -> dict[str, Array]:
    """Return the blocks of one member of a blend, by their names inside it."""
    return {name[len(part) + 1 :]: one for name, one in arrays.items() if name.startswith(f"{part}.")}


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value
