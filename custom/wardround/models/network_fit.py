"""Does a segmentation network make one logit for each region and voxel?

Ready-made networks do by construction. Any other one is tried on an empty patch when a
job is printed, and again when a site loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wardround.core.errors import ConfigRefused
from wardround.models.flat import FlatModel
from wardround.models.nets import Network, SegResNet3d, UNet3d
from wardround.models.opacus_rows import patient_rows, slow_reason

READY_MADE = (UNet3d, SegResNet3d)


def require_fit(spec: Network, inputs: int, regions: int, patch: Sequence[int]) -> None:
    """Raise ConfigRefused unless [B, inputs, *patch] becomes [B, regions, *patch].

    This must hold in training as in evaluation: deep supervision, which returns several
    outputs in training, is refused.
    """
    if isinstance(spec, READY_MADE):
        found = (spec.in_channels, spec.out_channels)
        if found != (inputs, regions):
            raise _refused(
                f"{found[0]} input and {found[1]} output channels",
                f"{inputs} and {regions}",
                _channels(inputs, regions),
            )
        return
    require_output(spec.build(0), inputs, regions, patch)


def require_output(module: nn.Module, inputs: int, regions: int, patch: Sequence[int]) -> None:
    """Raise ConfigRefused unless the network makes one logit per region and voxel.

    Both modes are tried. The module is left in evaluation mode, torch's global random
    state as it was.
    """
    # A batch of two: norms over the batch alone would refuse a single small volume in training.
    given, wanted = (2, inputs, *patch), (2, regions, *patch)
    for training in (True, False):
        several = False
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                made = module.train(training)(torch.zeros(given))
            # MONAI's DynUNet stacks the outputs of deep supervision on an axis of their own.
            several = isinstance(made, list | tuple) or made.dim() == len(wanted) + 1
            found = _words(made)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
            AttributeError,
            ImportError,
        ) as error:
            found = f"an error of the network: {str(error).partition(chr(10))[0][:200]}"
        finally:
            module.eval()
        if found != f"shape {wanted}":
            mode = "in training" if training else "in evaluation"
            fix = f"{_channels(inputs, regions)}, and another sampling.patch if its sides do not fit"
            if several:
                fix = "switch deep supervision off (DynUNet: `--set model.args.deep_supervision=false`, SegResNetDS: "
                fix += "`--set model.args.dsdepth=1`), or name a network with one output"
            raise _refused(
                f"{found}, {mode}",
                f"shape {wanted} (batch, regions, patch) for an input of {given}",
                fix,
            )


def require_private(spec: Network, inputs: int, patch: Sequence[int]) -> None:
    """Raise ModelRefused unless per-sample gradients can be computed.

    Patient-level DP needs them. Refused are layers that mix patients, and inputs
    changed in place (per_sample.py, opacus_rows.py).
    """
    model = FlatModel(spec.build(0))
    images = torch.randn(3, inputs, *patch, generator=torch.Generator().manual_seed(0))
    patient_rows(model).require_exact(images.contiguous(memory_format=torch.channels_last_3d))


def slow_road(spec: Network) -> str | None:
    """Return the layer for which per-sample gradients go by Opacus, None if none does."""
    return None if isinstance(spec, READY_MADE) else slow_reason(FlatModel(spec.build(0)))


def _words(made: Any) -> str:
    if isinstance(made, Tensor):
        return f"shape {tuple(made.shape)}"
    many = f" of {len(made)} outputs" if isinstance(made, list | tuple) else ""
    return f"a {type(made).__name__}{many}"


def _channels(inputs: int, regions: int) -> str:
    return (
        f"give it {inputs} input and {regions} output channels under the names that it has for them "
        f"(`--set model.in_channels={inputs} --set model.out_channels={regions}`)"
    )


def _refused(found: str, expected: str, fix: str) -> ConfigRefused:
    return ConfigRefused(
        "the job's network, given one patch",
        found=found,
        expected=expected,
        fix=fix,
    )
