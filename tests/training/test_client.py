import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import personal
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, first_variables, run
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.mr_mtl import MRMTL
from wardround.algorithms.patient_work import PatientWork, length
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import EVERYTHING, Roles
from wardround.core.arrays import in_variable
from wardround.core.errors import ModelRefused, RoundRefused
from wardround.models import checkpoint
from wardround.models.blend import Blend
from wardround.models.flat import FlatModel, first_weights
from wardround.training.evaluation import ModelSelection


def weights_of(hospital):
    """Return the variables before round 0 under wire names, as the server sends them."""
    model = hospital.site.layout.unflatten(hospital.initial.numpy().copy())
    variables = first_variables(hospital.settings.algorithm, model)
    return variables | (in_variable("fedavg", model) if hospital.settings.fedavg_baseline else {})


def moved(weights, delta):
    return {name: block + delta[name] if name in delta else block for name, block in weights.items()}


def two_rounds(open_again, hospital):
    """Return the updates of two rounds; `open_again` gives the hospital of each round."""
    weights, deltas = weights_of(hospital), []
    for round_ in range(2):
        delta, _ = open_again().train(weights, round_)
        weights = moved(weights, delta)
        deltas.append(delta)
    return deltas, weights


MASKS = KLMask("kl", (), every=1, warm_up=0, rho=0.5, enter=1.0, leave=0.5, most=0.6, batches=1)
NORMS = Roles(("norm",))
METHODS = {
    "FedAvg": (FedAvg(), EVERYTHING),
    "FedBN": (FedAvg(), NORMS),
    "FedRep": (Alternating(0.5), Roles(("head",))),
    "SCAFFOLD": (Scaffold(), EVERYTHING),
    "SCAFFOLD, norms at home": (Scaffold(), NORMS),
    "Ditto": (Ditto(0.1), EVERYTHING),
    "KL masks": (FedAvg(), MASKS),
    "MR-MTL, head at home": (MRMTL(0.1), Roles(("head",))),
}
SCHEDULE = Schedule(3, 4, 0.05, 0.9, True, 0.0, 10.0, "cosine")


@pytest.mark.parametrize(("algorithm", "sharing"), METHODS.values(), ids=METHODS)
def test_a_restarted_process_goes_on_bit_by_bit(algorithm, sharing, opened):
    changed = {"algorithm": algorithm, "sharing": sharing, "schedule": SCHEDULE}
    alive = opened("alive", **changed)
    lived, weights = two_rounds(lambda: alive, alive)
    restarted, _ = two_rounds(lambda: opened("restarted", **changed), alive)
    for a, b in zip(lived, restarted, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    again = opened("restarted", **changed)
    models = [personal(one._start(weights, 2)).numpy() for one in (alive, again)]
    np.testing.assert_array_equal(*models)


@pytest.mark.parametrize(("algorithm", "sharing"), METHODS.values(), ids=METHODS)
def test_rounds_through_the_disk_are_those_of_the_federation_in_memory(algorithm, sharing, opened):
    """The oracle: the in-process federation, which keeps every memory in a dictionary."""
    hospital = opened(algorithm=algorithm, sharing=sharing, schedule=SCHEDULE)
    site, after = hospital.site, {}
    side = SiteSide(lambda round_: site.objective("train", round_), hospital.weight, site.layout, site.roles)
    model = site.layout.unflatten(hospital.initial.numpy().copy())
    run(
        {"a": side},
        algorithm,
        Mean(1.0),
        SCHEDULE,
        model,
        lambda r, result: after.update({r: dict(result.variables)}),
        sharing=sharing,
    )
    _, weights = two_rounds(lambda: opened(algorithm=algorithm, sharing=sharing, schedule=SCHEDULE), hospital)
    assert weights.keys() == after[1].keys()
    for name in weights:
        np.testing.assert_array_equal(weights[name], after[1][name])


def test_a_hospital_with_few_patients_does_less_work_and_sends_as_long_an_update(opened):
    """Half of the reference: half of the steps, in the federation, in FedAvg beside it and in the local baseline."""
    patients = opened("counted").site.train_patients
    whole = replace(SCHEDULE, work=8)
    by_patients = replace(whole, work_by_patients=PatientWork(2 * patients, 0.5, 2.0))
    half = opened("half", schedule=by_patients, fedavg_baseline=FedAvg())
    short = opened("short", schedule=replace(SCHEDULE, work=4), fedavg_baseline=FedAvg())
    (update, loss), (shorter, same_loss) = (one.train(weights_of(one), 0) for one in (half, short))
    factor = length(whole.steps(0)) / length(short.schedule.steps(0))
    assert (loss, factor > 2) == (same_loss, True)
    assert {name.partition(":")[0] for name in update} == {"model", "fedavg"}
    for name in update:
        np.testing.assert_allclose(update[name], np.float32(factor) * shorter[name], rtol=1e-5, atol=1e-8)
    local, same = (one.evaluate(weights_of(one), 1).weights["local"] for one in (half, short))
    np.testing.assert_array_equal(local.numpy(), same.numpy())


def test_norms_stay_home(opened):
    """FedBN: no norm in the update; what the server sends in their place is not used after the first round."""
    first = opened(sharing=NORMS)
    roles = first.site.roles
    norms = {name for name in roles if roles[name] == "norm"}
    weights = weights_of(first)
    delta, _ = first.train(weights, 0)
    assert {name.removeprefix("model:") for name in delta} == set(roles) - norms
    own = first.site.layout.unflatten(first._memory(1)["home"].numpy())
    assert any(not np.array_equal(own[name], weights[f"model:{name}"]) for name in norms)

    noise = {name: block + 7 if name.removeprefix("model:") in norms else block for name, block in weights.items()}
    again = opened(sharing=NORMS)
    start = again.site.layout.unflatten(again._start(noise, 1).variables["model"].numpy())
    for name in roles:
        np.testing.assert_array_equal(start[name], own[name] if name in norms else weights[f"model:{name}"])
    assert again.validate(noise, 1) == opened(sharing=NORMS).validate(weights, 1)


def test_a_repeated_round_starts_from_the_state_before_it(opened):
    """The server died after the site had finished round 1: the site does round 1 again, with the same result."""
    hospital = opened(algorithm=Scaffold())
    weights = weights_of(hospital)
    delta, _ = hospital.train(weights, 0)
    weights = moved(weights, delta)
    once, _ = hospital.train(weights, 1)
    again, _ = opened(algorithm=Scaffold()).train(weights, 1)
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])


def test_a_site_that_lost_its_memory_refuses(opened):
    """FedBN without its norms would silently be another method."""
    hospital = opened(sharing=NORMS)
    with pytest.raises(RoundRefused, match="before round 2"):
        hospital.train(weights_of(hospital), 2)


def test_a_rival_is_fedavg_on_the_same_batches(opened):
    """With FedAvg as its own rival both variables get the same update."""
    hospital = opened(fedavg_baseline=FedAvg())
    delta, _ = hospital.train(weights_of(hospital), 0)
    own = {name: block for name, block in delta.items() if name.startswith("model:")}
    assert len(delta) == 2 * len(own)
    for name, block in own.items():
        np.testing.assert_array_equal(block, delta[name.replace("model:", "fedavg:", 1)])


def test_validation_is_of_the_incoming_model(opened):
    hospital = opened()
    weights = weights_of(hospital)
    before = hospital.validate(weights, 0)
    hospital.train(weights, 0)
    assert hospital.validate(weights, 0) == before
    assert before == hospital.site.score(hospital.initial, hospital.site.split.val)


def test_the_weight_is_the_number_of_training_patients(opened):
    hospital = opened()
    assert hospital.weight == len(hospital.site.split.train) == hospital.facts["cases"]["train"]


def test_facts_are_counts_and_words(opened):
    hospital = opened()
    facts = hospital.facts
    assert facts["label"] == "west"
    assert hospital.title == "site-4 (west)"
    assert facts["modalities"] == {"t1": 6, "t1ce": 6, "t2": 0, "flair": 6}
    assert sum(facts["cases"].values()) == 6
    assert facts["phantoms"] is True
    assert not any(case in json.dumps(facts) for case in hospital.site.cohort.cases)


@pytest.mark.parametrize(
    ("changed", "candidates"),
    [
        ({}, {"local", "fedavg", "fedavg_finetuned"}),
        ({"sharing": NORMS}, {"local", "personalised"}),
        ({"sharing": NORMS, "fedavg_baseline": FedAvg()}, {"local", "personalised", "fedavg", "fedavg_finetuned"}),
    ],
)
def test_the_judgement_compares_what_the_job_allows(changed, candidates, opened):
    hospital = opened(**changed)
    weights = weights_of(hospital)
    delta, _ = hospital.train(weights, 0)
    assert set(hospital.evaluate(moved(weights, delta), 1).numbers["candidates"]) == candidates


def test_what_a_site_keeps_for_itself(opened, tmp_path):
    hospital = opened()
    weights = weights_of(hospital)
    delta, _ = hospital.train(weights, 0)
    evaluation = hospital.evaluate(moved(weights, delta), 1)
    hospital.keep(evaluation, tmp_path / "out", "brats_fedavg")
    deploy = evaluation.numbers["deploy"]
    arrays, meta = checkpoint.load(tmp_path / "out" / "deploy_model.npz", hospital.fingerprint)
    assert meta["candidate"] == deploy
    assert meta["trained_on"]["data"] == "phantoms"
    assert meta["trained_on"].get("others", False) == (deploy != "local")
    np.testing.assert_array_equal(hospital.site.layout.flatten(arrays), evaluation.weights[deploy].numpy())
    page = (tmp_path / "out" / "site_report.html").read_text()
    assert "STAYS AT THIS SITE" in page
    assert all(hospital.site.cohort.patients[case] in page for case in hospital.site.split.test)
    assert len(list((tmp_path / "out" / "overlays").glob("*.png"))) == min(2, len(hospital.site.split.test))


@pytest.mark.parametrize("sharing", [EVERYTHING, NORMS])
def test_a_hospital_that_deploys_a_blend_keeps_both_networks_and_says_why(opened, tmp_path, sharing):
    selection = ModelSelection([0, 2], 0.01, blend=[0.25, 0.5], interpolate=[0.5], rule="best")
    hospital = opened(model_selection=selection, sharing=sharing)
    weights = weights_of(hospital)
    delta, _ = hospital.train(weights, 0)
    found = hospital.evaluate(moved(weights, delta), 1)
    assert {"interpolated", "blend"} < set(found.numbers["candidates"])
    numbers = {**found.numbers, "deploy": "blend", "usable": True}
    hospital.keep(replace(found, numbers=numbers), tmp_path / "out", "brats_fedavg")
    arrays, meta = checkpoint.load(tmp_path / "out" / "deploy_model.npz")
    assert meta["candidate"] == "blend"
    assert meta["mixed"] == found.mixed["blend"]
    kept = Blend(hospital.settings.model, meta["mixed"]["share"])
    both = FlatModel(kept.build(0)).layout.flatten(arrays)
    np.testing.assert_array_equal(both, torch.cat(found.weights["blend"].members).numpy())
    page = (tmp_path / "out" / "site_report.html").read_text()
    assert "Deployed is a mean of this hospital&#39;s own model and" in page
    assert f"{meta['mixed']['share']:.0%} and {1 - meta['mixed']['share']:.0%} of the probabilities" in page


def test_under_patient_level_dp_no_loss_and_no_count_is_told(opened):
    from wardround.dp.dp_sgd import PatientDP
    from wardround.training.evaluation import shared_only

    promise = PatientDP(max_grad_norm=1.0, noise_multiplier=0.5, sample_rate=0.5, reference_patients=4)
    hospital, plain = opened(private=promise), opened("plain")
    variables = {
        f"model:{name}": block for name, block in plain.site.layout.unflatten(plain.initial.numpy().copy()).items()
    }
    delta, loss = hospital.train(variables, 0)
    again, _ = opened("again", private=promise).train(variables, 0)
    assert loss is None
    assert hospital.weight == 1.0
    assert plain.train(variables, 0)[1] is not None
    assert any((delta[name] != again[name]).any() for name in delta), "noise cannot be repeated"
    numbers = {
        "candidates": {"local": {"k": 0, "gain": None}, "fedavg": {"k": 0, "gain": {"value": 1.0}}, "personalised": {}},
        "deploy": "local",
        "val_score": 0.5,
    }
    assert shared_only(numbers) == {"candidates": {"fedavg": {"k": 0, "gain": None}}, "deploy": None, "val_score": 0.5}


@pytest.mark.parametrize(("algorithm", "sharing"), METHODS.values(), ids=METHODS)
def test_a_round_that_did_not_count_leaves_no_trace(algorithm, sharing, opened):
    """Round 1 is trained and does not count. Round 2 then starts from the state after round 0 and the model that is received:
    the same, bit for bit, as at a hospital that was not asked in round 1 at all. So SCAFFOLD's control variate stays the one
    that the server counts with, and personal blocks are those of the last round that counted."""
    changed = {"algorithm": algorithm, "sharing": sharing, "schedule": SCHEDULE}
    dropped, away = opened("dropped", **changed), opened("away", **changed)
    weights = weights_of(dropped)
    for hospital in (dropped, away):
        delta, _ = hospital.train(weights, 0)
    weights = moved(weights, delta)
    dropped.train(weights, 1)
    dropped = opened("dropped", **changed)
    (one, _), (other, _) = (hospital.train(weights, 2, since=1) for hospital in (dropped, away))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    weights = moved(weights, one)
    models = [personal(hospital._start(weights, 3)).numpy() for hospital in (dropped, away)]
    np.testing.assert_array_equal(*models)


def test_two_rounds_that_did_not_count_are_survived(opened):
    """The state to start from is kept however often a round after it is trained in vain."""
    hospital = opened("twice", algorithm=Scaffold(), schedule=SCHEDULE)
    weights = weights_of(hospital)
    hospital.train(weights, 0)
    for round_ in (1, 2):
        hospital.train(weights, round_, since=1)
    assert sorted(path.name for path in hospital.states.glob("round-*.npz")) == ["round-00001.npz", "round-00003.npz"]


def test_a_site_that_joins_late_has_no_state_and_needs_none(opened):
    hospital = opened("late", algorithm=Scaffold(), schedule=SCHEDULE)
    delta, _ = hospital.train(weights_of(hospital), 2, since=0)
    assert all(np.isfinite(block).all() for block in delta.values())


def test_a_hospital_starts_from_the_weights_that_the_job_names_or_not_at_all(opened, settings, tmp_path):
    """Its local model begins there too; another file is refused before a case is trained on."""
    spec = settings().model
    file = tmp_path / "w.safetensors"
    file.write_bytes(save({name: block.detach() for name, block in spec.build(1).named_parameters()}))
    promise = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    warm = opened("warm", model=replace(spec, weights=promise))
    assert warm.initial.equal(first_weights(spec, 1))
    assert not warm.initial.equal(opened("cold").initial)
    assert warm.fingerprint == opened("cold").fingerprint
    with pytest.raises(ModelRefused, match="which the job promises"):
        opened("other", model=replace(spec, weights=promise | {"sha256": "0" * 64}))
