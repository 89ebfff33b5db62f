"""Which named blocks does a network have, as units that become shared or personal?

There are 8 to 30 of them. A norm, an adapter and a layer scale belong to the block in
which they sit.

    ViT        stem (patches, positions, class token); every transformer block of the
               trunk (the last with the trunk's final norm), in two, attention and
               mlp, where there are fewer than 8, in groups of neighbours where there
               are more than 24; fusion (with modalities and slices); ehr; head (with
               the norm before it)
    U-Net      every convolution with the norm and activation behind it; the units of
               a level together where that makes more than 30; ehr (film.py)
    SegResNet  every residual block and every convolution that changes the
               resolution, the first and the last
    others     the outermost modules, which may be fewer than 8 or more than 30
"""

from __future__ import annotations

import re

from torch import nn

# More blocks than this make a mask costly to choose and hard to read.
MOST = 30
_TRUNK = re.compile(r"trunk\.blocks\.(\d+)\.(?:(attn|norm1|ls1)|(?:mlp|norm2|ls2))\b")
_FIRST = (
    "stems.",
    "trunk.outside.",
    "trunk.prefix.",
    "trunk.inside.",
    "trunk.norm_pre.",
)
_LAYER = re.compile(r"(\.conv)?\.(weight|bias|up)$|\.adn\..*$")
_UNIT = re.compile(r"\.conv\.unit\d+$|\.residual$")
_RESIDUAL = re.compile(
    r"((?:down_layers|up_layers)\.\d+\.\d+|up_samples\.\d+|convInit|conv_final)\.",
)


def blocks_of(module: nn.Module) -> dict[str, str]:
    """Return the block of every parameter name, in the order of the parameters."""
    names = [name for name, _ in module.named_parameters()]
    kind = type(module).__name__
    if kind == "ViTFusionNet":
        depth = len({found[1] for name in names if (found := _TRUNK.match(name))})
        return {name: _of_vit(name, depth) for name in names}
    if kind in ("UNet", "FilmUNet"):
        fine = {name: "ehr" if name.startswith("film.") else _LAYER.sub("", name) for name in names}
        coarse = {name: _UNIT.sub("", block) for name, block in fine.items()}
        return fine if len(set(fine.values())) <= MOST else coarse
    blocks = {name: found[1] for name in names if (found := _RESIDUAL.match(name))}
    if kind == "SegResNet" and len(blocks) == len(names):
        return blocks
    return _by_place(names)


def _by_place(names: list[str]) -> dict[str, str]:
    """Return the blocks of any network: the outermost level with at least two modules."""
    deepest = max((name.count(".") for name in names), default=0)
    for depth in range(1, deepest + 1):
        found = {name: ".".join(name.split(".")[:-1][:depth]) or name for name in names}
        if len(set(found.values())) > 1:
            return found
    return {name: name.rpartition(".")[0] or name for name in names}


def _of_vit(name: str, depth: int) -> str:
    if found := _TRUNK.match(name):
        index, attention = int(found[1]), found[2]
        return _name(index, depth, "attention" if attention else "mlp")
    if name.startswith(_FIRST):
        return "stem"
    if name.startswith("trunk."):
        return _name(depth - 1, depth, "mlp")
    if name.startswith(("head.", "norm.")):
        return "head"
    return "ehr" if name.startswith("ehr.") else "fusion"


def _name(index: int, depth: int, half: str) -> str:
    group = -(-depth // 24)
    return f"block{index // group}" if depth >= 8 else f"block{index}.{half}"
