"""How is a vision transformer of timm built by name, as a stem and a trunk?

It is built without a download. Only timm's plain VisionTransformer is taken (vit_*,
deit_*, dinov2 and others, `names`), pooled by its class token or by the mean, and made
of layers that have a formula for the gradients of single samples. What computes is
timm's; only the bare parameters (class token, registers, positions, layer scales) move
into layers of their own (vectors.py), and its layer norms become torch's, which compute
the same. `pretrained` is always False: weights come from a local file whose content is
known (weights_file.py), or are drawn.

Sources: Dosovitskiy et al. 2021, arXiv:2010.11929; Touvron et al. 2021,
arXiv:2012.12877; timm (Wightman 2019).
Deviations: 1. There is one input channel: the kernels of a file's three are added up,
as timm does.
"""

from __future__ import annotations

import difflib
import math
from typing import Any, final

import torch
from torch import Tensor, nn

from wardround.core.errors import ConfigRefused
from wardround.models.layer_gradients import formula
from wardround.models.torchvision_adapter import open_torchvision
from wardround.models.vectors import AddVector, Prepend, Scale
from wardround.models.volume_stem import VolumePositions
from wardround.models.weights_file import WeightsFile

POOLS = ("token", "avg")
BARE = {"cls_token", "reg_token", "pos_embed"}
# Parts of published weights that a network without a head does not have.
UNUSED = ("head.", "head_dist.", "mask_token")
KERNELS, POSITIONS = "patch_embed.proj.weight", "pos_embed"
# The largest number of input channels of a file whose kernels are added up.
MOST_CHANNELS = 16


@final
class Trunk(nn.Module):
    """The trunk of a ViT, from patch tokens [R, N, D] to one summary each [R, D].

    Positions, class token, transformer blocks and pooling are as in timm.
    depth: Depth positions [1, T, 1, D]. If they are given, tokens are those of volumes,
        T times the plane's (volume_stem.py).
    """

    def __init__(self, vit: Any, depth: Tensor | None = None) -> None:
        super().__init__()
        prefix = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        self.outside: nn.Module = AddVector(vit.pos_embed) if vit.no_embed_class else nn.Identity()
        self.prefix = Prepend(torch.cat(prefix, 1)) if prefix else nn.Identity()
        self.inside = nn.Identity() if vit.no_embed_class else AddVector(vit.pos_embed)
        if depth is not None:
            own = 0 if vit.no_embed_class else vit.num_prefix_tokens
            self.outside = VolumePositions(vit.pos_embed[:, own:], depth)
            self.prefix = Prepend(torch.cat(prefix, 1) + vit.pos_embed[:, :own]) if own else self.prefix
            self.inside = nn.Identity()
        self.norm_pre = vit.norm_pre
        self.blocks = vit.blocks
        self.norm = vit.norm
        self.fc_norm = vit.fc_norm
        self.skipped = None if vit.global_pool == "token" else sum(token.shape[1] for token in prefix)

    def forward(self, patches: Tensor) -> Tensor:
        tokens = self.inside(self.prefix(self.outside(patches)))
        tokens = self.norm(self.blocks(self.norm_pre(tokens)))
        summary: Tensor = self.fc_norm(
            tokens[:, 0] if self.skipped is None else tokens[:, self.skipped :].mean(1),
        )
        return summary


def names() -> list[str]:
    """Return the names among which `build_vit` looks, without tags of weights."""
    import timm

    return [
        *timm.list_models(module="vision_transformer"),
        *timm.list_models(module="deit"),
    ]


def build_vit(
    name: str,
    size: tuple[int, int],
    depth: int,
    weights: WeightsFile | None,
    patch_size: int | None = None,
) -> Any:
    """Return timm's ViT for one channel of (H, W), without a head.

    name: The name of a ViT of timm.
    depth, patch_size: 0 and None are as timm has them.
    weights: The file to read; None draws from torch's random state.

    ConfigRefused is raised for an unknown name, for patches that do not divide H and W,
    and for parts without a formula for per-sample gradients. ModelRefused is raised for
    a file that is missing, or of another network.
    """
    open_torchvision()
    import timm
    from timm.models.vision_transformer import LayerScale, VisionTransformer

    if name not in (known := names()):
        near = difflib.get_close_matches(name.partition(".")[0], known, 4, 0.3)
        raise _refused(
            "name",
            repr(name),
            f"a ViT of timm without a tag of weights, for example {', '.join(near)}",
        )
    asked = {
        "img_size": size,
        "in_chans": 1,
        "num_classes": 0,
        "dynamic_img_size": False,
    }
    chosen = {key: value for key, value in (("depth", depth), ("patch_size", patch_size)) if value}
    vit: Any = timm.create_model(name, pretrained=False, **asked, **chosen)
    if type(vit) is not VisionTransformer or vit.global_pool not in POOLS or vit.pos_embed is None:
        raise _refused(
            "name",
            f"{name!r} ({type(vit).__name__}, pooled by {getattr(vit, 'global_pool', '?')!r})",
            _PLAIN,
        )
    patch = max(vit.patch_embed.patch_size)
    if any(side % patch for side in size):
        sides = [sorted({max(side // patch, 1) * patch, -(-side // patch) * patch}) for side in size]
        fits = " x ".join(" or ".join(map(str, one)) for one in sides)
        raise _refused("size", f"{size} in patches of {patch}", f"multiples of {patch}: {fits}")
    if weights is not None:
        _load(vit, name, weights)
    _plain_layers(vit, LayerScale)
    for place, part in vit.named_modules():
        owned = {key for key, _ in part.named_parameters(recurse=False)} - (BARE if part is vit else set())
        if owned and (part is vit or formula(part) is None):
            raise _refused(
                "name",
                f"{name!r}, which has {type(part).__name__} at {place!r}",
                _PLAIN,
            )
    return vit


def _plain_layers(module: nn.Module, layer_scale: type[nn.Module]) -> None:
    """Replace timm's layer norms and layer scales by ours, with the same numbers."""
    for name, child in module.named_children():
        if isinstance(child, layer_scale):
            setattr(module, name, Scale(child.gamma))  # type: ignore[arg-type]
        elif isinstance(child, nn.LayerNorm) and type(child).__name__ in (
            "LayerNorm",
            "LayerNormFp32",
        ):
            plain = nn.LayerNorm(child.normalized_shape, child.eps, child.elementwise_affine)
            plain.weight, plain.bias = child.weight, child.bias
            setattr(module, name, plain)
        else:
            _plain_layers(child, layer_scale)


def _load(vit: Any, name: str, file: WeightsFile) -> None:
    from timm.layers import resample_abs_pos_embed

    state = {key: block for key, block in file.tensors()[0].items() if not key.startswith(UNUSED)}
    own = {key: tuple(block.shape) for key, block in vit.state_dict().items()}
    # Shapes are compared before anything is computed: those that the blocks will have.
    shapes = {key: tuple(block.shape) for key, block in state.items()}
    kernels, positions = shapes.get(KERNELS, ()), shapes.get(POSITIONS, ())
    if len(kernels) == 4 and 1 <= kernels[1] <= MOST_CHANNELS:
        shapes[KERNELS] = (kernels[0], 1, *kernels[2:])
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    resampled = positions != own[POSITIONS] and _square(positions, prefix, vit.embed_dim)
    if resampled:
        shapes[POSITIONS] = own[POSITIONS]
    wrong = [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{key} is too much" for key in state if key not in own]
    wrong += [
        f"{key} has shape {shape}, not {own[key]}" for key, shape in shapes.items() if key in own and shape != own[key]
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise file.unfit(
            "; ".join(wrong[:3]) + more,
            f"the weights of timm's {name} with {len(vit.blocks)} blocks",
        )
    # A file for three colours or another size is adapted.
    state = {key: block.float() for key, block in state.items()}
    state[KERNELS] = state[KERNELS].sum(1, keepdim=True)
    if resampled:
        state[POSITIONS] = resample_abs_pos_embed(
            state[POSITIONS],
            list(vit.patch_embed.grid_size),
            num_prefix_tokens=prefix,
        )
    vit.load_state_dict(state)


def _square(positions: tuple[int, ...], prefix: int, width: int) -> bool:
    """Return whether positions [1, prefix + N, D] are those of a square of patches."""
    if len(positions) != 3 or positions[::2] != (1, width):
        return False
    patches = positions[1] - prefix
    return patches > 0 and math.isqrt(patches) ** 2 == patches


_PLAIN = (
    "timm's VisionTransformer with class token or mean pooling, for example vit_tiny_patch16_224, deit_tiny_patch16_224"
)


def _refused(what: str, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the ViT's {what}",
        found=found,
        expected=expected,
        fix="set it with --set model.NAME=VALUE; `wardround jobs settings JOB` lists the names",
    )
