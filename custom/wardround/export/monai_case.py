"""Which parts does a bundle's inference.json name? A case in, a mask out.

The steps are those of `wardround predict`. A bundle carries this file and what it
imports, so it asks for MONAI, torch and nibabel only, and for scipy where a model keeps
the largest part of a region; nothing here may need more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround.core.arrays import Array
from wardround.core.bounded import TooMuch
from wardround.core.errors import ConfigRefused
from wardround.data.cases import find_cases
from wardround.data.layouts import CaseFiles, unused_files
from wardround.data.volumes import read_images, write_mask
from wardround.models.norms import with_group_norms
from wardround.models.stored_arrays import DAMAGED, state_dictionary
from wardround.tasks.components import filter_from_json
from wardround.tasks.inference import predict_logits
from wardround.tasks.inputs import network_input
from wardround.tasks.task import task_from_json


class Dataset(Protocol):
    """What MONAI's Dataset is: items that were preprocessed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def cases(folder: str, task: Mapping[str, Any]) -> list[CaseFiles]:
    """Return the cases in a folder, which may itself be one; no masks are needed.

    Refusals are those of find_cases.
    """
    return list(
        find_cases(
            Path(folder),
            require_seg=False,
            source=task_from_json(task, "the bundle").source,
        )
    )


def ready(network: nn.Module, norm: str, weights: str, device: str) -> nn.Module:
    """Return the network with its weights on the device, for evaluation.

    norm: instance or group for the ready-made networks, whose norms become GroupNorm as
        in training (nets.py); any other word keeps norms as built.

    ConfigRefused is raised for a file that is damaged or states sizes that it has not,
    for too many or too few parameters, other shapes, and numbers that are not finite.
    """
    # By parameters, not by the state dictionary: some networks hold a layer under two names (DynUNet), or index tables.
    wanted = dict(network.named_parameters())
    found = _state_of(weights)
    shapes = {name: tuple(one.shape) for name, one in wanted.items()}
    if shapes != {name: one.shape for name, one in found.items()}:
        raise _refused(weights, f"{len(found)} blocks that do not fit the network's {len(wanted)}")
    with torch.no_grad():
        for name, block in wanted.items():
            block.copy_(torch.from_numpy(found[name]))
    kept = network if norm not in ("instance", "group") else with_group_norms(network, norm)  # type: ignore[arg-type]
    return kept.to(device).eval()


def _state_of(weights: str) -> dict[str, Array]:
    """Return the parameters in a file that may have been anywhere: nothing in it is
    unpickled, and no size that it states is trusted (models/stored_arrays.py).
    """
    try:
        found = state_dictionary(Path(weights))
    except (OSError, MemoryError, *DAMAGED) as error:
        why = str(error) if isinstance(error, TooMuch) else type(error).__name__
        raise _refused(weights, f"not readable ({why})") from error
    wrong = [name for name, block in found.items() if not np.isfinite(block).all()]
    if wrong:
        first = wrong[0][:100]
        raise _refused(weights, f"{len(wrong)} blocks with numbers that are not finite, the first is {first}")
    return found


def _refused(weights: str, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the weights {weights}",
        found=found,
        expected="the weights that were written with this bundle",
        fix="export the bundle again with `wardround export`",
    )


@dataclass(frozen=True)
class ReadCase:
    """Reads CaseFiles into {"image": ..., "case": the files, "spacing_mm": voxel sides}.

    The image is float32 [2 C, H, W, D] in RAS: C images, and which of them exist.
    """

    def __call__(self, files: CaseFiles) -> dict[str, Any]:
        volume = read_images(files)
        image = torch.from_numpy(np.asarray(volume.image, np.float32))[None]
        return {
            "image": network_input(image, torch.from_numpy(volume.present))[0],
            "case": files,
            "spacing_mm": tuple(volume.spacing_mm),
        }


@dataclass(frozen=True)
class CaseInferer:
    """Makes logits [1, R, H, W, D] of an input [1, 2 C, H, W, D].

    There is one for each region of the task (tasks/inference.py).
    patch: The size of the windows; None takes one window.
    """

    patch: Sequence[int] | None
    device: str
    task: Mapping[str, Any]

    def __call__(self, inputs: Tensor, network: nn.Module) -> Tensor:
        image: NDArray[np.float32] = inputs[0].cpu().numpy()
        task = task_from_json(self.task, "the bundle")
        many, regions = len(task.inputs.names), len(task.outputs.names)
        found = predict_logits(
            network,
            image[:many],
            image[many:, 0, 0, 0] > 0,
            self.patch,
            self.device,
            regions,
            mirrored=task.mirrored,
        )
        return torch.from_numpy(found)[None]


@dataclass(frozen=True)
class WriteMask:
    """Writes <case>_mask.nii.gz and returns its path.

    The mask has the axes, shape and affine of the case's first image.
    known: The kind of labels that the model was trained on. A label_kind with more
        regions raises ConfigRefused.
    region_filter: What is dropped from the regions, as tasks/components.py writes it.
    notice: What the header of every mask says about the model.
    """

    folder: str
    label_kind: str
    enhancing: int
    known: str
    task: Mapping[str, Any]
    region_filter: Mapping[str, Any] = field(default_factory=dict)
    notice: str = ""

    def __post_init__(self) -> None:
        kinds = task_from_json(self.task, "the bundle").outputs.kinds
        if not set(kinds.get(self.label_kind, ("?",))) <= set(kinds[self.known]):
            raise ConfigRefused(
                f"--label_kind {self.label_kind}",
                found=f"a model of {', '.join(kinds[self.known])}: nobody trained other regions",
                expected=self.known,
                fix="leave it out",
            )

    def __call__(self, item: Mapping[str, Any]) -> Path:
        files: CaseFiles = item["case"]
        path = Path(self.folder) / f"{files.case}_mask.nii.gz"
        task = task_from_json(self.task, "the bundle")
        regions = task.outputs.nested(item["pred"][0].numpy() > 0)
        dropped = filter_from_json(self.region_filter, task.outputs, "the bundle")
        kept = dropped.applied(regions, task.outputs, item["spacing_mm"])
        labels = task.outputs.labels(kept, self.label_kind)
        enhancing = self.enhancing if task.brats_masks else None
        write_mask(path, labels, next(iter(files.images.values())), enhancing, notice=self.notice)
        return path


def say_used(files: CaseFiles) -> None:
    """Print which sequences of a case are used, missing and passed over."""
    missing = ", ".join(name for name in files.source.names if name not in files.images) or "none"
    print(f"{files.case}: used {', '.join(files.images)}; missing: {missing}", flush=True)
    if unused := unused_files(next(iter(files.images.values())).parent, files.source.channels):
        print(
            f"{files.case}: WARNING: images that are not used: {', '.join(unused)}",
            flush=True,
        )


@dataclass(frozen=True)
class Evaluator:
    """Sends every case of a data set through network and postprocessing.

    `run()` returns what postprocessing returns.
    remark: What whoever runs it must know about the model; it is printed first.
    """

    dataset: Dataset
    network: nn.Module
    inferer: Callable[[Tensor, nn.Module], Tensor]
    postprocessing: Callable[[Mapping[str, Any]], Path]
    remark: str = ""

    def run(self) -> list[Path]:
        done = []
        print(self.remark, flush=True)
        for number in range(len(self.dataset)):
            item = self.dataset[number]
            say_used(item["case"])
            pred = self.inferer(item["image"][None], self.network)
            done.append(self.postprocessing({**item, "pred": pred}))
            print(f"written: {done[-1]}", flush=True)
        return done
