"""What is learnt: which images go in, which regions come out, how are both treated?

A task is a value. A job's `sampling.task` holds it as JSON (`task_from_json`); without
one it is the brain tumour task (brain_tumours.py). Only names of the job's own task may
leave a hospital: `Task.allowed_names` is what its outbound filter and the server
accept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.data.source import Channels, HeadZScores, Normaliser, Source, Window
from wardround.messages.allowed_names import (
    MEASURES,
    label_name,
    measure_of,
    metric_names,
)
from wardround.tasks.augment import Augment
from wardround.tasks.regions import Regions

MISSED_MM = 374.0
KEYS = (
    "inputs",
    "outputs",
    "masks",
    "normalisation",
    "augmentation",
    "metrics",
    "missed_mm",
    "mirrored",
)
# How many mirror images are averaged, and over how many of the first axes.
MIRRORED = {1: 0, 4: 2, 8: 3}
AS_STORED, BRATS = "as_stored", "brats"


@dataclass(frozen=True)
class Task:
    """A segmentation task.

    inputs: The images.
    outputs: The regions.
    normalisation: How one image is normalised.
    brats_masks: Whether the values of masks follow a BraTS convention of each site; if
        not, they are those of the outputs.
    augmentation: How a batch is augmented in training.
    metrics: Which of MEASURES are reported; dice always is.
    missed_mm: The distance that counts where a region is missed or invented (see the
        table for empty regions in metrics.py).
    mirrored: In how many mirror images a case is predicted, whose logits are averaged
        (inference.py): 1, 4 or 8. It is a part of the task because a model must be
        evaluated as it is deployed: the task travels with its weights.

    ConfigRefused is raised for metrics that do not exist, without dice, for a distance
    out of range, and for another number of mirror images.
    """

    inputs: Channels
    outputs: Regions
    normalisation: Normaliser = field(default_factory=HeadZScores)
    brats_masks: bool = False
    augmentation: Augment = field(default_factory=Augment)
    metrics: tuple[str, ...] = MEASURES
    missed_mm: float = MISSED_MM
    mirrored: int = 1

    def __post_init__(self) -> None:
        if mistaken := [name for name in self.inputs.names if measure_of(name)]:
            raise ConfigRefused(
                "the images of the task",
                found=f"{mistaken[0]}, which is a score's name",
                expected="names that no score has",
                fix="name the image otherwise in `task.inputs`",
            )
        number = isinstance(self.missed_mm, int | float) and not isinstance(
            self.missed_mm,
            bool,
        )
        if not ("dice" in self.metrics and set(self.metrics) <= set(MEASURES) and number and 0 < self.missed_mm <= 1e4):
            raise ConfigRefused(
                "the scores of the task",
                found=f"metrics {list(self.metrics)}, missed_mm {self.missed_mm!r}",
                expected=f"dice and others of {', '.join(MEASURES)}, a distance above 0 and up to 10000 mm",
                fix="for example --set sampling.task.metrics=[dice,hd95_mm] --set sampling.task.missed_mm=500",
            )
        if type(self.mirrored) is not int or self.mirrored not in MIRRORED:
            raise ConfigRefused(
                "the mirror images of the task",
                found=f"mirrored {self.mirrored!r}",
                expected=f"one of {', '.join(map(str, MIRRORED))}",
                fix="--set sampling.task.mirrored=4, or 1 for none",
            )

    @property
    def network_inputs(self) -> int:
        """Return how many channels a network is given: each image, and its flag."""
        return 2 * len(self.inputs.names)

    @cached_property
    def source(self) -> Source:
        """Return how the files of a case are read."""
        if self.brats_masks:
            return Source(self.inputs, self.normalisation)
        kind = self.outputs.default_kind
        values = {value for labels in self.outputs.kinds[kind].values() for value in labels}
        return Source(self.inputs, self.normalisation, kind, tuple(sorted(values)))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Return the names of the scores over patients.

        They are dice_mean, dice_<region>, hd95_mm_<region>, ...
        """
        return metric_names(self.outputs.names, self.metrics)

    @property
    def allowed_names(self) -> tuple[str, ...]:
        """Return every name that a message of this task may hold.

        These are images, kinds of masks and scores.
        """
        return (
            *self.inputs.names,
            *(label_name(kind) for kind in self.outputs.kinds),
            *self.metric_names,
        )


def task_from_json(said: object, where: str) -> Task:
    """Return the task that a job's settings describe.

    The JSON has these keys; the first two are required:

        inputs         {image: [words in file names]}
        outputs        {kind of masks: {region: [label values]}}
        masks          "brats" or "as_stored"
        normalisation  "head_z_scores" or {"low": number, "high": number}
        augmentation   {strength: number}
        metrics        [score, ...]
        missed_mm      number
        mirrored       1, 4 or 8

    ConfigRefused is raised for anything else, and for another key.
    """
    if not isinstance(said, Mapping) or not {"inputs", "outputs"} <= set(said) <= set(KEYS):
        raise _refused(
            where,
            f"a {type(said).__name__} with other keys",
            f"inputs, outputs, and some of {', '.join(KEYS[2:])}",
        )
    inputs, outputs = said["inputs"], said["outputs"]
    if not (isinstance(inputs, Mapping) and all(isinstance(words, list | tuple) for words in inputs.values())):
        raise _refused(
            where,
            f"inputs of type {type(inputs).__name__}",
            "image -> list of words in file names",
        )
    masks, metrics = said.get("masks", AS_STORED), said.get("metrics", list(MEASURES))
    if masks not in (AS_STORED, BRATS) or not isinstance(metrics, Sequence) or isinstance(metrics, str):
        raise _refused(
            where,
            f"masks {masks!r}, metrics {metrics!r}",
            f"{AS_STORED} or {BRATS}, and a list of scores",
        )
    kinds = outputs if isinstance(outputs, Mapping) else {}
    return Task(
        inputs=Channels(
            tuple(inputs),
            {name: tuple(words) for name, words in inputs.items() if words},
        ),
        outputs=Regions({kind: _as_tuples(regions) for kind, regions in kinds.items()}),
        normalisation=_normaliser(said.get("normalisation", "head_z_scores"), where),
        brats_masks=masks == BRATS,
        augmentation=_augmentation(said.get("augmentation", {}), where),
        metrics=tuple(metrics),
        missed_mm=said.get("missed_mm", MISSED_MM),
        mirrored=_whole(said.get("mirrored", 1)),
    )


def _as_tuples(regions: Any) -> Any:
    if not isinstance(regions, Mapping):
        return regions
    return {
        name: tuple(map(_whole, labels)) if isinstance(labels, list) else labels for name, labels in regions.items()
    }


def _whole(value: Any) -> Any:
    """Return 3.0 as 3, because NVFlare's command line may write whole numbers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _normaliser(said: object, where: str) -> Normaliser:
    if said == "head_z_scores":
        return HeadZScores()
    if isinstance(said, Mapping) and set(said) == {"low", "high"}:
        return Window(said["low"], said["high"])
    raise _refused(
        where,
        f"normalisation {said!r}"[:100],
        'head_z_scores, or {"low": number, "high": number}',
    )


def _augmentation(said: object, where: str) -> Augment:
    names = Augment.__dataclass_fields__
    numbers = isinstance(said, Mapping) and all(type(value) in (int, float) for value in said.values())
    if not (isinstance(said, Mapping) and numbers and set(said) <= set(names)):
        raise _refused(where, "another augmentation", f"numbers for some of {', '.join(names)}")
    return Augment(**said)


def _refused(where: str, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the task in {where}",
        found=found,
        expected=expected,
        fix="compare with `sampling.args.task` in app_configs/task/brats.yaml",
    )
