"""What a hospital keeps for itself after a job: its models, its per-patient page, overlays. None of it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.hospital import origin
from wardround.hospital.judging import Judgement
from wardround.hospital.task import TaskSite
from wardround.models import checkpoint
from wardround.reports.site_page import write_site_report


def keep_models(
    judgement: Judgement, site: TaskSite, identity: str, model: Mapping[str, Any], facts: Mapping[str, Any], out: Path
) -> Path:
    """Write the model to deploy as `deploy_model.npz`, with what `wardround predict` needs, and return its path.

    facts: what this hospital says about its data
    """
    name = judgement.numbers["deploy"]
    candidate = judgement.numbers["candidates"][name]
    meta = {
        "model": dict(model),
        "candidate": name,
        "k": candidate["k"],
        "val_score": candidate["val"],
        **site.about_model(),
        "trained_on": origin.of_sites([facts["phantoms"]], others=name != "local"),
        "card": origin.card_of_facts([facts]),
    }
    path = out / "deploy_model.npz"
    arrays = site.layout.unflatten(judgement.weights[name].detach().cpu().numpy())
    checkpoint.save(path, arrays, identity, meta)
    return path


def write_page(
    judgement: Judgement,
    site: TaskSite,
    job: str,
    facts: Mapping[str, Any],
    out: Path,
    masks: Mapping[int, Any] | None = None,
) -> Path:
    """Write site_report.html with one row per test patient and model, and overlays of the first test patients.

    masks: what hospital/mask_history.py kept
    """
    deploy = judgement.numbers["deploy"]
    rows = [
        {"patient": patient, "model": name, **{key: round(value, 4) for key, value in row.items()}}
        for name, per_patient in judgement.rows.items()
        for patient, row in zip(_patients(site), per_patient, strict=True)
    ]
    pictures = site.pictures(judgement.weights[deploy], deploy, out / "overlays")
    about = {
        key: facts[key] for key in ("label", "cases", "classes", "modalities", "label_kind", "device") if key in facts
    }
    run = {"job": job, "site": site.name, "phantoms": facts["phantoms"], "about": about, "final": judgement.numbers}
    run["masks"] = {str(round_): row for round_, row in (masks or {}).items()}
    return write_site_report(run, rows, pictures, out)


def _patients(site: TaskSite) -> list[str]:
    return list(dict.fromkeys(site.cohort.patients[case] for case in site.split.test))
