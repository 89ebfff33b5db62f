"""How does a model become a MONAI bundle that MONAI alone loads and runs?

Its masks equal, bit for bit, those of `wardround predict`. The network is MONAI's own
(models/monai_form.py). Reading, normalising and sliding windows are ours, and MONAI has
no equal of them: the bundle carries the source of FIRST and of what it imports, under
the name CODE, copied from the package that writes it.

Source: MONAI Bundle Specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.export.bundle_folder import Content, write_folder
from wardround.export.bundle_text import NOT_A_DEVICE, Title, readme, words
from wardround.export.model_card import for_others
from wardround.models import bundle_files
from wardround.models.fingerprint import fingerprint
from wardround.models.monai_form import Spec, monai_config, without_adapters
from wardround.models.specs import describe
from wardround.tasks.brain_tumours import DESCRIPTION
from wardround.tasks.task import Task
from wardround.training import origin
from wardround.training.prediction import Weights, kind_of

CODE = "wardround_case"
FIRST = "export.monai_case"
_IMPORT = re.compile(r"^ *from wardround\.([\w.]+) import", re.MULTILINE)


def write_bundle(out: Path, weights: Weights, title: Title) -> Path:
    """Write the bundle `out` and return it.

    Refusals are those of `write_folder`. A U-Net that reads a record raises
    ModelRefused.
    """
    spec, arrays = without_adapters(weights.spec, weights.arrays)
    network = monai_config(spec, CODE)
    meta = for_others(
        {**weights.meta, "label_kind": kind_of(weights, None), "model": describe(spec)},
    )
    entry = bundle_files.about(arrays, fingerprint(spec), __version__, meta)
    more = {
        **words(title, meta),
        "required_packages_version": {one: metadata.version(one) for one in _packages(weights)},
        "network_data_format": _tensors(spec, weights.task),
    }
    inference = _inference(spec, network, meta, weights.region_filter.as_json)
    return write_folder(
        out,
        Content(arrays, entry, more, inference, readme(title, entry, CODE), _code()),
    )


def _packages(weights: Weights) -> tuple[str, ...]:
    """Return what a bundle needs beside MONAI and torch; scipy finds connected parts."""
    return ("nibabel", "scipy") if weights.region_filter.largest else ("nibabel",)


def _tensors(spec: Spec, task: Task) -> dict[str, Any]:
    images, regions = task.inputs.names, task.outputs.names
    shape = [f"{spec.divisor}*{letter}" for letter in "hwd"]
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR" if task.brats_masks else "other",
        "num_channels": task.network_inputs,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [-5, 5],
        "is_patch_data": True,
        "channel_def": {
            str(i): text
            for i, text in enumerate(
                (*images, *(f"1 if {one} exists, else 0" for one in images)),
            )
        },
    }
    pred = image | {
        "format": "classes",
        "num_channels": len(regions),
        "value_range": [],
        "channel_def": {str(i): f"{region}, above 0 is inside" for i, region in enumerate(regions)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def _inference(
    spec: Spec,
    network: Mapping[str, Any],
    meta: Mapping[str, Any],
    dropped: Mapping[str, Any],
) -> dict[str, Any]:
    parts = f"{CODE}.{FIRST}"
    task = dict((meta.get("inputs") or {}).get("task", DESCRIPTION))
    return {
        "bundle_root": ".",
        "dataset_dir": "./cases",
        "output_dir": "./masks",
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "label_kind": meta["label_kind"],
        "enhancing": 4,
        "remark": f"{origin.words(meta)}. {NOT_A_DEVICE}",
        "network_def": dict(network),
        "network": {
            "_target_": f"{parts}.ready",
            "network": "@network_def",
            "norm": spec.norm,
            "weights": f"$@bundle_root + '/{bundle_files.WEIGHTS.as_posix()}'",
            "device": "@device",
        },
        "task": task,
        "preprocessing": {"_target_": f"{parts}.ReadCase"},
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": f"{parts}.cases",
                "folder": "@dataset_dir",
                "task": "@task",
            },
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": f"{parts}.CaseInferer",
            "patch": meta.get("patch"),
            "device": "@device",
            "task": "@task",
        },
        "postprocessing": {
            "_target_": f"{parts}.WriteMask",
            "folder": "@output_dir",
            "label_kind": "@label_kind",
            "known": meta["label_kind"],
            "enhancing": "@enhancing",
            "task": "@task",
            **({"region_filter": dict(dropped)} if dropped else {}),
            **({"notice": notice} if (notice := origin.notice(meta)) else {}),
        },
        "evaluator": {
            "_target_": f"{parts}.Evaluator",
            "dataset": "@dataset",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "remark": "@remark",
        },
        "run": ["$@evaluator.run()"],
    }


def _code() -> dict[str, str]:
    """Return the source of FIRST and of all that it imports of ours.

    It is under the name CODE, by path in the bundle.
    """
    package, note = (
        resources.files("wardround"),
        f'"""Copied from wardround {__version__}."""\n',
    )
    files = {f"{CODE}/__init__.py": note}
    wanted = [FIRST]
    while wanted:
        name = wanted.pop().replace(".", "/")
        if f"{CODE}/{name}.py" not in files:
            text = package.joinpath(f"{name}.py").read_text(encoding="utf-8")
            wanted += _IMPORT.findall(text)
            files[f"{CODE}/{name}.py"] = text.replace("from wardround.", f"from {CODE}.")
            if "/" in name:
                files[f"{CODE}/{name.partition('/')[0]}/__init__.py"] = note
    return files
