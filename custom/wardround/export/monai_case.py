"""The parts that a bundle's inference.json names: a case in, a mask out, with the steps of `wardround predict`.

A bundle carries this file and what it imports, so it asks for MONAI, torch and nibabel only; nothing here may need more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround.core.errors import ConfigRefused
from wardround.data.cases import find_cases
from wardround.data.layouts import CaseFiles, unused_files
from wardround.data.volumes import read_images, write_mask
from wardround.models.norms import with_group_norms
from wardround.tasks.inference import predict_logits
from wardround.tasks.inputs import network_input
from wardround.tasks.task import task_from_json


class Dataset(Protocol):
    """What MONAI's Dataset is: items that were preprocessed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def cases(folder: str, task: Mapping[str, Any]) -> list[CaseFiles]:
    """Return the cases in a folder, which may itself be one; refused like find_cases, masks are not needed."""
    return list(find_cases(Path(folder), require_seg=False, source=task_from_json(task, "the bundle").source))


def ready(network: nn.Module, norm: str, weights: str, device: str) -> nn.Module:
    """Return the network with its weights, norms as in training (nets.py), on the device, for evaluation.

    norm: instance or group for the ready-made networks, whose norms become GroupNorm; any other word: norms as built
    parameters too many, too few or of other shapes: ConfigRefused
    """
    # By parameters, not by the state dictionary: some networks hold a layer under two names (DynUNet), or index tables.
    wanted = dict(network.named_parameters())
    found = torch.load(weights, map_location="cpu", weights_only=True)
    if {name: one.shape for name, one in wanted.items()} != {name: one.shape for name, one in found.items()}:
        raise ConfigRefused(
            f"the weights {weights}",
            found=f"{len(found)} blocks that do not fit the network's {len(wanted)}",
            expected="the weights that were written with this bundle",
            fix="export the bundle again with `wardround export`",
        )
    with torch.no_grad():
        for name, block in wanted.items():
            block.copy_(found[name])
    kept = network if norm not in ("instance", "group") else with_group_norms(network, norm)  # type: ignore[arg-type]
    return kept.to(device).eval()


@dataclass(frozen=True)
class ReadCase:
    """CaseFiles -> {"image": float32 [2 C, H, W, D] in RAS, C images and which of them exist; "case": the files}."""

    def __call__(self, files: CaseFiles) -> dict[str, Any]:
        volume = read_images(files)
        image = torch.from_numpy(np.asarray(volume.image, np.float32))[None]
        return {"image": network_input(image, torch.from_numpy(volume.present))[0], "case": files}


@dataclass(frozen=True)
class CaseInferer:
    """[1, 2 C, H, W, D] -> logits [1, R, H, W, D], one for each region of the task (tasks/inference.py). patch None: one window."""

    patch: Sequence[int] | None
    device: str
    task: Mapping[str, Any]

    def __call__(self, inputs: Tensor, network: nn.Module) -> Tensor:
        image: NDArray[np.float32] = inputs[0].cpu().numpy()
        task = task_from_json(self.task, "the bundle")
        many, regions = len(task.inputs.names), len(task.outputs.names)
        found = predict_logits(network, image[:many], image[many:, 0, 0, 0] > 0, self.patch, self.device, regions)
        return torch.from_numpy(found)[None]


@dataclass(frozen=True)
class WriteMask:
    """Write <case>_mask.nii.gz with the axes, shape and affine of the case's first image, and return its path.

    known: the kind of labels that the model was trained on; a label_kind with more regions: ConfigRefused
    """

    folder: str
    label_kind: str
    enhancing: int
    known: str
    task: Mapping[str, Any]

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
        labels = task.outputs.labels(item["pred"][0].numpy() > 0, self.label_kind)
        enhancing = self.enhancing if task.brats_masks else None
        write_mask(path, labels, next(iter(files.images.values())), enhancing)
        return path


def say_used(files: CaseFiles) -> None:
    """Print which sequences of a case are used, which are not there, and which of its images are passed over."""
    missing = ", ".join(name for name in files.source.names if name not in files.images) or "none"
    print(f"{files.case}: used {', '.join(files.images)}; missing: {missing}", flush=True)
    if unused := unused_files(next(iter(files.images.values())).parent, files.source.channels):
        print(f"{files.case}: WARNING: images that are not used: {', '.join(unused)}", flush=True)


@dataclass(frozen=True)
class Evaluator:
    """`run()` sends every case of a data set through network and postprocessing, and returns what the latter returns.

    remark: what whoever runs it must know about the model, said first
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
