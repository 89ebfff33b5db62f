"""Classes at one hospital: what is drawn, hidden and scored; the same rounds, judgement and privacy as segmentation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

from wardround.algorithms.base import Steps, descend, plain
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import first_variables
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.errors import ConfigRefused
from wardround.data.description import Description, Row, Spec, write_folder
from wardround.data.ehr import Table
from wardround.data.pictures import Grid
from wardround.data.site_config import SiteConfig
from wardround.data.splits import SHARES, even_counts, split_patients
from wardround.dp.dp_sgd import PatientDP
from wardround.models.per_sample import TOLERANCE, PerSample
from wardround.models.vit import ViTFusion
from wardround.synthetic.hospitals import hospital as profile
from wardround.synthetic.phantom_ehr import CLASSES, COLUMNS
from wardround.tasks.classification import cross_entropy_by_patient
from wardround.training.case_objective import hide
from wardround.training.class_inputs import read_cases
from wardround.training.class_prediction import predict_classes, read_classifier
from wardround.training.classification import CaseSampling
from wardround.training.client import Hospital
from wardround.training.dp_training import DPSite
from wardround.training.evaluation import ModelSelection, evaluate
from wardround.training.mixture import Mixture
from wardround.training.opening import TypePhantoms
from wardround.training.pages import keep_models
from wardround.training.splitting import split_of

SEQUENCES = ("t1", "t1ce", "t2", "flair")
RECORD = [column.as_json() for column in COLUMNS.columns]
SAMPLING = CaseSampling(CLASSES, SEQUENCES, RECORD, 32, 1, 0.5, 4, 0.3, record=True, augment=True)
SPEC = ViTFusion("vit_tiny_patch16_224", 4, (32, 32), len(COLUMNS.features), 3, "shared", depth=1)
PHANTOMS = TypePhantoms([32, 32, 24], 18, 1.0)


def by_id(cohort):
    return split_patients(cohort.patients, fixed_training=True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("types")
    PHANTOMS.write(root / "cases", profile(0), 0)
    return root


@pytest.fixture
def site(folder):
    """site(**changed sampling) -> ClassificationSite"""

    def make(spec=SPEC, only=None, **changed):
        sampling = replace(SAMPLING, **changed)
        config = SiteConfig(data=folder / "cases", cases=only)
        cohort = sampling.cohort(config, folder / "cache", lambda words: None)
        return sampling.open("site-1", cohort, split_patients(cohort.patients), spec, 0, "cpu")

    return make


def test_the_same_purpose_draws_the_same(site):
    one, two, other = (site().objective("train", n).sample(2) for n in (1, 1, 2))
    assert all(torch.equal(a.inputs, b.inputs) and a.patients == b.patients for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0].inputs, other[0].inputs)
    assert not set(one[0].patients) & set(one[1].patients)
    assert {case for batch in one for case in batch.patients} <= set(site().split.train)


def test_labels_are_those_of_the_patients(site):
    made = site()
    for batch in made.objective("x").sample(3):
        assert batch.labels.tolist() == [made.cohort.labels[who] for who in batch.patients]


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.95])
def test_one_source_is_always_left(chance):
    rng = np.random.default_rng(0)
    left, records = [], []
    for _ in range(4000):
        present, known = np.array([True, True, False, True]), np.array([True, False])
        hide(present, known, chance, rng)
        left.append(int(present.sum()) + int(known.any()))
        records.append(known.any())
        assert not present[2]
    assert min(left) >= 1
    expected = 4 * (1 - chance) + chance**4
    assert np.mean(left) == pytest.approx(expected, abs=0.06)
    assert np.mean(records) == pytest.approx(1 - chance + chance**4 / 4, abs=0.03)


def test_a_job_says_how_images_are_augmented(site):
    """Shifted far enough, no image is where it was; without augmentation all are."""
    still, moved = site(augment=False), site(augmentation={"shift": 0.5, "scale": 0.0, "offset": 0.0})
    cases = [batch.inputs for batch in still.objective("x").sample(2)]
    assert all(
        torch.equal(a, b.inputs) for a, b in zip(cases, site(augment=False).objective("x").sample(2), strict=True)
    )
    assert not any(torch.equal(a, b.inputs) for a, b in zip(cases, moved.objective("x").sample(2), strict=True))
    assert moved.sampling.strengths.shift == 0.5


def test_a_job_can_let_every_class_weigh_the_same(site):
    made, plain_ = site(balanced=True), site()
    counts = np.array(list(made.cohort.class_counts(made.split.train).values()))
    assert plain_.class_weights is None
    assert made.class_weights.numpy() * counts == pytest.approx(counts.sum() / np.count_nonzero(counts) * (counts > 0))
    (batch,) = made.objective("x").sample(1)
    w = made.model.vector.clone()
    each = cross_entropy_by_patient(made.model.outputs(w, batch.inputs), batch.labels)
    loss, _ = made.objective("x").value_and_grad(w, batch)
    assert torch.equal(made.pooled([batch, batch]).weights, batch.weights.repeat(2))
    assert plain_.pooled(plain_.objective("x").sample(2)).weights is None
    assert loss == pytest.approx(float((each * made.class_weights[batch.labels]).mean()), rel=1e-4)


def test_a_job_can_ask_for_even_parts(folder):
    sampling = replace(SAMPLING, stratified=True)
    cohort = sampling.cohort(SiteConfig(data=folder / "cases"), folder / "cache", lambda words: None)
    split = split_of(cohort)
    counts = [list(cohort.class_counts(part).values()) for part in (split.train, split.val, split.test)]
    whole = list(cohort.class_counts().values())
    assert list(map(sum, zip(*counts, strict=True))) == whole
    assert [list(one) for one in zip(*counts, strict=True)] == [list(even_counts(count, SHARES)) for count in whole]


def test_it_learns(site):
    made = site(modality_dropout=0.0, augment=False)
    w, losses = descend(made.model.vector.clone(), plain(made.objective("x")), 60, Steps(60, 0.02, 0.9, True, 0.0, 1.0))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert made.score(w, made.split.train) > 0.5


def test_rows_summary_and_gain(site):
    made = site()
    w = made.model.vector.clone()
    rows = made.rows(w, made.cohort.cases)
    assert len(rows) == 18
    assert all(sum(row[f"p {name}"] for name in CLASSES) == pytest.approx(1) for row in rows)
    told = made.summary(rows)
    assert told["balanced_accuracy"]["value"] == pytest.approx(made.score(w, made.cohort.cases))
    assert told["balanced_accuracy"]["cases"] == 18
    assert made.gain(rows, rows)["value"] == 0


def test_a_mixture_has_the_mean_probabilities_and_the_parts_of_patients_add_up(site):
    made = site()
    one, other = made.model.vector.clone(), made.model.vector + 0.1 * torch.randn(made.layout.total)
    models = {"a": one, "b": other, "both": Mixture((one, other), (0.25, 0.75))}
    rows = made.rows_of(models, made.cohort.cases)
    assert rows["a"] == made.rows(one, made.cohort.cases)
    for a, b, both in zip(*rows.values(), strict=True):
        for name in CLASSES:
            assert both[f"p {name}"] == pytest.approx(0.25 * a[f"p {name}"] + 0.75 * b[f"p {name}"], abs=1e-6)
    for name, score in made.validation_scores(models, made.cohort.cases).items():
        assert score.value == made.summary(rows[name])["balanced_accuracy"]["value"]
        assert np.mean(score.patients) == pytest.approx(score.value)
        assert len(score.patients) == 18


def test_the_deployed_blend_tells_the_classes_that_were_evaluated(site, folder, tmp_path):
    """From the evaluation with a blend through the file of weights to `wardround predict`."""
    made = site()
    selection = ModelSelection([0, 1], 0.01, blend=[0.25, 0.5, 0.75])
    start = made.model.vector + 0.02
    found = evaluate(
        made, {"fedavg": start}, made.model.vector.clone(), Schedule(1, 2, 0.05, 0, False, 0, 0, "cosine"), selection
    )
    assert set(found.numbers["candidates"]) == {"local", "fedavg", "fedavg_finetuned", "blend"}
    chosen = replace(found, numbers={**found.numbers, "deploy": "blend"})
    path = keep_models(chosen, made, SPEC, {"phantoms": True}, tmp_path)
    model = read_classifier(path)
    cases = read_cases(folder / "cases", None, model.sampling.spec, model.sampling.record)
    told = {row["case"]: row["probabilities"] for row in predict_classes(cases, model, "cpu", lambda *_: None)}
    rows = made.rows_of({"blend": found.weights["blend"]}, made.cohort.cases)["blend"]
    for patient, row in zip(sorted(set(made.cohort.patients.values())), rows, strict=True):
        (case,) = (name for name, who in made.cohort.patients.items() if who == patient)
        assert told[case] == {name: pytest.approx(row[f"p {name}"], abs=1e-5) for name in CLASSES}


def test_without_the_record_it_is_not_looked_at(site):
    spec = replace(SPEC, columns=0)
    made = site(spec=spec, record=False)
    assert made.objective("x").sample(1)[0].inputs.shape[1] == made.sampling.vector.length == 4 * 32 * 32 + 4


@pytest.mark.parametrize(
    "changed", [{"columns": 4}, {"modalities": 3}, {"size": (48, 48)}, {"classes": 2}], ids=lambda one: next(iter(one))
)
def test_a_network_for_other_patients_is_refused(site, changed):
    with pytest.raises(ConfigRefused, match="the same modalities, size, columns and classes"):
        site(spec=replace(SPEC, **changed))


def test_a_folder_that_describes_something_else_is_refused(site):
    with pytest.raises(ConfigRefused, match="classes of"):
        site(classes=("ring", "halo"))


@pytest.mark.parametrize(
    "changed",
    [{"batch": 0}, {"modality_dropout": 1.0}, {"record": None}, {"augment": 1}, {"stratified": 1}, {"balanced": 1}],
)
def test_senseless_sampling_is_refused(changed):
    with pytest.raises(ConfigRefused, match="the sampling of patients"):
        replace(SAMPLING, **changed)


def test_a_site_of_one_class_trains_and_is_scored_without_a_silent_number(site):
    whole = site()
    only = tuple(case for case, label in whole.cohort.labels.items() if label == 0)
    made = site(only=only)
    assert made.cohort.class_counts() == {"ring": len(only), "halo": 0, "ring_halo": 0}
    rows = made.rows(made.model.vector.clone(), made.cohort.cases)
    told = made.summary(rows)
    assert told["auroc"]["value"] is None
    assert told["accuracy"]["value"] is not None


def test_the_probe_compares_models(site):
    made = site()
    objective, w = made.objective("x"), made.model.vector.clone()
    (batch,) = objective.calibration(1)
    assert torch.equal(batch.inputs, made.objective("other").calibration(1)[0].inputs)
    outputs = objective.near(w, w + 0.01, batch)
    p, q = outputs(()), outputs(made.layout.names)
    assert torch.equal(q, made.model.outputs(w + 0.01, batch.inputs))
    assert objective.divergence(p, p, batch) == 0
    assert objective.divergence(p, q, batch) > 0
    assert set(objective.held_out(1)[0].patients) <= {made.cohort.patients[case] for case in made.split.val}
    assert set(made.blocks) == set(made.layout.names)


@pytest.mark.parametrize(("private", "expected"), [(None, split_of), (PatientDP(1.0, 1.0, 0.5, 8), by_id)])
def test_under_patient_level_privacy_the_split_does_not_look_at_classes(tmp_path, private, expected):
    settings = SimpleNamespace(model=SPEC, sampling=SAMPLING, phantoms=TypePhantoms([32, 32, 24], 8, 1.0), seed=0)
    settings.private = private
    hospital = Hospital.open("site-1", tmp_path, tmp_path, simulator=True, settings=settings, say=lambda words: None)
    assert split_of(hospital.opened.cohort) != by_id(hospital.opened.cohort)
    assert hospital.site.split == expected(hospital.opened.cohort)


def test_patient_level_privacy_covers_it(site):
    made = site()
    home = DPSite(made, PatientDP(1.0, 1.0, 0.5, 8))
    objective = home.objective(3, "train", 0)
    w = made.model.vector.clone()
    for _ in range(3):
        loss, g = objective.value_and_grad(w, objective.sample(1)[0])
        assert loss == 0
        assert torch.isfinite(g).all()
        assert g.any()


@pytest.mark.parametrize(
    "sharing", [EVERYTHING, KLMask("kl", (), 1, 0, 0.5, 1.0, 0.5, 0.6, 1)], ids=lambda one: type(one).__name__
)
def test_a_hospital_through_two_rounds(tmp_path, sharing):
    settings = SimpleNamespace(
        algorithm=FedAvg(),
        sharing=sharing,
        fedavg_baseline=None,
        private=None,
        model=SPEC,
        schedule=Schedule(2, 3, 0.02, 0.9, True, 0.0, 1.0, "cosine"),
        sampling=SAMPLING,
        model_selection=ModelSelection([0, 2], 0.005),
        phantoms=PHANTOMS,
        seed=0,
    )
    said = []
    hospital = Hospital.open(
        "site-4", tmp_path / "ws", tmp_path / "states", simulator=True, settings=settings, say=said.append
    )
    assert any("SYNTHETIC" in words for words in said)
    assert hospital.facts["modalities"]["t2"] == 0, "west has no T2"
    assert sum(hospital.facts["classes"].values()) == 18
    weights = first_variables(FedAvg(), hospital.site.layout.unflatten(hospital.initial.numpy().copy()))
    for round_ in range(2):
        delta, loss = hospital.train(weights, round_)
        weights = {name: block + delta[name] for name, block in weights.items()}
        assert loss > 0
    evaluation = hospital.evaluate(weights, 2)
    candidates = evaluation.numbers["candidates"]
    assert set(candidates["local"]["test"]) == {
        "balanced_accuracy",
        "accuracy",
        "auroc",
        "calibration_error",
        "log_loss",
    }
    hospital.keep(evaluation, tmp_path / "out", "a job")
    page = (tmp_path / "out" / "site_report.html").read_text()
    assert "balanced accuracy" in page
    assert "patients by class" in page


@pytest.fixture(scope="session")
def volumes(tmp_path_factory):
    """Six patients as labelled NIfTI volumes of noise; the class is whether something bright is there."""
    root, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    spec = Spec(("nothing", "something"), ("t1ce", "flair"), Table(), Grid(16, 4, 1.0))
    rows = []
    for index in range(6):
        files = {m: f"{index}_{m}.nii.gz" for m in spec.modalities}
        for file in files.values():
            volume = rng.normal(100, 10, (20, 20, 20)).astype(np.float32)
            volume[6:14, 6:14, 6:14] += 80 * (index % 2)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / file)
        rows.append(Row(f"p{index}", f"p{index}", spec.classes[index % 2], files))
    return write_folder(root / "labelled", Description(spec, root, root), rows)


@pytest.mark.parametrize("tubelet", [None, 2])
def test_volumes_train_slice_by_slice_or_whole_and_a_row_is_still_the_gradient_of_its_patient(
    volumes, tmp_path, tubelet
):
    sampling = CaseSampling(
        ("nothing", "something"), ("t1ce", "flair"), (), 16, 4, 1.0, 6, 0.0, record=False, augment=True
    )
    spec = ViTFusion("test_vit", 2, (4, 16, 16), 0, 2, "shared", depth=1, patch=8, tubelet=tubelet)
    cohort = sampling.cohort(SiteConfig(data=volumes), tmp_path / "cache", lambda words: None)
    made = sampling.open("site-1", cohort, split_patients(cohort.patients), spec, 0, "cpu")
    every = tuple(cohort.cases)
    w, losses = descend(
        made.model.vector.clone(), plain(made.drawn(every, "x")), 40, Steps(40, 0.05, 0.9, True, 0, 1.0)
    )
    assert losses[-1] < 0.5 * losses[0]
    assert made.score(w, every) == 1
    (batch,) = made.drawn(every, "y").sample(1)
    inputs, losses_of = made.joined([batch])
    rows = PerSample(made.model).gradients(w, inputs, losses_of, len(inputs))[1]
    for index, row in enumerate(rows):
        alone = replace(batch, inputs=batch.inputs[index : index + 1], labels=batch.labels[index : index + 1])
        truth = made.objective("z").value_and_grad(w, alone)[1]
        assert (row - truth).norm() <= TOLERANCE * truth.norm()
    private = DPSite(made, PatientDP(1.0, 1.0, 0.5, 8)).objective(2, "train", 0)
    assert torch.isfinite(private.value_and_grad(w, private.sample(1)[0])[1]).all()
