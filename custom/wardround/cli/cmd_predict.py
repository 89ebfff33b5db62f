"""`wardround predict` writes a mask for each case, or the classes of the cases in a
folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused, DataRefused, ModelRefused
from wardround.core.files import write as write_file
from wardround.core.tables import csv_text
from wardround.core.terminal import DONE, command, counter, existing, folder, say, table

TEXT = """
Use a model that wardround wrote. The file says whether the model segments or classifies.

A segmentation model writes a mask as NIfTI with the shape, axes and affine of the case's own images, and a picture (PNG) beside
it; for a folder of cases also volumes.csv with all volumes in ml. The case needs no mask. Missing sequences are normal and are
named. Values: 1 necrotic core, 2 oedema, 4 enhancing; 0 and 1 for a model that was trained on whole-tumour masks.

  wardround predict /data/brats/BraTS-GLI-00005-100 --model deploy_model.npz
  wardround predict /data/brats --model deploy_model.npz --out masks          every case of a folder
  wardround predict CASE --model best_model.npz --labels whole_tumour --out mask.nii.gz
  wardround predict CASE --model deploy_model.npz --record record.csv

A classifier reads a folder with dataset.json and its table (docs/data.md). It writes, as JSON or CSV, the probability of every
class for each case (or for one, --case ID), which sequences and columns were present, and the model's fingerprints. Labels are
not read; a sequence, a value or the whole record may be missing.

  wardround predict /data/types --model deploy_model.npz --out classes.csv
  wardround predict /data/types --model final_model.npz --case p017

--model is a hospital's deploy_model.npz (the model that its verdict recommends), the server's final_model.npz or
best_model.npz (the shared model), the weights of `wardround baseline`, or the folder of a bundle that `wardround export`
wrote. A model of invented patients is refused for other patients unless you give --synthetic-model-ok.
This is research software and not a medical device.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "predict", "segment cases, or tell the classes of a folder's cases", TEXT, run)
    parser.add_argument(
        "case", type=existing, metavar="CASE_FOLDER", help="folder of a case, of cases, or of labelled images"
    )
    parser.add_argument(
        "--model", type=existing, required=True, metavar="MODEL", help="weights (.npz) or bundle of wardround"
    )
    parser.add_argument(
        "--out",
        type=folder,
        metavar="FILE",
        help="one mask: .nii or .nii.gz, default ./<case>_mask.nii.gz; several: a folder, default ./masks; classes: .json or "
        ".csv, default ./classes.json",
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
    parser.add_argument(
        "--synthetic-model-ok",
        action="store_true",
        help="use a model that was trained on invented patients, to try out the program",
    )


def run(args: argparse.Namespace) -> int:
    """Predict with one model, and print volumes or classes."""
    from wardround.data.refusals import refuse_together
    from wardround.export.bundle_text import NOT_A_DEVICE
    from wardround.models import bundle_files
    from wardround.training import class_prediction, origin, prediction

    if class_prediction.is_classifier(bundle_files.load_any(args.model)[1]):
        return classes(args)
    weights = prediction.read_weights(args.model)
    require_whole(weights.meta, args.model)
    found = prediction.cases_in(args.case, args.wanted, weights.task)
    require_real(weights.meta, args.model, [one.case for one in found], args.synthetic_model_ok)
    kind = prediction.kind_of(weights, args.labels)
    outs = masks_of([one.case for one in found], args.out)
    require_new(outs, [file for one in found for file in (*one.images.values(), one.seg) if file is not None])
    records = [prediction.record_of(files, weights, args.record) for files in found]
    say(f"with {describe(weights.meta)}")
    model = prediction.ready(weights, args.device)
    segmenter = prediction.Segmenter(weights, kind, args.enhancing or 4, model)
    done: list[prediction.Prediction] = []
    problems: list[DataRefused] = []
    for number, (files, out, record) in enumerate(zip(found, outs, records, strict=True), start=1):
        say(f"case {number} of {len(found)}: {files.case}")
        try:
            done.append(segmenter.predict(files, out, record))
        except DataRefused as refusal:
            problems.append(refusal)
            continue
        tell(done[-1], list(weights.task.inputs.names), f"{files.case}: " if len(found) > 1 else "")
        if record is not None:
            tell_record(weights.table, record, args.record)
    if len(found) > 1 and done:
        print(f"written: {write_volumes(outs[0].parent / 'volumes.csv', done, origin.words(weights.meta))}")
    say(NOT_A_DEVICE)
    refuse_together(problems, str(args.case))
    return DONE


def masks_of(cases: Sequence[str], out: Path | None) -> list[Path]:
    """Return where the mask of every case is written. A name that is not a mask's, or
    one file for several cases, is refused with ConfigRefused.
    """
    is_file = out is not None and out.name.lower().endswith((".nii", ".nii.gz"))
    if len(cases) == 1 and (out is None or is_file):
        return [out or Path(f"{cases[0]}_mask.nii.gz")]
    if is_file or (out is not None and (out.suffix or out.is_file())):
        what = f"{len(cases)} cases" if is_file else "another ending, or a file"
        raise ConfigRefused(
            f"--out {out}",
            found=what,
            expected="a folder for the masks of several cases; .nii or .nii.gz for the mask of one",
            fix="correct the name, or choose one case with --case",
        )
    return [(out or Path("masks")) / f"{case}_mask.nii.gz" for case in cases]


def require_new(outs: Sequence[Path], read: Sequence[Path]) -> None:
    """Raise ConfigRefused where a result would replace a file of the input."""
    folders = {file.resolve().parent for file in read}
    taken = [out for out in outs if out.exists() and out.resolve().parent in folders]
    if taken:
        raise ConfigRefused(
            f"--out {taken[0]}",
            found=f"a file that is there already, in the folder of the case{_and_more(taken)}",
            expected="a new file: what lies beside the images is never overwritten",
            fix="name another file or folder with --out",
        )


def _and_more(taken: Sequence[Path]) -> str:
    return f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""


def tell(done: Any, sequences: Sequence[str], name: str) -> None:
    """Print the volumes and files of one case, and what was found but not used.

    name: printed in front of the volumes; empty where there is only one case.
    """
    missing = [name for name in sequences if name not in done.present]
    say(f"  used: {', '.join(done.present)}")
    if missing:
        say(f"  WARNING: without {', '.join(missing)}: the mask is less sure than with all {len(sequences)} sequences")
    if done.unused:
        say(f"  WARNING: images of this case that were not used: {', '.join(done.unused)}")
    volumes = ", ".join(f"{region} {volume:.1f} ml" for region, volume in done.volumes_ml.items())
    print(f"{name}{volumes}")
    print(f"written: {done.mask}, {done.picture.name}")


def tell_record(table: Any, record: Any, file: Path | None) -> None:
    """Say which values of the patient's health record (EHR) were known, and in which
    units they were taken to be.
    """
    features = table.features
    known = [name for name, flag in zip(features, record[len(features) :], strict=True) if flag]
    numbers = ", ".join(column.header for column in table.columns if column.kind == "numeric")
    if file and numbers:
        say(
            f"  a column whose header states no unit is read as in {numbers} (`units` of a site's file do not count here)"
        )
    without = "" if file else "no --record: "
    say(
        f"  {without}{len(known)} of {len(features)} values of the record are known ({', '.join(known) or 'all missing'})"
    )


def write_volumes(path: Path, done: Sequence[Any], trained_on: str) -> Path:
    """Write the volumes of all cases as a table that only this user can read: they are
    about patients.

    trained_on: What the model was trained on. It stands in every row, because rows are
      copied elsewhere.
    """
    regions, rows = list(done[0].volumes_ml), []
    for one in done:
        volumes = [round(one.volumes_ml[region], 3) for region in regions]
        rows.append([one.case, *volumes, " ".join(one.present), "; ".join(one.unused), trained_on])
    header = ["case", *(f"{region} [ml]" for region in regions), "sequences used", "images not used"]
    header.append("model trained on")
    # The file is created with its final mode: a moment of 0644 would be enough for
    # another user to open it.
    path.touch(mode=0o600)
    write_file(path, csv_text([header, *rows]))
    return path


def require_real(meta: Mapping[str, Any], file: Path, cases: Sequence[str], allowed: bool) -> None:
    """Say what a model was trained on. A model of synthetic patients is refused for
    other patients, unless `allowed`.
    """
    from wardround.training import origin

    if not all(origin.invented([case]) for case in cases):
        origin.require_real(meta, file, allowed, "these cases")
    say(origin.words(meta))


def classes(args: argparse.Namespace) -> int:
    """Predict the classes of the cases in a folder, and print at most ten lines."""
    from wardround.export.bundle_text import NOT_A_DEVICE
    from wardround.training import class_inputs, class_prediction

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
    if args.out is not None:
        require_new([out], [file for file in args.case.rglob("*") if file.is_file()])
    cases = class_inputs.read_cases(args.case, args.wanted, model.sampling.spec, model.sampling.record)
    require_real(model.meta, args.model, cases.names, args.synthetic_model_ok)
    say(f"{len(cases.names)} cases with {describe(model.meta)}, architecture {model.identity}, weights {model.digest}")
    rows = class_prediction.predict_classes(cases, model, args.device, counter("cases"))
    class_prediction.write_rows(rows, model, out)
    shown = [[row["case"], row["class"], *(f"{p:.3f}" for p in row["probabilities"].values()),
              " ".join(row["sequences"]) or "none", " ".join(row["record"]) or "none"] for row in rows[:10]]  # fmt: skip
    print(table(("case", "class", *(f"p {name}" for name in model.sampling.classes), "sequences", "record"), shown))
    print(f"written: {out}" + (f" (all {len(rows)} cases)" if len(rows) > 10 else ""))
    say(NOT_A_DEVICE)
    return DONE


def describe(meta: Mapping[str, Any]) -> str:
    """Return in words which model a file holds, and whether its hospital's verdict
    called it not usable.
    """
    from wardround.export.model_card import NOT_USABLE, mixed_words

    job = (meta.get("settings") or {}).get("job")
    if "candidate" in meta:
        mixed = mixed_words(meta)
        steps = f", {meta['k']} fine-tuning steps" if meta.get("k") and not mixed else ""
        steps += f", {mixed}" if mixed else ""
        if meta.get("usable") is False:
            return f"the best model of this hospital, {NOT_USABLE}: {meta['candidate']}{steps}"
        return f"this hospital's model to deploy: {meta['candidate']}{steps}"
    if "round" in meta:
        return f"the shared model of {job} after {meta['round']} rounds"
    return f"a baseline of {job}"


def require_whole(meta: Mapping[str, Any], file: Path) -> None:
    """Raise ModelRefused for a shared model that lacks the blocks that stay at
    hospitals.
    """
    settings = meta.get("settings") or {}
    if "round" in meta and (home := _at_home(settings)):
        raise ModelRefused(
            f"the shared model {file}",
            found=f"a model of {settings.get('job')}: its {home} never left the hospitals and is untrained here",
            expected="a whole model",
            fix="use the deploy_model.npz that each hospital keeps in its own run folder",
        )


def _at_home(settings: Mapping[str, Any]) -> str:
    """Return the roles whose blocks never left a hospital, "" for none.

    They are read from what the weights say about their job or, where the weights say
    nothing of it, from the recipe of that name.
    """
    from wardround.jobs import recipes
    from wardround.jobs.building import build

    if "sharing.home" in settings or "sharing_class" in settings:
        return str(settings.get("sharing.home", "")).replace(", ", " and ")
    name = settings.get("job")
    return " and ".join(build(recipes.job(name).sharing, "sharing").home_roles) if name in recipes.names() else ""
