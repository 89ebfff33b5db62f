"""What does a hospital keep for itself after a job?

It keeps its models, its page per patient and overlays. None of it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.core.arrays import Arrays
from wardround.core.errors import ConfigRefused
from wardround.messages.allowed_names import CLASSES
from wardround.models import checkpoint
from wardround.models.blend import PARTS, Blend
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import Network
from wardround.models.specs import describe
from wardround.reports.patients import in_words, patient_score, summary
from wardround.reports.site_page import write_site_report
from wardround.reports.verdict import NAMES
from wardround.training import origin
from wardround.training.evaluation import Evaluation
from wardround.training.mixture import Mixture, Model, bare, filter_of, members
from wardround.training.task import TaskSite

MODEL_FILE = "deploy_model.npz"


def keep_models(
    evaluation: Evaluation,
    site: TaskSite,
    spec: Network,
    facts: Mapping[str, Any],
    out: Path,
) -> Path:
    """Write the model to deploy as `deploy_model.npz` and return its path.

    The file holds what `wardround predict` needs, what it drops from its regions
    (tasks/components.py) among it. A blend is one network with the
    weights of both members in one file (models/blend.py).
    spec: The settings of the job's network.
    facts: What this hospital reports about its data.
    """
    name = evaluation.numbers["deploy"]
    candidate = evaluation.numbers["candidates"][name]
    network, arrays = deployed(evaluation.weights[name], spec, site)
    meta = {
        "model": describe(network),
        "candidate": name,
        "k": candidate["k"],
        **filter_of(evaluation.weights[name]).as_json,
        **({"mixed": dict(evaluation.mixed[name])} if name in evaluation.mixed else {}),
        "val_score": candidate["val"],
        "usable": evaluation.numbers.get("usable"),
        **site.about_model(),
        "trained_on": origin.of_sites([facts["phantoms"]], others=name != "local"),
        "card": origin.card_of_facts([facts]),
    }
    path = out / MODEL_FILE
    checkpoint.save(path, arrays, fingerprint(network), meta)
    return path


def deployed(model: Model, spec: Network, site: TaskSite) -> tuple[Network, Arrays]:
    """Return (settings of the network, weights by name) of a model as it is kept.

    ConfigRefused is raised for a mixture of more than two models.
    """
    blocks = [site.layout.unflatten(w.detach().cpu().numpy()) for w in members(model)]
    plain = bare(model)
    if not isinstance(plain, Mixture):
        return spec, blocks[0]
    if len(blocks) != 2:
        raise ConfigRefused(
            "the model to deploy",
            found=f"a mixture of {len(blocks)} models",
            expected="one model, or a blend of two",
            fix="choose another candidate",
        )
    exclusive = site.cohort.label_kind == CLASSES
    named = {f"{part}.{name}": block for part, mine in zip(PARTS, blocks, strict=True) for name, block in mine.items()}
    return Blend(spec, plain.shares[0], exclusive), named


def write_page(
    evaluation: Evaluation,
    site: TaskSite,
    job: str,
    facts: Mapping[str, Any],
    out: Path,
    masks: Mapping[int, Any] | None = None,
) -> Path:
    """Write site_report.html and overlays, and return the page's path.

    The page has one row per test patient and model, the worst patients first, and
    overlays of the worst.
    masks: The history that training/mask_history.py kept.
    """
    # The page is for the hospital alone: it names patients.
    deploy = evaluation.numbers["deploy"]
    patients = _patients(site)
    of = {name: dict(zip(patients, rows, strict=True)) for name, rows in evaluation.rows.items()}
    worst = sorted(patients, key=lambda patient: patient_score(of[deploy][patient]))
    rows = [
        {
            "Patient": patient,
            "Model": NAMES[name] + (" (chosen)" if name == deploy else ""),
            **in_words(of[name][patient]),
        }
        for patient in worst
        for name in (deploy, *(name for name in of if name != deploy))
    ]
    pictures = site.pictures(evaluation.weights[deploy], NAMES[deploy], out / "overlays", worst)
    about = {
        key: facts[key] for key in ("label", "cases", "classes", "modalities", "label_kind", "device") if key in facts
    }
    run = {
        "job": job,
        "site": site.name,
        "phantoms": facts["phantoms"],
        "about": about,
        "final": evaluation.numbers,
    }
    run["model_file"], run["summary"] = (
        str(out / MODEL_FILE),
        summary(list(of[deploy].values())),
    )
    run["mixed"] = dict(evaluation.mixed[deploy]) if deploy in evaluation.mixed else None
    run["floors"] = dict(evaluation.floors)
    run["masks"] = {str(round_): row for round_, row in (masks or {}).items()}
    return write_site_report(run, rows, pictures, out)


def _patients(site: TaskSite) -> list[str]:
    return list(dict.fromkeys(site.cohort.patients[case] for case in site.split.test))
