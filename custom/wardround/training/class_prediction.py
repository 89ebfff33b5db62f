"""Which class does a trained classifier assign to each case of a folder?

One file of weights gives one row per case: the class, the probabilities and the sources
they were computed from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wardround.core import files
from wardround.core.arrays import Arrays, digest
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.core.tables import csv_text
from wardround.models import bundle_files
from wardround.models.blend import Blend
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel
from wardround.models.specs import network_name, rebuild_classifier, require_size
from wardround.models.vit import ViTFusion
from wardround.tasks.classification import softmax
from wardround.training import origin
from wardround.training.class_inputs import INPUTS, Cases, read_images
from wardround.training.class_site import SCORED_AT_ONCE
from wardround.training.classification import CaseSampling
from wardround.training.opening import BY_FLAG, pick_device

Row = dict[str, Any]
# A file of weights comes from elsewhere: its image size is limited before any memory is
# allocated for it.
MOST_PIXELS = 2**24
ENDINGS = (".json", ".csv")


@dataclass(frozen=True)
class Classifier:
    """A file of weights whose architecture and inputs were checked.

    spec: The network.
    sampling: What the network's inputs are.
    arrays: The weights by parameter name.
    meta: What the writer of the file said about it.
    file: Where it was read from.
    identity: The fingerprint of the architecture.
    digest: The digest of the weights themselves.
    """

    spec: ViTFusion | Blend
    sampling: CaseSampling
    arrays: Arrays
    meta: Mapping[str, Any]
    file: Path
    identity: str
    digest: str


def is_classifier(meta: Mapping[str, Any]) -> bool:
    """Return whether a file of weights says that its network is a classifier."""
    model = meta.get("model")
    return isinstance(model, Mapping) and network_name(model) == ViTFusion.__name__


def read_classifier(file: Path) -> Classifier:
    """Return the classifier of a checked file of weights.

    file: A hospital's deploy_model.npz, the server's final_model.npz or best_model.npz,
        or the weights of a baseline.

    ModelRefused is raised when the file is damaged, when its architecture is not the
    one of its own fingerprint, when it does not describe its inputs, and when its
    network does not fit them (classes, sequences, columns, size).
    """
    arrays, meta = bundle_files.load_any(file)
    spec = rebuild_classifier(meta.get("model"), str(file))
    # The size is checked before a network is built: a forged file could name a huge
    # one.
    require_size(spec, arrays, str(file))
    identity = fingerprint(spec)
    arrays, _ = bundle_files.load_any(file, identity)
    sampling = _sampling(meta.get("inputs"), file)
    member: ViTFusion = spec.network if isinstance(spec, Blend) else spec
    if (member.case, member.classes) != (sampling.vector, len(sampling.classes)):
        found = f"a network for {member.case} and {member.classes} classes"
        raise _refused(
            file,
            found,
            f"{sampling.vector} and {len(sampling.classes)} classes, as the file itself says",
        )
    return Classifier(spec, sampling, arrays, meta, file, identity, digest(arrays))


def predict_classes(
    cases: Cases,
    model: Classifier,
    device: str,
    say: Callable[[int, int], None],
) -> list[Row]:
    """Return one row per case: the case, its class, probabilities and present sources.

    Images are read in groups, as they are needed.
    say: Called with (cases done, cases in all) after each group.

    DataRefused is raised for a damaged image, ConfigRefused for a GPU that is not
    there.
    """
    where, spec = pick_device(device, BY_FLAG), model.sampling.spec
    net = FlatModel(model.spec.build(0), where)
    w = torch.from_numpy(net.layout.flatten(model.arrays)).to(net.device)
    found: list[Row] = []
    for start in range(0, len(cases.names), SCORED_AT_ONCE):
        rows = range(start, min(start + SCORED_AT_ONCE, len(cases.names)))
        images, present = read_images(cases, rows, spec)
        inputs = model.sampling.inputs(
            images,
            present,
            cases.values[start : rows.stop],
            cases.known[start : rows.stop],
        )
        for row, shown, chances in zip(
            rows,
            present,
            softmax(net.outputs(w, inputs.to(net.device))),
            strict=True,
        ):
            found.append(
                {
                    "case": cases.names[row],
                    "class": spec.classes[int(chances.argmax())],
                    "probabilities": {name: round(float(p), 6) for name, p in zip(spec.classes, chances, strict=True)},
                    "sequences": [name for name, has in zip(spec.modalities, shown, strict=True) if has],
                    "record": _known(model, cases.known[row]),
                }
            )
        say(rows.stop, len(cases.names))
    return found


def write_rows(rows: Sequence[Row], model: Classifier, out: Path) -> Path:
    """Write the rows as .json or .csv and return the path.

    A .csv file holds the same content, one line per case. Only this user may read the
    file, because its rows are about patients. ConfigRefused is raised when it cannot be
    written.
    """
    about = {
        "file": model.file.name,
        "architecture": model.identity,
        "weights": model.digest,
        "trained on": origin.words(model.meta),
    }
    if out.suffix.lower() == ".json":
        text = (
            json.dumps(
                {"model": about, "research": "no medical device", "cases": list(rows)},
                indent=1,
            )
            + "\n"
        )
    else:
        text = _csv(rows, model.sampling.classes, about)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write(out, text, private=True)
    except OSError as error:
        raise ConfigRefused(
            f"--out {out}",
            found=f"cannot be written: {error.strerror}",
            expected="a file in a folder that you may write to",
            fix="name another file",
        ) from error
    return out


def _csv(rows: Sequence[Row], classes: Sequence[str], about: Mapping[str, str]) -> str:
    header = [
        "case",
        "class",
        *(f"p {name}" for name in classes),
        "sequences",
        "record",
        *about,
    ]
    lines = []
    for row in rows:
        chances = [row["probabilities"][name] for name in classes]
        words = (" ".join(row["sequences"]), " ".join(row["record"]))
        lines.append([row["case"], row["class"], *chances, *words, *about.values()])
    return csv_text([header, *lines])


def _known(model: Classifier, known: Any) -> list[str]:
    """Return the columns of the record that the network was given for one case."""
    if not model.sampling.record:
        return []
    columns = model.sampling.spec.table.columns
    owners = [column.name for column in columns for _ in column.features]
    return list(dict.fromkeys(owner for owner, has in zip(owners, known, strict=True) if has))


def _sampling(inputs: object, file: Path) -> CaseSampling:
    if not isinstance(inputs, Mapping) or set(inputs) != set(INPUTS):
        raise _refused(
            file,
            f"a {type(inputs).__name__} with other keys",
            f"`inputs` with {', '.join(INPUTS)}",
        )
    try:
        found = CaseSampling(**inputs, batch=1, modality_dropout=0.0, augment=False)
    except (ConfigRefused, TypeError, ValueError, AttributeError, KeyError) as error:
        raise _refused(
            file,
            f"a description that is not sound ({type(error).__name__})",
            "one of a job",
        ) from error
    if math.prod(found.spec.grid.shape) > MOST_PIXELS:
        raise _refused(
            file,
            f"images of {found.spec.grid.shape}",
            f"{MOST_PIXELS} pixels or voxels at most",
        )
    return found


def _refused(file: Path, found: str, expected: str) -> ModelRefused:
    return ModelRefused(
        f"the inputs of the network in {file}",
        found=found,
        expected=expected,
        fix="use a file that this version of wardround wrote",
    )
