"""Which parameters does a job train, where it trains a part of the network alone?

    affine   the scale and shift of every normalisation layer, every other bias, and
             every layer scale (vectors.Scale): the network's convolutions and matrices
             stay as they are
    head, adapter, norm
             the blocks with this role (roles.py)

No gradient is computed for anything else (per_sample.py). Under differential privacy
few parameters mean little noise: the affine part of the U-Net of the jobs has 556 of
143,685 numbers.
Source: Zaken et al. 2022, arXiv:2106.10199 (BitFit); Bu et al. 2022, arXiv:2210.00036
(DP-BiTFiT).
Deviations: 1. Scales are trained beside the biases: the U-Net's norms would else have
half of their few numbers fixed.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from wardround.core.errors import ModelRefused
from wardround.models.roles import block_roles
from wardround.models.vectors import Scale

PARTS = ("affine", "head", "adapter", "norm")


def trainable_blocks(module: nn.Module, parts: Collection[str]) -> tuple[str, ...]:
    """Return the names of the parameters that these parts hold, in the network's order.

    parts: one or more of PARTS.

    ModelRefused is raised for an unknown part, and for one of which this network has no
    parameter (an adapter in a network without adapters).
    """
    roles = block_roles(module)
    held = {part: _affine(module, roles) if part == "affine" else _with_role(roles, part) for part in parts}
    unknown = sorted(set(parts) - set(PARTS))
    empty = [] if unknown else sorted(part for part, names in held.items() if not names)
    if unknown or empty or not parts:
        raise ModelRefused(
            "the part of the network that a job trains",
            found=f"{(unknown or empty or ['none'])[0]!r}" + (", of which it has no parameter" if empty else ""),
            expected=f"one or more of {', '.join(PARTS)}, each with parameters in this network",
            fix="name other parts, or a network that has them (norms with scales and shifts, adapters)",
        )
    chosen = set().union(*held.values())
    return tuple(name for name in roles if name in chosen)


def _affine(module: nn.Module, roles: dict[str, str]) -> set[str]:
    scales = {f"{owner}.gamma".removeprefix(".") for owner, part in module.named_modules() if isinstance(part, Scale)}
    return {name for name, role in roles.items() if role == "norm" or name.rpartition(".")[2] == "bias"} | scales


def _with_role(roles: dict[str, str], part: str) -> set[str]:
    return {name for name, role in roles.items() if role == part}
