"""`wardround export` writes models as MONAI bundles."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.cli.cmd_predict import describe, require_whole
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.core.terminal import DONE, command, existing, folder, say

TEXT = """
Write a model as a MONAI bundle: a folder with metadata, weights, an inference config and a README. MONAI, torch and
nibabel run it without wardround, and its masks are those of `wardround predict`, bit by bit. A classifier is not exported,
because MONAI has no such network: pass its file of weights on, and use `wardround predict` with it.

  wardround export deploy_model.npz --out tumour_bundle
  wardround export wardround_runs/brats_perfedavg --out bundles    bundles/global, bundles/site-1, ...
  cd bundles/site-1
  python -m monai.bundle run --config_file configs/inference.json --dataset_dir CASES --output_dir masks

A bundle says what the model was trained on and which regions it knows, and it has a model card. For a run the command writes
the shared model (final_model.npz) and every hospital's own choice (deploy_model.npz). At a hospital a run folder holds only
the hospital's own models, so it writes those. It leaves out a shared model of which some blocks never left the hospitals, and
says so. `wardround predict` and `wardround serve` take a bundle as well as a .npz.
"""
FINAL, DEPLOY = "final_model.npz", "deploy_model.npz"
DEPTH = 6


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "export", "write models as MONAI bundles", TEXT, run)
    parser.add_argument(
        "source",
        type=existing,
        metavar="RUN_OR_MODEL",
        help="weights (.npz), or the workspace or folder of one run",
    )
    parser.add_argument(
        "--out",
        type=folder,
        required=True,
        metavar="DIR",
        help="new folder for the bundle or bundles",
    )
    parser.add_argument(
        "--authors",
        default="not stated",
        metavar="WORDS",
        help="whose weights these are",
    )
    parser.add_argument(
        "--copyright",
        default="not stated",
        metavar="WORDS",
        help="copyright of the weights",
    )


def run(args: argparse.Namespace) -> int:
    """Export one model, or all models of a run."""
    if args.source.is_file():
        _export(args.source, args.out, args)
        return DONE
    models = models_of(args.source)
    done = [_export_if_whole(file, args.out / name, args) for name, file in models.items()]
    if not any(done):
        raise ModelRefused(
            f"the models in {args.source}",
            found="only a shared model that is not whole",
            expected="a whole model",
            fix="run this where the hospitals' deploy_model.npz are",
        )
    return DONE


def models_of(place: Path) -> dict[str, Path]:
    """Return the models of one run below a folder, by the name of their bundle:
    `global`, and one for each hospital.

    A job with secure aggregation keeps an equal final model at every hospital; the
    first of them is taken. A folder without a model, or with two models that would have
    one name (several runs), is refused with ConfigRefused.
    """
    found = {
        name: sorted(p for p in place.rglob(name) if len(p.relative_to(place).parts) <= DEPTH)
        for name in (FINAL, DEPLOY)
    }
    models = dict(zip(("global",), found[FINAL], strict=False))
    for path in found[DEPLOY]:
        name = path.relative_to(place).parts[0] if path.parent != place else "deploy"
        if name in models:
            raise ConfigRefused(
                f"one run in {place}",
                found=f"{models[name]} and {path}",
                expected="one model for each hospital",
                fix="name the folder of one run, or one file of weights",
            )
        models[name] = path
    if not models:
        raise ConfigRefused(
            f"the models in {place}",
            found=f"neither {FINAL} nor {DEPLOY}",
            expected="the workspace or folder of a run that ended",
            fix="name the workspace that `wardround jobs run` printed, or a file of weights",
        )
    return models


def _export_if_whole(file: Path, out: Path, args: argparse.Namespace) -> bool:
    """Export a model and return True. A shared model that lacks blocks is left out,
    with the reason on stderr.
    """
    meta = _meta(file)
    if file.name == FINAL:
        try:
            require_whole(meta, file)
        except ModelRefused as refusal:
            say(f"left out: {refusal}")
            return False
    _export(file, out, args)
    return True


def _meta(file: Path) -> Mapping[str, Any]:
    """Return what a file of weights says about itself. A classifier is refused with
    ModelRefused.
    """
    from wardround.models import bundle_files
    from wardround.training.class_prediction import is_classifier

    _, meta = bundle_files.load_any(file)
    if is_classifier(meta):
        raise ModelRefused(
            f"the model {file}",
            found="one that tells classes",
            expected="one that segments: MONAI has no network that the weights of a classifier fit",
            fix=f"pass the file itself on, and run `wardround predict FOLDER --model {file.name} --out classes.csv` with it",
        )
    return meta


def _export(file: Path, out: Path, args: argparse.Namespace) -> None:
    from wardround.export.bundle import write_bundle
    from wardround.export.bundle_text import Title
    from wardround.training import origin
    from wardround.training.prediction import read_weights

    meta = _meta(file)
    require_whole(meta, file)
    choice = describe(meta)
    name = "wardround_" + re.sub(r"\W", "_", out.name)
    title = Title(name, choice[0].upper() + choice[1:], args.authors, args.copyright)
    write_bundle(out, read_weights(file), title)
    print(f"{out}: {choice}; {origin.words(meta)}")
