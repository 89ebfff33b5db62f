"""A model as a MONAI bundle: MONAI alone loads and runs it, with masks equal, bit by bit, to those of `wardround predict`.

The network is MONAI's own (models/plain.py). Reading, normalising and sliding windows are ours, and MONAI has no equal of
them: the bundle carries the source of these modules under the name CODE, copied from the package that writes it.
Source: MONAI Bundle Specification; metadata.json fits SCHEMA.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.data.layouts import MODALITIES
from wardround.errors import ConfigRefused
from wardround.hospital.bundle_words import Title, readme, words
from wardround.hospital.prediction import Weights
from wardround.models import bundle_files
from wardround.models.fingerprint import fingerprint
from wardround.models.plain import Spec, monai_config, without_adapters
from wardround.models.specs import describe
from wardround.tasks.regions import REGIONS

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
CODE = "wardround_case"
MODULES = (
    "errors",
    *(f"data/{name}" for name in ("cases", "labels", "layouts", "nifti", "normalise", "refusals", "volumes")),
    *(f"tasks/{name}" for name in ("boxes", "inference", "inputs", "regions")),
    "models/norms",
    "hospital/monai_case",
)


def write_bundle(out: Path, weights: Weights, title: Title) -> Path:
    """Write the bundle `out` and return it.

    the folder appears complete or not at all | it exists and is not empty, or cannot be written: ConfigRefused
    a U-Net that reads a record: ModelRefused
    """
    spec, arrays = without_adapters(weights.spec, weights.arrays)
    network = monai_config(spec, CODE)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigRefused(
            f"the folder {out}", found="something in it", expected="a new or empty folder", fix="choose another --out"
        )
    meta = {**weights.meta, "model": describe(spec)}
    entry = bundle_files.about(arrays, fingerprint(spec), __version__, meta)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            made = Path(scratch) / out.name
            bundle_files.write_weights(made, arrays)
            _write(made / bundle_files.METADATA, _json(_metadata(title, entry)))
            _write(made / "configs" / "inference.json", _json(_inference(spec, network, meta)))
            _write(made / "docs" / "README.md", readme(title, entry, CODE))
            _write(made / "LICENSE", _licence())
            _copy_code(made / CODE)
            if out.exists():
                out.rmdir()
            made.replace(out)
    except OSError as error:
        raise ConfigRefused(
            f"the bundle {out}",
            found=f"cannot be written: {error.strerror or type(error).__name__}",
            expected="a folder that this process may write to",
            fix="choose another --out",
        ) from error
    return out


def _metadata(title: Title, entry: Mapping[str, Any]) -> dict[str, Any]:
    meta = entry["meta"]
    shape = [f"{_divisor(meta)}*{letter}" for letter in "hwd"]
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 2 * len(MODALITIES),
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [-5, 5],
        "is_patch_data": True,
        "channel_def": {
            str(i): text for i, text in enumerate((*MODALITIES, *(f"1 if {one} exists, else 0" for one in MODALITIES)))
        },
    }
    pred = image | {
        "format": "classes",
        "num_channels": len(REGIONS),
        "value_range": [],
        "channel_def": {str(i): f"{region}, above 0 is inside" for i, region in enumerate(REGIONS)},
    }
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by wardround {__version__}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch").partition("+")[0],
        "numpy_version": _version("numpy"),
        "required_packages_version": {"nibabel": _version("nibabel")},
        **words(title, meta),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        bundle_files.ENTRY: dict(entry),
    }


def _inference(spec: Spec, network: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    parts = f"{CODE}.hospital.monai_case"
    return {
        "bundle_root": ".",
        "dataset_dir": "./cases",
        "output_dir": "./masks",
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "label_kind": meta.get("label_kind", "brats"),
        "enhancing": 4,
        "network_def": dict(network),
        "network": {
            "_target_": f"{parts}.ready",
            "network": "@network_def",
            "norm": spec.norm,
            "weights": f"$@bundle_root + '/{bundle_files.WEIGHTS.as_posix()}'",
            "device": "@device",
        },
        "preprocessing": {"_target_": f"{parts}.ReadCase"},
        "dataset": {
            "_target_": "Dataset",
            "data": {"_target_": f"{parts}.cases", "folder": "@dataset_dir"},
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": f"{parts}.CaseInferer", "patch": meta.get("patch"), "device": "@device"},
        "postprocessing": {
            "_target_": f"{parts}.WriteMask",
            "folder": "@output_dir",
            "label_kind": "@label_kind",
            "enhancing": "@enhancing",
        },
        "evaluator": {
            "_target_": f"{parts}.Evaluator",
            "dataset": "@dataset",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _copy_code(folder: Path) -> None:
    """Copy MODULES, so that they import each other under the name CODE."""
    package = resources.files("wardround")
    for name in MODULES:
        text = package.joinpath(f"{name}.py").read_text(encoding="utf-8")
        _write(folder / f"{name}.py", text.replace("from wardround.", f"from {CODE}."))
        _write((folder / name).parent / "__init__.py", '"""Copied from wardround."""\n')
    _write(
        folder / "__init__.py", f'"""Modules of wardround {__version__}: a case to a network\'s input and back."""\n'
    )


def _licence() -> str:
    """Return the licence of the code: from the installed package, else from the checkout that runs."""
    try:
        held = metadata.distribution("wardround")
        text = held.read_text("licenses/LICENSE") or held.read_text("LICENSE")
    except metadata.PackageNotFoundError:
        text = None
    return text or Path(__file__).parents[3].joinpath("LICENSE").read_text(encoding="utf-8")


def _divisor(meta: Mapping[str, Any]) -> int:
    channels = meta["model"]["args"].get("channels")
    return 2 ** (len(channels) - 1) if channels else 8


def _version(package: str) -> str:
    return metadata.version(package)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=4) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
