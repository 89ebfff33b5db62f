"""How does a pretrained network become a small file that says what it is?

The weights are float16 (half the bytes; training starts from them, so that rounding of a
thousandth does not matter), in safetensors, whose bytes are the same for the same
weights. The label beside them is the JSON that models/shipped.py describes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from wardround import __version__
from wardround.core import files
from wardround.models.flat import FlatModel
from wardround.models.specs import describe
from wardround.models.warm_start import words_about
from wardround.models.weights_file import digest_of
from wardround.research.pretrain import HELD_OUT_SEED, Plan, Progress

WHAT = (
    "First weights for a network of the brain tumour task, trained on domain-randomised phantoms: synthetic patients only. "
    "No person was scanned for them and no real image was used. A start for training, not a model to use."
)


def write(
    path: Path,
    spec: Any,
    plan: Plan,
    progress: Progress,
    scores: dict[str, float],
    patients: int,
) -> str:
    """Write weights and label, and return the SHA-256 of the weights.

    scores: The mean Dice on `patients` held-out phantoms.
    """
    from safetensors.torch import save

    blocks = FlatModel(spec.build(plan.seed)).layout.unflatten(progress.w.numpy())
    halves = {name: torch.from_numpy(block.copy()).half() for name, block in blocks.items()}
    files.write(path, save(halves, metadata=words_about(spec)))
    digest = digest_of(path)
    label = {
        "what": WHAT,
        "data": "synthetic",
        "command": f"wardround pretrain --steps {plan.steps} --seed {plan.seed}",
        "sha256": digest,
        "parameters": sum(block.numel() for block in halves.values()),
        "network": describe(spec),
        "steps": plan.steps,
        "seed": plan.seed,
        "batch": plan.batch,
        "seconds": round(progress.seconds),
        "version": __version__,
        "loss": [round(loss, 4) for loss in progress.losses],
        "held_out_phantoms": patients,
        "held_out_seed": HELD_OUT_SEED,
        "held_out_dice": scores,
    }
    files.write(path.with_suffix(".json"), json.dumps(label, indent=1) + "\n")
    return digest
