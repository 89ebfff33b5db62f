"""How does one network read any subset of a patient's images and table columns?

Every modality goes through one trunk of timm's (timm_vit.py) as a stream of its own: a
stem (timm's patch embedding, or the convolutions of conv_stem.py; one for all, or one
each), then the shared blocks, which give one summary token per image, or per slice of a
volume, or, with tubelets (volume_stem.py), per whole volume. The summaries of all
modalities, with a learned vector for the modality (and the slice), the token of the EHR
branch and a fusion token attend to each other, absent ones masked; the fusion token
goes to the head. The input is one vector per patient (case_vector.py). There is no
dropout here: modality dropout is done by the task when it draws a batch, so a step is a
function of its batch.

Sources: timm_vit.py; conv_stem.py; volume_stem.py; Nagrani et al. 2021,
arXiv:2107.00135 (fusion late, through few tokens); Neverova et al. 2015,
arXiv:1501.00102 (modality dropout).
Deviations: 1. Streams meet as summary tokens only, not as patch tokens. 2. The trunk is
shared by the modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.core.errors import ConfigRefused
from wardround.models.case_vector import CaseVector, is_count
from wardround.models.conv_stem import ConvStem, halvings
from wardround.models.nets import require_federable, seeded
from wardround.models.timm_vit import Trunk, build_vit
from wardround.models.vectors import AddVector, Prepend
from wardround.models.volume_stem import VolumeStem
from wardround.models.weights_file import WeightsFile

Stems = Literal["shared", "separate"]
Stem = Literal["patch", "conv"]
# The standard deviation with which ViT parameters are drawn, as in timm.
STD = 0.02


@final
@dataclass(frozen=True)
class ViTFusion:
    """A timm ViT per modality, fused with columns: [B, case.length] to [B, classes].

    name: The ViT of timm; without modalities it sets the width only.
    modalities: The number of images; 0 means no trunk.
    size: (H, W), or (D, H, W) for volumes.
    columns, classes: The number of values read, and of logits made.
    stems: "shared", or "separate" for one stem per modality.
    depth: Blocks of the trunk, 0 for as many as timm has.
    fusion_depth: Fusion blocks, at least 1.
    weights: {file, sha256} for stem and trunk (weights_file.py); None draws from the
        seed. A file of another patch is refused.
    patch: Pixels per side of a patch; None is as timm has it.
    tubelet: Planes in a patch of a volume; None goes slice by slice.
    stem: "patch" for timm's patch embedding, "conv" for conv_stem.py, which has no
        tubelets, takes no file of weights, and needs a patch of 2, 4, 8, ... pixels.

    Values outside their ranges raise ConfigRefused. An unknown name, and sizes that the
    patches do not divide, raise it in `build`.
    """

    name: str
    modalities: int
    size: tuple[int, ...]
    columns: int
    classes: int
    stems: Stems
    depth: int = 0
    fusion_depth: int = 1
    weights: Mapping[str, str] | None = None
    patch: int | None = None
    tubelet: int | None = None
    stem: Stem = "patch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.case.size)
        if not isinstance(self.name, str) or not self.name:
            raise _refused(
                "name",
                self.name,
                "the name of a ViT of timm, for example 'vit_tiny_patch16_224'",
            )
        for what, least in (("classes", 2), ("depth", 0), ("fusion_depth", 1)):
            if not is_count(getattr(self, what), least):
                raise _refused(what, getattr(self, what), f"a whole number, {least} or more")
        for what, words in (("stems", get_args(Stems)), ("stem", get_args(Stem))):
            if getattr(self, what) not in words:
                raise _refused(what, getattr(self, what), " or ".join(map(repr, words)))
        if self.patch is not None and not is_count(self.patch, 1):
            raise _refused(
                "patch",
                self.patch,
                "a whole number above 0, or null for the patch of `name`",
            )
        volume = len(self.size) == 3
        if self.tubelet is not None and not (is_count(self.tubelet, 1) and volume and self.size[0] % self.tubelet == 0):
            expected = "null, or a whole number that divides D of a size (D, H, W)"
            raise _refused("tubelet", f"{self.tubelet} for size {self.size}", expected)
        self._require_stem()
        if self.weights is not None and not self.modalities:
            raise _refused("weights", self.weights, "null, or at least one modality")
        if self.weights is not None:
            WeightsFile.of(self.weights)

    def _require_stem(self) -> None:
        if self.stem != "conv":
            return
        if self.tubelet is not None:
            raise _refused("tubelet", f"{self.tubelet} with stem conv", "null, as the convolutions read slice by slice")
        if self.weights is not None:
            # A file would start the blocks only, behind a stem that they were not trained with.
            raise _refused("weights", f"{self.weights} with stem conv", "null, or stem patch, which the file is for")
        if self.patch is not None and halvings(self.patch) is None:
            raise _refused("patch", f"{self.patch} with stem conv", "2, 4, 8, 16 or another power of 2, or null")

    @property
    def case(self) -> CaseVector:
        """The layout of a patient's vector."""
        return CaseVector(self.modalities, self.size, self.columns)

    def build(self, seed: int) -> ViTFusionNet:
        """Return the network on the CPU; torch's global random state stays as it was.

        This takes seconds, because timm is imported.
        """
        height, width = self.size[-2:]

        def make() -> ViTFusionNet:
            weights = None if self.weights is None else WeightsFile.of(self.weights)
            return ViTFusionNet(
                self,
                build_vit(self.name, (height, width), self.depth, weights, self.patch),
            )

        net = seeded(make, seed)
        require_federable(net)
        return net


@final
class ViTFusionNet(nn.Module):
    """The network that ViTFusion builds; its head is `head`."""

    def __init__(self, spec: ViTFusion, vit: Any) -> None:
        super().__init__()
        self.case = spec.case
        width = int(vit.embed_dim)
        heads = next(int(part.num_heads) for part in vit.blocks.modules() if hasattr(part, "num_heads"))
        self.slices = 1 if len(spec.size) == 2 or spec.tubelet else spec.size[0]
        self.plane = spec.size if spec.tubelet else spec.size[-2:]
        self.signature = f"{spec.case} {spec.stems} {vit.patch_embed.patch_size} {vit.global_pool} {heads}"
        if spec.modalities:
            # This order is that of the draws: other weights would follow from the same seed.
            stem = _stem(spec, vit.patch_embed, width)
            depth = _drawn(1, spec.size[0] // spec.tubelet, 1, width) if spec.tubelet else None
            self.stems = nn.ModuleList(_stems(spec, stem))
            self.trunk = Trunk(vit, depth)
            self.modality = AddVector(_drawn(1, spec.modalities, 1, width))
            self.slice = AddVector(_drawn(1, 1, self.slices, width)) if self.slices > 1 else nn.Identity()
        if spec.columns:
            self.ehr = nn.Sequential(
                nn.Linear(2 * spec.columns, width),
                nn.GELU(),
                nn.Linear(width, width),
            )
        self.token = Prepend(_drawn(1, 1, width))
        self.fusion = nn.ModuleList(FusionBlock(width, heads) for _ in range(spec.fusion_depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.classes)
        for part in [*self.fusion.modules(), self.head]:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=STD)
                nn.init.zeros_(part.bias)

    def forward(self, flat: Tensor) -> Tensor:
        case = self.case.unpack(flat)
        tokens, shown = [], [flat.new_ones(len(flat), 1)]
        if self.case.modalities:
            tokens.append(self.slice(self.modality(self._summaries(case.images))).flatten(1, 2))
            shown.append(case.presence.repeat_interleave(self.slices, 1))
        if self.case.columns:
            tokens.append(self.ehr(torch.cat([case.values, case.known], 1))[:, None])
            shown.append(case.known.amax(1, keepdim=True))
        fused = self.token(torch.cat(tokens, 1))
        mask = (torch.cat(shown, 1) > 0)[:, None, None]
        for block in self.fusion:
            fused = block(fused, mask)
        logits: Tensor = self.head(self.norm(fused[:, 0]))
        return logits

    def _summaries(self, images: Tensor) -> Tensor:
        """Return summaries [B, M, S, D] of [B, M, H, W] or [B, M, S, H, W].

        S is 1 with tubelets. The rows of the trunk are patients first.
        """
        rows, modalities = len(images), self.case.modalities
        planes = images.reshape(rows, modalities, self.slices, 1, *self.plane)
        if len(self.stems) == 1:
            patches = self.stems[0](planes.flatten(0, 2))
        else:
            streams = [stem(planes[:, index].flatten(0, 1)) for index, stem in enumerate(self.stems)]
            each = torch.stack(
                [stream.unflatten(0, (rows, self.slices)) for stream in streams],
                1,
            )
            patches = each.flatten(0, 2)
        summaries: Tensor = self.trunk(patches).reshape(rows, modalities, self.slices, -1)
        return summaries


@final
class FusionBlock(nn.Module):
    """A transformer block (norms first) over tokens [B, T, D].

    The tokens attend to what `mask` [B, 1, 1, T] shows.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.act = nn.GELU()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return out


def _stem(spec: ViTFusion, patches: Any, width: int) -> nn.Module:
    """Return one stem of these settings; patches: timm's patch embedding."""
    if spec.stem == "conv":
        side = max(patches.patch_size)
        layers = halvings(side)
        if layers is None:
            raise _refused("patch", f"{side} of {spec.name} with stem conv", "2, 4, 8, 16 or another power of 2")
        return ConvStem(width, layers)
    if spec.tubelet:
        return VolumeStem(patches, spec.tubelet, inflate=spec.weights is not None)
    made: nn.Module = patches
    return made


def _stems(spec: ViTFusion, stem: nn.Module) -> list[nn.Module]:
    """Return one stem for all modalities, or one for each.

    Copies would start alike; drawn weights differ by stem, weights of a file do not.
    A shared stem draws for the others too, so that what is drawn behind it does not
    depend on `stems`.
    """
    others = [deepcopy(stem) for _ in range(spec.modalities - 1)]
    if spec.weights is None:
        for part in (part for other in others for part in other.modules()):
            if isinstance(part, nn.Conv2d | nn.Conv3d):
                part.reset_parameters()
    return [stem, *others] if spec.stems == "separate" else [stem]


def _drawn(*shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=STD)


def _refused(what: str, found: object, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the network's {what}",
        found=repr(found),
        expected=expected,
        fix="set it with --set model.NAME=VALUE; `wardround jobs settings JOB` lists the names",
    )
