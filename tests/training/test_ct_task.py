"""A CT task with one image and one organ, as a YAML: printed, trained two rounds on phantoms, judged, predicted, exported.

And what may leave: the names of THIS job's task, compared with a list.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from wardround import __version__
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.arrays import in_variable
from wardround.core.errors import ConfigRefused, ModelRefused, ReleaseRefused
from wardround.export.bundle import write_bundle
from wardround.export.bundle_text import Title
from wardround.flare import plaintext_messages
from wardround.jobs import folder, fragments, job_classes, recipes
from wardround.jobs.building import build, require_buildable
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.specs import describe
from wardround.reports import cards, schema
from wardround.training import prediction
from wardround.training.client import Hospital
from wardround.training.global_model import initial_arrays

FRAGMENT = Path(__file__).parent / "tasks" / "ct_spleen.yaml"
JOB = "ct_spleen_fedavg"


@pytest.fixture
def ct_job(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The job, from a copy of app_configs/ with one fragment and one row more."""
    configs = shutil.copytree(repository / "app_configs", tmp_path / "app_configs")
    shutil.copy(FRAGMENT, configs / "task")
    page = yaml.safe_load((configs / "jobs.yaml").read_text())
    page["jobs"][JOB] = {"algorithm": "fedavg", "fedavg_baseline": False, "task": "ct_spleen"}
    (configs / "jobs.yaml").write_text(yaml.safe_dump(page))
    monkeypatch.setattr(fragments, "_root", lambda: configs)
    job_classes.shipped.cache_clear()
    yield recipes.job(JOB, ["num_rounds=2", "work=2"])
    job_classes.shipped.cache_clear()


def hospitals(job: Any, tmp_path: Path) -> list[Hospital]:
    """Two simulated hospitals without data, which invent phantoms, as the executor opens them."""
    parts = {name: build(job.task[name], name) for name in ("model", "sampling", "model_selection", "phantoms")}
    schedule = build(job.federation["schedule"], "schedule")
    more = {
        "algorithm": FedAvg(),
        "sharing": EVERYTHING,
        "fedavg_baseline": None,
        "private": None,
        "schedule": schedule,
        "seed": 0,
    }
    found = []
    for name in ("site-1", "site-2"):
        workspace = tmp_path / name
        (workspace / "states").mkdir(parents=True)
        settings = SimpleNamespace(**parts, **more)
        found.append(
            Hospital.open(
                name, workspace, workspace / "states", simulator=True, settings=settings, say=lambda text: None
            )
        )
    return found


def exit_words(job: Any) -> list[str]:
    found: list[str] = folder.outbound(job)["allowed_names"]
    return found


def test_the_exit_and_the_server_list_the_names_of_this_task(ct_job: Any) -> None:
    require_buildable(ct_job)
    scores = ["dice_mean", "dice_spleen", "hd95_mm_mean", "hd95_mm_spleen"]
    assert exit_words(ct_job) == ["ct", "labels organs", *scores]
    server = folder.server_config(ct_job)["workflows"][0]["args"]["mode"]["args"]
    assert server["allowed_names"] == exit_words(ct_job)
    assert server["inputs"]["task"] == yaml.safe_load(FRAGMENT.read_text())["sampling"]["args"]["task"]
    assert "spleen" in folder.job_files(ct_job)["CARD.md"]


def test_two_rounds_the_judgement_and_the_report(ct_job: Any, tmp_path: Path) -> None:
    sites, words = hospitals(ct_job, tmp_path), exit_words(ct_job)
    first = initial_arrays(sites[0].settings.model, 0)
    weights = in_variable("model", first)
    for round_ in range(2):
        updates = []
        for site in sites:
            delta, loss = site.train(weights, round_)
            numbers = {"loss": loss, "val_score": site.validate(weights, round_), "seconds": 1.0}
            facts = site.facts | {"version": __version__}
            assert (facts["modalities"], facts["label_kind"]) == ({"ct": 8}, "organs")
            message = plaintext_messages.update_message(plaintext_messages.Update(delta, site.weight, numbers, facts))
            read = plaintext_messages.read_update(message, words)
            plaintext_messages.require_named(read.facts, words)
            updates.append(read.delta)
        weights = {name: block + (updates[0][name] + updates[1][name]) / 2 for name, block in weights.items()}
    assert any((weights[f"model:{name}"] != block).any() for name, block in first.items())

    evaluation = sites[0].evaluate(weights, 2)
    scores = evaluation.numbers | {"val_score": 0.5, "seconds": 1.0}
    read = plaintext_messages.read_scores(plaintext_messages.scores_message(scores), words)
    test = read["candidates"]["fedavg"]["test"]
    assert set(test) == {"dice_mean", "dice_spleen", "hd95_mm_spleen"}
    about = {"score": "Dice", "names": words}
    run = {"job": JOB, "simulator": True, "phantoms": True, "settings": about, "sites": {"site-1": {}}, "rounds": []}
    final = {key: read[key] for key in ("candidates", "deploy", "usable")}
    report = schema.build({**run, "final": {"site-1": final}, "outcome": "complete", "problems": []})
    table = cards.candidate_table(report["final"]["site-1"]["candidates"], "fedavg", "t")
    assert "Dice spleen" in table.heads  # type: ignore[union-attr]
    with pytest.raises(ConfigRefused):
        schema.build({**run, "settings": {}, "final": {"site-1": final}, "outcome": "complete", "problems": []})

    w = weights
    names = list(first)
    arrays = {name: w[f"model:{name}"] for name in names}
    spec = sites[0].settings.model
    file = tmp_path / "deploy_model.npz"
    checkpoint.save(file, arrays, fingerprint(spec), {"model": describe(spec), **sites[0].site.about_model()})
    read_back = prediction.read_weights(file)
    assert read_back.task == sites[0].settings.sampling.learns
    (case, *_) = prediction.cases_in(tmp_path / "site-1" / "phantoms", None, read_back.task)
    segmenter = prediction.Segmenter(read_back, "organs", 4, prediction.ready(read_back, "cpu"))
    found = segmenter.predict(case, tmp_path / "mask.nii.gz")
    assert set(found.volumes_ml) == {"spleen"}
    assert set(np.unique(np.asarray(nibabel.load(found.mask).dataobj))) <= {0, 1}
    bundle = write_bundle(tmp_path / "bundle", read_back, Title("t", "T", "a", "c"))
    assert prediction.read_weights(bundle).task == read_back.task
    assert "spleen" in (bundle / "docs" / "README.md").read_text()


@pytest.mark.parametrize("name", ["dice_of_patient_3", "dice_WT", "dice_spleen2", "hd95_mm_patient", "accuracy", "ct"])
def test_a_score_of_another_name_is_refused(ct_job: Any, name: str) -> None:
    scores = {
        "candidates": {"local": {"test": {name: {"value": 0.5}}}},
        "deploy": None,
        "val_score": None,
        "seconds": None,
    }
    with pytest.raises(ReleaseRefused):
        plaintext_messages.read_scores(plaintext_messages.scores_message(scores), exit_words(ct_job))
    fine = copy.deepcopy(scores)
    fine["candidates"]["local"]["test"] = {"dice_spleen": {"value": 0.5}}  # type: ignore[index]
    assert plaintext_messages.read_scores(plaintext_messages.scores_message(fine), exit_words(ct_job)) == fine


@pytest.mark.parametrize("kind", ["brats", "whole_tumour", "classes", "organs of patient 3", "spleen", "ct"])
def test_another_kind_of_labels_is_refused(ct_job: Any, kind: str) -> None:
    facts = {
        "label": "North",
        "cases": {"train": 5, "val": 5, "test": 5},
        "modalities": {"ct": 15},
        "label_kind": "organs",
        "device": "cpu",
        "phantoms": False,
        "version": __version__,
        "fingerprint": "0" * 16,
    }
    numbers = {"loss": 1.0, "val_score": 0.5, "seconds": 1.0}
    block = {"model:a": np.zeros(2, np.float32)}
    words = exit_words(ct_job)
    plaintext_messages.read_update(
        plaintext_messages.update_message(plaintext_messages.Update(block, 5, numbers, facts)), words
    )
    with pytest.raises(ReleaseRefused):
        plaintext_messages.read_update(
            plaintext_messages.update_message(
                plaintext_messages.Update(block, 5, numbers, facts | {"label_kind": kind})
            ),
            words,
        )


def test_a_network_of_other_channels_is_refused_when_printed(ct_job: Any) -> None:
    with pytest.raises(ConfigRefused, match="2 input and 1 output channels"):
        require_buildable(recipes.job(JOB, ["model.in_channels=8"]))
    with pytest.raises((ConfigRefused, ModelRefused), match="task"):
        require_buildable(recipes.job(JOB, ["sampling.task.normalisation=[1, 2]"]))
