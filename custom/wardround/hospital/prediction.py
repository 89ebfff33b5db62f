"""One case, one file of weights, one mask in the geometry of the case's own images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wardround.data.cases import find_cases
from wardround.data.ehr import Table
from wardround.data.ehr_words import table_from
from wardround.data.layouts import CaseFiles
from wardround.data.record import PATIENT, Vector, read_record, unknown
from wardround.data.volumes import Volume, read_images, write_mask
from wardround.errors import ConfigRefused, DataRefused, ModelRefused
from wardround.hospital.opening import pick_device
from wardround.models import bundle_files
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.models.specs import rebuild, require_size
from wardround.tasks.inference import predict_regions
from wardround.tasks.regions import KINDS, REGIONS, known_regions, labels_from_regions

MOST_IN_WINDOW = 2**25


@dataclass(frozen=True)
class Weights:
    """A file of weights whose architecture was checked: meta is what its writer said about it, table the record it reads."""

    spec: UNet3d | SegResNet3d
    arrays: Mapping[str, Any]
    meta: Mapping[str, Any]
    file: Path
    table: Table


@dataclass(frozen=True)
class Prediction:
    """volumes_ml: region -> millilitres, of the regions that the model knows."""

    mask: Path
    case: str
    present: tuple[str, ...]
    volumes_ml: Mapping[str, float]


def read_weights(file: Path) -> Weights:
    """Read deploy_model.npz, final_model.npz, best_model.npz, a baseline's weights, or the folder of a bundle.

    damaged, of an unknown architecture, or another one than the file's own fingerprint says: ModelRefused
    a patch or kind of labels that does not exist: ModelRefused
    """
    arrays, meta = bundle_files.load_any(file)
    if meta.get("label_kind", KINDS[0]) not in KINDS:
        raise ModelRefused(
            f"the kind of labels in {file}",
            found=f"another {type(meta['label_kind']).__name__}",
            expected=" or ".join(KINDS),
            fix="use a file that this version of wardround wrote",
        )
    spec = rebuild(meta.get("model"), str(file))
    require_size(spec, arrays, str(file))
    table = _table(spec, meta, file)
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
    return Weights(spec, arrays, meta, file, table)


def _table(spec: UNet3d | SegResNet3d, meta: Mapping[str, Any], file: Path) -> Table:
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
    """Return the record of a case, read from a table of patients (data/record.py); None: the network reads none.

    The row is that of the patient, or else of the case id. | no table: every value is missing
    a table for a network that reads none: ConfigRefused | no row, a column absent or in another unit: DataRefused
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
    rows = read_record(weights.table, file, {})
    for name in (files.patient, files.case):
        if name in rows:
            return rows[name]
    raise DataRefused(
        f"the record {file}",
        found=f"{len(rows)} rows, none for the patient of {files.case}",
        expected=f"a row whose `{PATIENT}` is {files.patient} or the name of the case",
        fix="add the row, or leave --record out: every value is then flagged as missing",
    )


def one_case(folder: Path, wanted: str | None) -> CaseFiles:
    """Return the case in a folder, `wanted` where it holds several; a mask is not needed. Several: ConfigRefused."""
    found = find_cases(folder, None if wanted is None else [wanted], require_seg=False)
    if len(found) > 1:
        raise ConfigRefused(
            f"one case in {folder}",
            found=f"{len(found)} cases, first {found[0].case!r}",
            expected="the folder of one case",
            fix="name that folder, or choose one with --case",
        )
    return found[0]


def predict_case(
    files: CaseFiles, weights: Weights, kind: str, device: str, out: Path, enhancing: int, record: Vector | None = None
) -> Prediction:
    """Segment a case and write the mask with the axes, shape and affine of its first image.

    kind: brats, or whole_tumour (the mask then holds 0 and 1 only) | enhancing: the value of enhancing tumour, 3 or 4
    record: what `record_of` found
    damaged images: DataRefused | a GPU that is not there, out not .nii or .nii.gz or not writable: ConfigRefused
    """
    model = ready(weights, device)
    volume = read_images(files)
    regions = regions_of(volume, weights, model, record)
    reference = next(iter(files.images.values()))
    write_mask(out, labels_from_regions(regions, kind), reference, enhancing)
    return Prediction(out, files.case, tuple(files.images), volumes_ml(regions, kind, volume))


def ready(weights: Weights, device: str) -> FlatModel:
    """Return the network with its weights on a device; a GPU that is not there: ConfigRefused."""
    model = FlatModel(weights.spec.build(0), pick_device(device))
    model.load(torch.from_numpy(model.layout.flatten(weights.arrays)).to(model.device))
    return model


def regions_of(volume: Volume, weights: Weights, model: FlatModel, record: Vector | None = None) -> NDArray[np.bool_]:
    """Return bool [3, H, W, D] in REGIONS order. record: what `record_of` found"""
    image = np.asarray(volume.image, np.float32)
    return predict_regions(model.module, image, volume.present, weights.meta.get("patch"), model.device, record=record)


def volumes_ml(regions: NDArray[np.bool_], kind: str, volume: Volume) -> dict[str, float]:
    """Return millilitres of every region that labels of this kind tell."""
    voxel_ml, known = float(np.prod(volume.spacing_mm)) / 1000, known_regions(kind)
    return {name: int(regions[i].sum()) * voxel_ml for i, name in enumerate(REGIONS) if known[i]}
