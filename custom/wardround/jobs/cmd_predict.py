"""`wardround predict`: a mask for one case, in the geometry of its own images; or classes for the cases of a folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.errors import ConfigRefused, ModelRefused
from wardround.jobs.terminal import DONE, command, counter, existing, folder, say, table

TEXT = """
Use a model that wardround wrote; the file says whether it segments or tells classes.

A segmentation model writes a mask as NIfTI: shape, axes and affine of the case's own images. The case is a folder in BraTS
layout; a mask is not needed, missing modalities are normal. Values: 1 necrotic core, 2 oedema, 4 enhancing (a model trained
on whole-tumour masks: 0 and 1).

  wardround predict /data/brats/BraTS-GLI-00005-100 --model deploy_model.npz
  wardround predict CASE --model best_model.npz --labels whole_tumour --out mask.nii.gz
  wardround predict CASE --model deploy_model.npz --record record.csv

A classifier writes, as JSON or CSV, the probability of every class for each case (or one, --case ID) of a folder with
dataset.json and its table (docs/data.md), which sequences and columns were there, and the model's fingerprints. Labels are
not read; a sequence, a value or the whole record may be missing.

  wardround predict /data/types --model deploy_model.npz --out classes.csv
  wardround predict /data/types --model final_model.npz --case p017

--model: a hospital's deploy_model.npz (the model that its verdict recommends), the server's final_model.npz or
best_model.npz (the shared model), the weights of `wardround baseline`, or the folder of a bundle that `wardround export`
wrote. For research: no medical device.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "predict", "segment one case, or tell the classes of a folder's cases", TEXT, run)
    parser.add_argument("case", type=existing, metavar="CASE_FOLDER", help="folder of the case, or of labelled images")
    parser.add_argument(
        "--model", type=existing, required=True, metavar="MODEL", help="weights (.npz) or bundle of wardround"
    )
    parser.add_argument(
        "--out",
        type=folder,
        metavar="FILE",
        help="mask: .nii or .nii.gz, default ./<case>_mask.nii.gz; classes: .json or .csv, default ./classes.json",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N; default auto (a GPU if there is one)"
    )
    parser.add_argument(
        "--labels", choices=("brats", "whole_tumour"), help="regions to write; default: what the model says it knows"
    )
    parser.add_argument("--case", dest="wanted", metavar="ID", help="which case, where the folder holds several")
    parser.add_argument(
        "--enhancing", type=int, choices=(3, 4), help="value of enhancing tumour: 4 (BraTS, the default) or 3 (2023)"
    )
    parser.add_argument(
        "--record",
        type=existing,
        metavar="CSV",
        help="table with the patient's row (`patient`, and the columns of the job), for a model that reads a record; without "
        "it every value is flagged as missing",
    )


def run(args: argparse.Namespace) -> int:
    """Predict, and print volumes or classes."""
    from wardround.hospital import class_prediction, prediction
    from wardround.models import bundle_files

    if class_prediction.is_classifier(bundle_files.load_any(args.model)[1]):
        return classes(args)
    if args.out is not None and not args.out.name.lower().endswith((".nii", ".nii.gz")):
        raise ConfigRefused(
            f"--out {args.out}", found="another ending", expected=".nii or .nii.gz", fix="correct the name"
        )
    weights = prediction.read_weights(args.model)
    require_whole(weights.meta, args.model)
    files = prediction.one_case(args.case, args.wanted)
    kind = args.labels or str(weights.meta.get("label_kind", "brats"))
    record = prediction.record_of(files, weights, args.record)
    say(f"{files.case} ({', '.join(files.images)}) with {describe(weights.meta)}")
    if record is not None:
        names = weights.table.features
        known = [name for name, flag in zip(names, record[len(names) :], strict=True) if flag]
        without = "" if args.record else "no --record: "
        say(
            f"{without}{len(known)} of {len(names)} values of the record are known ({', '.join(known) or 'all missing'})"
        )
    out = args.out or Path(f"{files.case}_mask.nii.gz")
    done = prediction.predict_case(files, weights, kind, args.device, out, args.enhancing or 4, record)
    print(", ".join(f"{region} {volume:.1f} ml" for region, volume in done.volumes_ml.items()))
    print(f"written: {done.mask}")
    return DONE


def classes(args: argparse.Namespace) -> int:
    """Tell the classes of the cases of a folder, and print one line each (ten at most)."""
    from wardround.hospital import class_inputs, class_prediction

    out = args.out or Path("classes.json")
    of_masks = {"--labels": args.labels, "--enhancing": args.enhancing, "--record": args.record}
    wrong = [name for name, given in of_masks.items() if given is not None]
    if wrong or not out.name.lower().endswith(class_prediction.ENDINGS):
        raise ConfigRefused(
            wrong[0] if wrong else f"--out {out}",
            found=f"{args.model.name}, a model that tells classes",
            expected="no option for masks, and an output .json or .csv",
            fix="correct the arguments, or name a segmentation model",
        )
    model = class_prediction.read_classifier(args.model)
    require_whole(model.meta, args.model)
    cases = class_inputs.read_cases(args.case, args.wanted, model.sampling.spec, model.sampling.record)
    say(f"{len(cases.names)} cases with {describe(model.meta)}, architecture {model.identity}, weights {model.digest}")
    rows = class_prediction.predict_classes(cases, model, args.device, counter("cases"))
    class_prediction.write_rows(rows, model, out)
    shown = [[row["case"], row["class"], *(f"{p:.3f}" for p in row["probabilities"].values()),
              " ".join(row["sequences"]) or "none", " ".join(row["record"]) or "none"] for row in rows[:10]]  # fmt: skip
    print(table(("case", "class", *(f"p {name}" for name in model.sampling.classes), "sequences", "record"), shown))
    print(f"written: {out}" + (f" (all {len(rows)} cases)" if len(rows) > 10 else ""))
    return DONE


def describe(meta: Mapping[str, Any]) -> str:
    """Return in words which model a file holds."""
    job = (meta.get("settings") or {}).get("job")
    if "candidate" in meta:
        steps = f", {meta['k']} fine-tuning steps" if meta.get("k") else ""
        return f"this hospital's model to deploy: {meta['candidate']}{steps}"
    if "round" in meta:
        return f"the shared model of {job} after {meta['round']} rounds"
    return f"a baseline of {job}"


def require_whole(meta: Mapping[str, Any], file: Path) -> None:
    """Raise ModelRefused for the shared model of a job in which some blocks never leave the hospitals."""
    from wardround.jobs import recipes
    from wardround.jobs.building import build

    name = (meta.get("settings") or {}).get("job")
    if "round" not in meta or name not in recipes.names():
        return
    if home := build(recipes.job(name).algorithm["site"], "algorithm").home_roles:
        raise ModelRefused(
            f"the shared model {file}",
            found=f"a model of {name}: its {' and '.join(home)} never left the hospitals and is untrained here",
            expected="a whole model",
            fix="use the deploy_model.npz that each hospital keeps in its own run folder",
        )
