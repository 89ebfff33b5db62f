"""A classifier as a MONAI bundle. It needs wardround: the network is timm's ViT with our fusion, and neither MONAI nor timm
has one that the weights would fit. MONAI loads it and runs it; the classes are those of `wardround predict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from wardround import __version__
from wardround.hospital import class_prediction, origin
from wardround.hospital.bundle_folder import Content, write_folder
from wardround.hospital.bundle_words import NOT_A_DEVICE, Title, class_readme
from wardround.hospital.class_inputs import read_cases
from wardround.hospital.class_prediction import Classifier
from wardround.hospital.model_card import for_others, told
from wardround.models import bundle_files
from wardround.models.specs import describe, rebuild_classifier

HERE = "wardround.hospital.class_bundle"


def write_class_bundle(out: Path, model: Classifier, title: Title) -> Path:
    """Write the bundle `out` and return it; refused like `write_folder`. Where pretrained weights came from is left out."""
    about, settings = describe(model.spec), dict(model.meta.get("settings") or {})
    kept = {key: value for key, value in settings.items() if not key.startswith("model.weights")}
    meta = for_others({**model.meta, "model": about, **({"settings": kept} if settings else {})})
    entry = bundle_files.about(model.arrays, model.identity, __version__, meta)
    return write_folder(
        out, Content(model.arrays, entry, _more(model, title), _inference(about), class_readme(title, entry))
    )


def network(settings: Mapping[str, Any]) -> nn.Module:
    """Return the network that a bundle's inference.json describes, without its weights."""
    return rebuild_classifier(settings, "inference.json").build(0)


@dataclass(frozen=True)
class Evaluator:
    """`run()` writes the classes of the cases of a labelled folder (docs/data.md), and returns the file, .json or .csv."""

    bundle: str
    folder: str
    out: str
    device: str

    def run(self) -> Path:
        model = class_prediction.read_classifier(Path(self.bundle))
        cases = read_cases(Path(self.folder), None, model.sampling.spec, model.sampling.record)
        rows = class_prediction.predict_classes(cases, model, self.device, lambda done, total: None)
        path = class_prediction.write_rows(rows, model, Path(self.out))
        print(f"written: {path}", flush=True)
        return path


def _inference(about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "bundle_root": ".",
        "dataset_dir": "./cases",
        "output": "./classes.json",
        "device": "auto",
        "network_def": {"_target_": f"{HERE}.network", "settings": dict(about)},
        "evaluator": {
            "_target_": f"{HERE}.Evaluator",
            "bundle": "@bundle_root",
            "folder": "@dataset_dir",
            "out": "@output",
            "device": "@device",
        },
        "run": ["$@evaluator.run()"],
    }


def _more(model: Classifier, title: Title) -> dict[str, Any]:
    spec, vector = model.sampling.spec, model.sampling.vector
    parts = (
        ("images", f"{', '.join(spec.modalities)}, each {' x '.join(map(str, spec.grid.shape))}"),
        ("which of them exist", "1 or 0 each"),
        ("record", ", ".join(spec.table.features) if model.sampling.record else "not used"),
        ("which values are known", "1 or 0 each"),
    )
    tensor = {"modality": "MR", "dtype": "float32", "value_range": [], "is_patch_data": False}
    return {
        "name": title.name,
        "task": f"Classification of patients: {', '.join(spec.classes)}",
        "description": f"{title.choice}; {origin.words(model.meta)}. Trained with wardround. {NOT_A_DEVICE}",
        "authors": title.authors,
        "copyright": title.copyright,
        "intended_use": NOT_A_DEVICE,
        "required_packages_version": {"wardround": __version__, "timm": metadata.version("timm")},
        "pred_classes": ", ".join(spec.classes),
        **told("balanced_accuracy_on_validation", model.meta),
        "network_data_format": {
            "inputs": {
                "patient": {
                    "type": "tuples",
                    "format": "one vector per patient",
                    "num_channels": vector.length,
                    "spatial_shape": [],
                    **tensor,
                    "channel_def": {str(i): f"{what}: {words}" for i, (what, words) in enumerate(parts)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(spec.classes),
                    "spatial_shape": [],
                    **tensor,
                    "channel_def": {str(i): f"logit of {name}" for i, name in enumerate(spec.classes)},
                }
            },
        },
    }
