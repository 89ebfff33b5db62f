"""Is a parameter block head, norm, adapter or body? So it is known what stays home.

    norm     the scale and shift of every normalisation layer, wherever it is, the
             head included (FedBN needs all of them)
    adapter  the trained half (`up`) of every adapter (adapters.py), wherever it is,
             the head included: one small part
    head     everything else in the last block. U-Net: the last up step (transposed
             convolution and output unit). SegResNet: the last up sample, the last up
             layer and the final convolution. ViT: `head`. Any other network: the last
             module that owns parameters and is no norm (without its adapter)
    body     the rest

FedRep keeps the head home. The head's own norms are few numbers; a job that wants them
home too asks for head and norm. `head_weights` and `body_weights` are the head and the
body without their biases: what is then left to share are scales, shifts and biases.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from wardround.core.arrays import Layout
from wardround.core.errors import ModelRefused
from wardround.models.adapters import Adapted

# The algorithm's own variables; any other one is a baseline's.
OWN_VARIABLES = ("model", "control")
# Roles less their biases, as a list of roles that stay home may name them.
WEIGHTS = {"head_weights": "head", "body_weights": "body"}
NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)


def block_roles(module: nn.Module) -> dict[str, str]:
    """Return the role of every parameter name, in the order of the parameters.

    ModelRefused is raised for a network without a head (no parameters outside norms).
    """
    norms = {
        f"{owner}.{name}".removeprefix(".")
        for owner, part in module.named_modules()
        if isinstance(part, NORMS)
        for name, _ in part.named_parameters(recurse=False)
    }
    adapters = {f"{owner}.up".removeprefix(".") for owner, part in module.named_modules() if isinstance(part, Adapted)}
    small = dict.fromkeys(norms, "norm") | dict.fromkeys(adapters, "adapter")
    names = [name for name, _ in module.named_parameters()]
    prefixes = _head_prefixes(module, [name for name in names if name not in norms])
    return {name: small.get(name) or ("head" if name.startswith(prefixes) else "body") for name in names}


def stays_home(name: str, role: str, home_roles: Sequence[str]) -> bool:
    """Return whether a block of this name and role stays home.

    home_roles: roles, and words of WEIGHTS.
    """
    bias = name.rpartition(".")[2] == "bias"
    return role in home_roles or (not bias and f"{role}_weights" in home_roles)


def shared_layout(module: nn.Module, home_roles: Sequence[str]) -> Layout:
    """Return names and shapes of the blocks whose role does not stay home.

    They are in the order of the parameters; there may be none.
    """
    roles = block_roles(module)
    shapes = {
        name: tuple(p.shape) for name, p in module.named_parameters() if not stays_home(name, roles[name], home_roles)
    }
    return Layout(tuple(shapes), tuple(shapes.values()))


def update_layout(
    module: nn.Module,
    variables: Sequence[str],
    home_roles: Sequence[str],
) -> Layout:
    """Return names (`variable:block`) and shapes of the blocks that an update holds.

    Of the algorithm's own variables these are the blocks that do not stay home, of a
    baseline's variable all blocks.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for variable in variables:
        shared = shared_layout(module, home_roles if variable in OWN_VARIABLES else ())
        shapes |= {f"{variable}:{name}": shape for name, shape in zip(shared.names, shared.shapes, strict=True)}
    return Layout(tuple(shapes), tuple(shapes.values()))


def _head_prefixes(module: nn.Module, names: list[str]) -> tuple[str, ...]:
    kind = type(module).__name__
    unet = kind in ("UNet", "FilmUNet")
    levels = getattr(module, "model" if unet else "up_layers", None)
    if unet and isinstance(levels, nn.Sequential):
        return (f"model.{len(levels) - 1}.",)
    if kind == "SegResNet" and isinstance(levels, nn.ModuleList):
        return (
            f"up_layers.{len(levels) - 1}.",
            f"up_samples.{len(levels) - 1}.",
            "conv_final.",
        )
    if kind == "ViTFusionNet":
        return ("head.",)
    if not names:
        raise ModelRefused(
            "a network without a head",
            found="no parameters outside normalisation layers",
            expected="at least one",
            fix="use a network with a final convolution",
        )
    owner, dot, _ = names[-1].rpartition(".")
    return (owner + dot,)
