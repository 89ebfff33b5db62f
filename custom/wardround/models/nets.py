"""Which networks are ready-made? MONAI's U-Net and SegResNet, as frozen settings.

`in_channels` and `out_channels` are the task's (tasks/task.py): an image and a flag for
each channel, a logit for each region. By default they are those of the brain tumour
task: four images and their flags, three regions.

Every normalisation is a `GroupNorm` with its own scale and shift. "instance" is
GroupNorm with one group per channel: the same numbers as InstanceNorm3d, but it keeps
activations in channels_last_3d, so that contiguous weights run at full speed on a CPU
(a training step of the U-Net takes about .75 of the time). "group" takes as many groups
as divide the channels, 8 at most.

`weights` names a file from which they start (warm_start.py); without one they are drawn
from the job's seed. `ehr_columns` above 0 gives the U-Net a patient's table columns, as 2 F more channels
(film.py). `adapter_rank` above 0 gives every convolution a low-rank adapter
(adapters.py); the other weights start the same.

Sources: Cicek et al. 2016, arXiv:1606.06650; Kerfoot et al. 2018 (residual U-Net);
Myronenko 2018, arXiv:1810.11654.
Deviations: 1. the norms above. 2. SegResNet has no variational branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.adapters import Adapted, adapt, is_as_drawn
from wardround.models.film import FilmUNet
from wardround.models.monai_unet import UNet
from wardround.models.norms import AFFINE_INSTANCE, Norm, with_group_norms
from wardround.models.warm_start import started
from wardround.models.weights_file import WeightsFile

Made = TypeVar("Made", bound=nn.Module)


class Network(Protocol):
    """Settings of one architecture."""

    def build(self, seed: int) -> nn.Module:
        """Return the network on the CPU; weights depend on the seed only."""


@dataclass(frozen=True)
class UNet3d:
    """MONAI's residual 3D U-Net, with stride 2 between levels.

    channels: The width of each level, at least two.
    residual_units: Residual units per level, 0 or more.
    norm: "instance" or "group".
    dropout: At least 0 and below 1.
    adapter_rank, ehr_columns: 0 for none.
    in_channels, out_channels: Those of the task.
    weights: A file and its SHA-256 (weights_file.py); None draws from the seed.

    ConfigRefused is raised for values outside these ranges.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    residual_units: int = 1
    norm: Norm = "instance"
    dropout: float = 0.0
    adapter_rank: int = 0
    ehr_columns: int = 0
    in_channels: int = 8
    out_channels: int = 3
    weights: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if len(self.channels) < 2 or not all(_is_count(width, 1) for width in self.channels):
            raise _refused(
                "channels",
                self.channels,
                "at least two whole numbers above 0, for example [16, 32, 64]",
            )
        if not _is_count(self.residual_units, 0):
            raise _refused("residual_units", self.residual_units, "a whole number, 0 or more")
        if not _is_count(self.ehr_columns, 0):
            raise _refused(
                "ehr_columns",
                self.ehr_columns,
                "a whole number, 0 or more (0: images alone)",
            )
        _check_common(self.norm, self.dropout, self.adapter_rank)
        _check_ends(self.in_channels, self.out_channels, self.weights)

    @property
    def divisor(self) -> int:
        """The number of which every spatial size of an input must be a multiple."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def monai_args(self) -> dict[str, Any]:
        """The arguments with which MONAI's UNet is the same network, before its norms are replaced."""
        return {
            "spatial_dims": 3,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "channels": self.channels,
            "strides": (2,) * (len(self.channels) - 1),
            "num_res_units": self.residual_units,
            "norm": AFFINE_INSTANCE,
            "dropout": self.dropout,
        }

    def build(self, seed: int) -> nn.Module:
        """Return the network on the CPU; torch's global random state stays as it was.

        ModelRefused is raised for `weights` that are missing or do not fit.
        """

        def make() -> nn.Module:
            net: nn.Module = UNet(self.in_channels, self.out_channels, self.channels, self.residual_units, self.dropout)
            return FilmUNet(net, len(self.channels), self.channels[-1], self.ehr_columns) if self.ehr_columns else net

        return _built(make, seed, self)


@dataclass(frozen=True)
class SegResNet3d:
    """MONAI's SegResNet: four levels of 1, 2, 2 and 4 residual blocks.

    filters: The channels of the first level, at least 1.
    norm, dropout, adapter_rank, in_channels, out_channels, weights: As in UNet3d.

    ConfigRefused is raised for values outside their ranges.
    """

    filters: int = 16
    norm: Norm = "group"
    dropout: float = 0.0
    adapter_rank: int = 0
    in_channels: int = 8
    out_channels: int = 3
    weights: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.filters, 1):
            raise _refused("filters", self.filters, "a whole number above 0")
        _check_common(self.norm, self.dropout, self.adapter_rank)
        _check_ends(self.in_channels, self.out_channels, self.weights)

    @property
    def divisor(self) -> int:
        return 8

    @property
    def monai_args(self) -> dict[str, Any]:
        """The arguments of MONAI's SegResNet, before its norms are replaced."""
        return {
            "spatial_dims": 3,
            "init_filters": self.filters,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "norm": AFFINE_INSTANCE,
            "dropout_prob": self.dropout or None,
        }

    def build(self, seed: int) -> nn.Module:
        """Return the network on the CPU; torch's global random state stays as it was.

        ModelRefused is raised for `weights` that are missing or do not fit.
        """

        def make() -> nn.Module:
            from monai.networks.nets import SegResNet

            net: nn.Module = SegResNet(**self.monai_args)
            return net

        return _built(make, seed, self)


def require_federable(module: nn.Module) -> None:
    """Raise ModelRefused if sites would disagree although their parameters agree.

    Refused are BatchNorm of any kind, running statistics, parameters that are not
    float32, and any other floating-point buffer, which could drift and does not travel.
    Integer buffers (index tables) are accepted. The fixed projection of an adapter is
    accepted while it is what its place draws, which is the same at every site.
    """
    drawn = {
        f"{name}.down".removeprefix(".")
        for name, part in module.named_modules()
        if isinstance(part, Adapted) and is_as_drawn(part)
    }
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise _not_federable(f"{type(part).__name__} at {name!r}")
    for name, buffer in module.named_buffers():
        if (buffer.is_floating_point() and name not in drawn) or name.endswith(
            "num_batches_tracked",
        ):
            raise _not_federable(f"buffer {name!r}")
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise _not_federable(f"parameter {name!r} of {parameter.dtype}")


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """Return what `make` builds from this seed.

    The global random state of torch is left as it was.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        return make()
    finally:
        torch.default_generator.set_state(state)


def _built(make: Callable[[], nn.Module], seed: int, spec: UNet3d | SegResNet3d) -> nn.Module:
    net = with_group_norms(seeded(make, seed), spec.norm)
    adapt(net, spec.adapter_rank)
    require_federable(net)
    return started(net, spec)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_common(norm: str, dropout: float, adapter_rank: object) -> None:
    if norm not in ("instance", "group"):
        raise _refused(
            "norm",
            norm,
            "'instance' or 'group' (no batch norm: its statistics differ between sites)",
        )
    if not 0 <= dropout < 1:
        raise _refused("dropout", dropout, "a number in [0, 1)")
    if not _is_count(adapter_rank, 0):
        raise _refused(
            "adapter_rank",
            adapter_rank,
            "a whole number, 0 or more (0: no adapters)",
        )


def _check_ends(inputs: object, outputs: object, weights: object) -> None:
    if weights is not None:
        WeightsFile.of(weights)
    if not (_is_count(inputs, 1) and _is_count(outputs, 1)):
        raise _refused(
            "channels in and out",
            (inputs, outputs),
            "two whole numbers above 0, those of the job's task",
        )


def _refused(what: str, found: object, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the network's {what}",
        found=repr(found),
        expected=expected,
        fix="set it with --set model.NAME=VALUE; `wardround jobs settings JOB` lists the names",
    )


def _not_federable(found: str) -> ModelRefused:
    return ModelRefused(
        "a network that cannot be federated",
        found=found,
        expected="float32 parameters, GroupNorm or InstanceNorm without running statistics, no floating-point buffers",
        fix="replace BatchNorm by nn.GroupNorm and make state a parameter",
    )
