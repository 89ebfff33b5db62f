"""Which mask does a model give each case?

One file of weights gives one mask per case, in the geometry of the case's own images,
and a picture beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused, ModelRefused
from wardround.data.cases import find_cases
from wardround.data.ehr import Table
from wardround.data.ehr_table import PATIENT, Vector, read_ehr, unknown
from wardround.data.ehr_text import table_from
from wardround.data.layouts import CaseFiles, unused_files
from wardround.data.volumes import Volume, read_images, write_mask
from wardround.models import bundle_files
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel
from wardround.models.specs import Segmenting, rebuild, require_size
from wardround.reports.prediction_picture import draw_prediction
from wardround.tasks.brain_tumours import BRAIN_TUMOURS, DESCRIPTION
from wardround.tasks.components import RegionFilter, filter_from_json
from wardround.tasks.inference import predict_regions
from wardround.tasks.task import Task, task_from_json
from wardround.training import origin
from wardround.training.opening import BY_FLAG, pick_device
from wardround.training.overlays import shown_on

# A file of weights comes from elsewhere: its patch is limited before memory is
# allocated for it.
MOST_IN_WINDOW = 2**25


@dataclass(frozen=True)
class Weights:
    """A file of weights whose architecture was checked.

    spec: The network.
    arrays: The weights by parameter name.
    meta: What the writer of the file said about it.
    file: Where it was read from.
    table: The record that the network reads.
    task: What it learnt.
    region_filter: What it drops from the regions that it finds.
    """

    spec: Segmenting
    arrays: Mapping[str, Any]
    meta: Mapping[str, Any]
    file: Path
    table: Table
    task: Task = BRAIN_TUMOURS
    region_filter: RegionFilter = field(default_factory=RegionFilter)


@dataclass(frozen=True)
class Prediction:
    """The files of one predicted case.

    present: The sequences that were used.
    unused: The image files of the case that were not used.
    volumes_ml: Millilitres of each region that the model knows.
    """

    mask: Path
    picture: Path
    case: str
    present: tuple[str, ...]
    unused: tuple[str, ...]
    volumes_ml: Mapping[str, float]


def read_weights(file: Path) -> Weights:
    """Return a checked file of weights.

    file: deploy_model.npz, final_model.npz, best_model.npz, the weights of a baseline,
        or the folder of a bundle.

    ModelRefused is raised when the file is damaged, when its architecture is unknown or
    not the one of its own fingerprint, and when its patch or kind of labels does not
    exist.
    """
    arrays, meta = bundle_files.load_any(file)
    task = _task(meta, file)
    if meta.get("label_kind") not in (None, *task.outputs.kinds):
        raise ModelRefused(
            f"the kind of labels in {file}",
            found=f"another {type(meta['label_kind']).__name__}",
            expected=" or ".join(task.outputs.kinds),
            fix="use a file that this version of wardround wrote",
        )
    spec = rebuild(meta.get("model"), str(file))
    require_size(spec, arrays, str(file))
    table = _table(spec, meta, file)
    # Read a second time, now against the fingerprint of the architecture that was
    # rebuilt.
    arrays, _ = bundle_files.load_any(file, fingerprint(spec))
    patch = meta.get("patch")
    if patch is not None:
        whole = isinstance(patch, list) and len(patch) == 3 and all(isinstance(n, int) and n > 0 for n in patch)
        if not whole or any(n % spec.divisor for n in patch) or math.prod(patch) > MOST_IN_WINDOW:
            raise ModelRefused(
                f"the patch size in {file}",
                found=f"a {type(patch).__name__}",
                expected=f"three whole multiples of {spec.divisor}, {MOST_IN_WINDOW} voxels at most",
                fix="use a file that this version of wardround wrote",
            )
    return Weights(spec, arrays, meta, file, table, task, filter_from_json(meta, task.outputs, file))


def kind_of(weights: Weights, asked: str | None) -> str:
    """Return the kind of masks that a model can write.

    It is what the file says, or the part of it that is asked for. ModelRefused is
    raised when the file does not say it and nothing is asked for, and when regions are
    asked for that nobody trained.
    """
    known, kinds = weights.meta.get("label_kind"), weights.task.outputs.kinds
    wanted = asked or known
    trained = list(kinds.get(str(known), kinds[weights.task.outputs.default_kind]))
    if wanted is None or wanted not in kinds or not set(kinds[wanted]) <= set(trained):
        rest = [name for name in weights.task.outputs.names if name not in trained]
        only = f"{' and '.join(trained)} only: nobody trained {' and '.join(rest) or 'another region'}"
        raise ModelRefused(
            f"the regions that {weights.file} knows",
            found="not reported in the file" if known is None and wanted is None else only,
            expected=f"a model whose file says {' or '.join(kinds)}" if wanted is None else "only what was trained",
            fix="name them with --labels, if you know what it was trained on"
            if wanted is None
            else f"--labels {known or weights.task.outputs.default_kind}",
        )
    return str(wanted)


def _task(meta: Mapping[str, Any], file: Path) -> Task:
    """Return the task that a file describes; brain tumours if it describes none."""
    inputs = meta.get("inputs")
    said = inputs.get("task", DESCRIPTION) if isinstance(inputs, Mapping) else DESCRIPTION
    try:
        return task_from_json(said, str(file))
    except (ConfigRefused, TypeError, ValueError) as error:
        raise ModelRefused(
            f"the task in {file}",
            found=f"a description that is not sound ({type(error).__name__})",
            expected="one of a job",
            fix="use a file that this version of wardround wrote",
        ) from error


def _table(spec: Segmenting, meta: Mapping[str, Any], file: Path) -> Table:
    reads, words = getattr(spec, "ehr_columns", 0), meta.get("columns", "")
    try:
        table = table_from(words) if reads and isinstance(words, str) else Table()
    except ConfigRefused:
        table = Table()
    if len(table.features) != reads:
        raise ModelRefused(
            f"the record in {file}",
            found=f"a network that reads {reads} numbers, and columns for {len(table.features)}",
            expected="the columns that it was trained with",
            fix="use a file that this version of wardround wrote",
        )
    return table


def record_of(files: CaseFiles, weights: Weights, file: Path | None) -> Vector | None:
    """Return the record of a case from a table of patients, None if none is read.

    The row is that of the patient, or else that of the case id (data/ehr_table.py).
    Without a table every value is missing. ConfigRefused is raised for a table when the
    network reads none; DataRefused when there is no row, and when a column is absent or
    in another unit.
    """
    if not weights.table.features:
        if file is not None:
            raise ConfigRefused(
                f"--record {file}",
                found="a network that reads images alone",
                expected="a network that was trained with a record",
                fix="leave --record out",
            )
        return None
    if file is None:
        return unknown(weights.table)
    rows = read_ehr(weights.table, file, {})
    for name in (files.patient, files.case):
        if name in rows:
            return rows[name]
    raise DataRefused(
        f"the record {file}",
        found=f"{len(rows)} rows, none for the patient of {files.case}",
        expected=f"a row whose `{PATIENT}` is {files.patient} or the name of the case",
        fix="add the row, or leave --record out: every value is then flagged as missing",
    )


def cases_in(folder: Path, wanted: str | None, task: Task = BRAIN_TUMOURS) -> tuple[CaseFiles, ...]:
    """Return the cases of a folder (which may itself be one); no mask is needed.

    wanted: The only case to return; None returns all.
    """
    only = None if wanted is None else [wanted]
    fix = "name a folder of cases (docs/data.md)"
    if only:
        fix = f"name one that is there with --case: `ls {folder}` lists them; without --case all are predicted"
    return find_cases(folder, only, require_seg=False, source=task.source, fix=fix)


@dataclass(frozen=True)
class Segmenter:
    """A segmentation model on a device.

    kind: The kind of masks that are written.
    enhancing: The label value of enhancing tumour, 3 or 4, in BraTS masks.
    """

    weights: Weights
    kind: str
    enhancing: int
    model: FlatModel

    def predict(self, files: CaseFiles, out: Path, record: Vector | None = None) -> Prediction:
        """Write the mask of a case, and a picture beside it; both for this user alone,
        and both with the notice of a model that was trained on invented patients.

        The mask has the axes, shape and affine of the case's first image.
        record: What `record_of` returned.

        DataRefused is raised for damaged images, ConfigRefused when `out` is not .nii
        or .nii.gz or cannot be written.
        """
        volume = read_images(files)
        task = self.weights.task
        known = task.outputs.known(self.kind)
        regions = regions_of(volume, self.weights, self.model, record) & known[:, None, None, None]
        reference = next(iter(files.images.values()))
        enhancing = self.enhancing if task.brats_masks else None
        notice = origin.notice(self.weights.meta)
        write_mask(out, task.outputs.labels(regions, self.kind), reference, enhancing, notice=notice)
        picture = picture_of(out)
        shown = shown_on(list(files.images))
        image = np.asarray(volume.image[task.inputs.names.index(shown)], np.float32)
        title = f"{files.case}, {shown}: predicted, not a diagnosis"
        draw_prediction(image, regions, known, task.outputs.names, title, picture, volume.spacing_mm, notice)
        unused = unused_files(reference.parent, task.inputs)
        return Prediction(
            out,
            picture,
            files.case,
            tuple(files.images),
            unused,
            volumes_ml(regions, task, self.kind, volume),
        )


def picture_of(mask: Path) -> Path:
    """Return the path of the picture beside a mask."""
    return mask.with_name(re.sub(r"\.nii(\.gz)?$", "", mask.name, flags=re.IGNORECASE) + ".png")


def ready(weights: Weights, device: str) -> FlatModel:
    """Return the network with its weights on a device.

    ConfigRefused is raised for a GPU that is not there.
    """
    model = FlatModel(weights.spec.build(0), pick_device(device, BY_FLAG))
    model.load(torch.from_numpy(model.layout.flatten(weights.arrays)).to(model.device))
    return model


def regions_of(volume: Volume, weights: Weights, model: FlatModel, record: Vector | None = None) -> NDArray[np.bool_]:
    """Return bool [R, H, W, D] in the order of the task's regions.

    record: What `record_of` returned.
    """
    image = np.asarray(volume.image, np.float32)
    patch, regions = weights.meta.get("patch"), weights.task.outputs
    given = (model.module, image, volume.present, patch, model.device, regions)
    found = predict_regions(*given, record=record, mirrored=weights.task.mirrored)
    return weights.region_filter.applied(found, regions, volume.spacing_mm)


def volumes_ml(regions: NDArray[np.bool_], task: Task, kind: str, volume: Volume) -> dict[str, float]:
    """Return the millilitres of every region that labels of this kind tell."""
    voxel_ml, known = float(np.prod(volume.spacing_mm)) / 1000, task.outputs.known(kind)
    return {name: int(regions[i].sum()) * voxel_ml for i, name in enumerate(task.outputs.names) if known[i]}
