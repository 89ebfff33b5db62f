"""Which architecture is this? Weights load only into the network they come from.

Networks have the same fingerprint when the same weights give the same function in eval
mode. It covers the class, every leaf layer with the settings that change its function
(`SETTINGS`; of an adapter also the digest of its fixed numbers), names, shapes and
dtypes of the parameters, and the `signature` of a network that has one: what no single
layer shows. It does not depend on weights, device or dropout, or on how a version of
torch prints a layer.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from wardround.models.nets import Network

# Settings of a layer that change its function and do not show in shapes.
SETTINGS = (
    "kernel_size",
    "stride",
    "padding",
    "output_padding",
    "dilation",
    "groups",
    "num_groups",
    "eps",
    "scale_factor",
    "mode",
    "down_digest",
)


def fingerprint(network: nn.Module | Network) -> str:
    """Return 16 hexadecimal digits for a network, or for settings, built first."""
    module = network if isinstance(network, nn.Module) else network.build(0)
    layers = [
        [
            name,
            type(part).__name__,
            [[key, str(getattr(part, key))] for key in SETTINGS if hasattr(part, key)],
        ]
        for name, part in module.named_modules()
        if next(part.children(), None) is None and not isinstance(part, nn.modules.dropout._DropoutNd | nn.Identity)
    ]
    blocks = [[name, list(block.shape), str(block.dtype)] for name, block in module.named_parameters()]
    whole = [module.signature] if isinstance(getattr(module, "signature", None), str) else []
    text = json.dumps([type(module).__name__, layers, blocks, *whole], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
