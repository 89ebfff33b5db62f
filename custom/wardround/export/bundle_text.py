"""What does a bundle tell people about itself?

It tells them in the words of metadata.json and in docs/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.data.layouts import understood_of
from wardround.export.model_card import card, told
from wardround.models.blend import Blend
from wardround.tasks.brain_tumours import DESCRIPTION
from wardround.tasks.task import Task, task_from_json
from wardround.training import origin

NOT_A_DEVICE = "Research only. Not a medical device: no output may guide the care of a patient."
WEIGHTS_REVEAL = """Weights can reveal images that they were trained on. A hospital's own model (not `shared` above) saw its
patients alone, and no noise protects them unless its job said so: give it away only as you would the images."""
BRATS = "0 background, 1 necrotic core, 2 oedema, 4 enhancing tumour (`--enhancing 3` for BraTS 2023)"
BRAIN = "Segmentation of brain tumours in MR images (T1, T1ce, T2, FLAIR; any may be missing)"
WHOLE = "0 background, 1 whole tumour: this model learnt no other region"


@dataclass(frozen=True)
class Title:
    """How a bundle is called.

    name: Letters, digits and _.
    choice: Which model it is, in words.
    authors, copyright: Those of the weights.
    """

    name: str
    choice: str
    authors: str
    copyright: str


def task_of(meta: Mapping[str, Any]) -> Task:
    """Return what a model learnt; brain tumours if its file does not say it."""
    return task_from_json(
        (meta.get("inputs") or {}).get("task", DESCRIPTION),
        "the file of weights",
    )


def values_of(meta: Mapping[str, Any]) -> str:
    """Return in words what the values of a mask mean.

    Only regions that somebody trained are named.
    """
    task = task_of(meta)
    if not task.brats_masks:
        kinds = task.outputs.kinds[str(meta.get("label_kind") or task.outputs.default_kind)]
        return "0 background, " + ", ".join(f"{name}: {' or '.join(map(str, n))}" for name, n in kinds.items())
    return WHOLE if meta.get("label_kind") == "whole_tumour" else BRATS


def words(title: Title, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of metadata.json that are text, and the selection score."""
    return {
        "name": title.name,
        "task": BRAIN if task_of(meta).brats_masks else f"Segmentation of {', '.join(task_of(meta).outputs.names)}",
        "description": f"{title.choice}; {origin.words(meta)}. Trained with wardround. {NOT_A_DEVICE}",
        "authors": title.authors,
        "copyright": title.copyright,
        "intended_use": NOT_A_DEVICE,
        "data_type": "nibabel",
        "image_classes": f"{', '.join(task_of(meta).inputs.names)}, comparable intensities within +-5, then a channel of 1 or 0 "
        "for each: which exist",
        "pred_classes": values_of(meta),
        **told("mean_dice_on_validation", meta),
        "references": [
            "Cicek et al. 2016, arXiv:1606.06650",
            "Myronenko 2018, arXiv:1810.11654",
        ],
    }


def readme(title: Title, entry: Mapping[str, Any], code: str) -> str:
    """Return docs/README.md.

    entry: What bundle_files.about wrote.
    code: The name of the package inside the bundle.
    """
    meta = entry["meta"]
    model = entry["meta"]["model"]
    task = task_of(entry["meta"])
    member = model["args"]["network"] if model["path"] == Blend.__name__ else model
    settings = ", ".join(f"{key} {value}" for key, value in member["args"].items())
    twice = "two of " if member is not model else ""
    parts = ", scipy" if meta.get("largest_component") else ""
    return f"""# {title.name}

{title.choice}. {NOT_A_DEVICE}

**{origin.words(meta)}**

## Run it

With MONAI, torch, nibabel{parts} and fire (for MONAI's command line), from this folder; CASES is one case or a folder of cases,
named {understood_of(task.source)}:

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir CASES --output_dir masks

Masks are written as <case>_mask.nii.gz in the geometry of each case's own images. Values: {values_of(meta)}.
Sequences: {", ".join(task.inputs.names)}; a missing one is normal, and what was used or passed over is printed. With wardround, the
same mask: `wardround predict CASE --model .`, or `wardround serve .` (neither runs any code of this folder; MONAI does, so run
it only if you trust where it came from).

## What it is

| | |
|---|---|
| network | {twice}{member["path"]}: {settings} |
| fingerprint of the architecture | {entry["fingerprint"]} |
| digest of the weights | {entry["digest"]} |
| written by | wardround {entry["wardround_version"]} |
| window | {meta.get("patch") or "one around the head"} |

{card("mean Dice", meta)}

`{code}/` holds modules of wardround (Apache-2.0, see LICENSE): reading, normalising, windows, regions.
Authors of the weights: {title.authors}. Their copyright: {title.copyright}.

{WEIGHTS_REVEAL}
"""
