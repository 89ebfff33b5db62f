"""What a job with differential privacy reserves and spends in a hospital's own ledger, and when it is refused."""

import json

import numpy as np
import pytest
from outbounds import leaving, outbound

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.stages import Update
from wardround.dp.accounting import claim
from wardround.dp.budget import FILE
from wardround.dp.dp_sgd import PrivateObjective, prove
from wardround.dp.ledger import Ledger
from wardround.dp.patient_dp import PatientDP
from wardround.dp.patient_release import PatientRelease
from wardround.flare import ledger_adapter, plaintext_messages
from wardround.flare.outbound import Asked
from wardround.flare.trainer import Work, require_promise_fits
from wardround.messages import plaintext
from wardround.models.nets import UNet3d

PROMISE = PatientDP(max_grad_norm=1.0, noise_multiplier=1.5, sample_rate=0.25, reference_patients=16)
SCHEDULE = Schedule(2, 4, 0.05, 0.0, False, 0.0, 0.0, "constant")


def mechanism(**changed):
    return PatientRelease(
        **{"promise": PROMISE, "work": 4, "num_rounds": 2, "delta": 1e-5, "accept_vacuous": False} | changed
    )


def work(algorithm, sharing=EVERYTHING, fedavg_baseline=None):
    """Return the training of a job, as far as a promise about its noise can be at odds with it."""
    return Work(algorithm, sharing, UNet3d(), SCHEDULE, None, None, None, 0, fedavg_baseline)


def ledger_of(fl_ctx):
    return Ledger(ledger_adapter._local(fl_ctx))


def with_budget(fl_ctx, epsilon):
    file = ledger_adapter._local(fl_ctx) / FILE
    file.write_text(json.dumps({"patient": {"epsilon": epsilon, "delta": 1e-5}}))


def proved(update, promise=PROMISE, released=4):
    """Note an update as the hospital does when a private oracle has made it."""
    objective = PrivateObjective(None, promise, released)
    objective.released = released
    prove(update.delta, objective)
    return plaintext_messages.update_message(update)


@pytest.fixture
def private(update):
    """An update as private training sends it: without its loss."""
    found = update()
    return plaintext_messages.Update(
        found.delta, 1.0, {**found.numbers, "loss": None}, plaintext.without_counts(found.facts)
    )


@pytest.fixture
def said():
    return []


def test_the_cost_of_a_round_is_its_share_of_the_plan():
    made = mechanism()
    assert (made.cost().steps, made.plan().steps) == (4, 8)
    assert made.plan().unit == made.unit == "patient"
    assert made.plan().noise_multiplier == 1.5


def test_a_real_site_without_a_budget_refuses_before_training(context, said):
    fl_ctx = context("train", job="a1b2c3")
    with pytest.raises(ConfigRefused, match=FILE):
        ledger_adapter.reserve(mechanism(), fl_ctx, said.append)
    assert ledger_of(fl_ctx).state().accounts == {}


def test_a_job_that_would_overspend_is_refused_with_the_figures(context, said):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 0.5)
    cost = claim([mechanism().plan()], "patient", 1e-5).epsilon
    assert cost > 0.5
    with pytest.raises(ReleaseRefused, match=rf"{cost:.4g}"):
        ledger_adapter.reserve(mechanism(), fl_ctx, said.append)
    assert said == []


def test_the_whole_job_is_reserved_once_however_often_it_is_asked(context, said):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    for _ in range(3):
        ledger_adapter.reserve(mechanism(), fl_ctx, said.append)
    (account,) = ledger_of(fl_ctx).state().accounts.values()
    assert account.reserved == {ledger_adapter.KEY: mechanism().plan()}
    assert "epsilon" in said[0]


def test_a_second_job_does_not_fit_beside_what_the_first_reserved(context, said):
    first, second = context("train", job="first"), context("train", job="second")
    cost = claim([mechanism().plan()], "patient", 1e-5).epsilon
    with_budget(first, 1.2 * cost)
    ledger_adapter.reserve(mechanism(), first, said.append)
    with pytest.raises(ReleaseRefused, match="reserved"):
        ledger_adapter.reserve(mechanism(), second, said.append)


def test_the_simulator_takes_the_jobs_own_budget_and_says_so(context, said):
    ledger_adapter.reserve(mechanism(), context("train"), said.append)
    assert said[0].startswith("NO BUDGET CONFIGURED")


def test_an_epsilon_that_is_no_claim_is_refused_unless_the_job_accepts_it(context, said):
    weak = PatientDP(max_grad_norm=1.0, noise_multiplier=0.12, sample_rate=1.0, reference_patients=4)
    with pytest.raises(ConfigRefused, match="not a privacy claim"):
        ledger_adapter.reserve(mechanism(promise=weak), context("train"), said.append)
    ledger_adapter.reserve(mechanism(promise=weak, accept_vacuous=True), context("train"), said.append)


def test_the_filter_writes_the_ledger_before_anything_leaves(context, private):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    promised = outbound(mechanism())
    for round_ in (1, 2):
        promised.begin(Asked(round_, "bb" * 32, round_))
        leaving(proved(private), fl_ctx, promised)
        (account,) = ledger_of(fl_ctx).state().accounts.values()
        assert account.spent[ledger_adapter.KEY] == (mechanism().cost(),) * round_


def test_what_is_beyond_the_reservation_needs_the_budget(context, private):
    """A third round of a job of two, and a budget for two: nothing leaves, nothing is written."""
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 1.0001 * claim([mechanism().plan()], "patient", 1e-5).epsilon)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    promised = outbound(mechanism())
    for round_ in range(2):
        promised.begin(Asked(round_, "bb" * 32, round_))
        leaving(proved(private), fl_ctx, promised)
    promised.begin(Asked(2, "bb" * 32, 2))
    with pytest.raises(ReleaseRefused, match="budget"):
        leaving(proved(private), fl_ctx, promised)
    (account,) = ledger_of(fl_ctx).state().accounts.values()
    assert len(account.spent[ledger_adapter.KEY]) == 2


def test_an_update_that_comes_with_its_loss_does_not_leave(context, update):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    with pytest.raises(ReleaseRefused, match="training loss"):
        leaving(proved(update()), fl_ctx, outbound(mechanism()))
    assert ledger_of(fl_ctx).state().accounts == {}


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (None, "without proof"),
        ({"released": 3}, "made by 3 private gradients"),
        ({"released": 0}, "made by 0 private gradients"),
        ({"released": 8}, "made by 8 private gradients"),
        ({"promise": PatientDP(1.0, 0.5, 0.25, 16)}, "noise multiplier 0.5"),
    ],
)
def test_an_update_without_its_own_proof_of_noise_does_not_leave(context, private, proof, words):
    """No loss beside it proves nothing; nor do fewer releases than are charged, or other noise."""
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 20)
    given = plaintext_messages.update_message(private) if proof is None else proved(private, **proof)
    with pytest.raises(ReleaseRefused, match=words):
        leaving(given, fl_ctx, outbound(mechanism()))
    assert ledger_of(fl_ctx).state().accounts == {}


@pytest.mark.parametrize("change", [lambda block: block + np.float32(1e-6), lambda block: block * 2])
def test_a_proof_is_of_exactly_one_update_and_good_for_one_release(context, private, change):
    """A filter before ours that changes the update takes its proof away; so does a release."""
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 20)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    proved(private)
    other = plaintext_messages.Update(
        {n: change(b) for n, b in private.delta.items()}, 1.0, private.numbers, private.facts
    )
    promised = outbound(mechanism())
    with pytest.raises(ReleaseRefused, match="without proof"):
        leaving(plaintext_messages.update_message(other), fl_ctx, promised)
    leaving(plaintext_messages.update_message(private), fl_ctx, promised)
    promised.begin(Asked(1, "bb" * 32, 1))
    with pytest.raises(ReleaseRefused, match="without proof"):
        leaving(plaintext_messages.update_message(private), fl_ctx, promised)
    (account,) = ledger_of(fl_ctx).state().accounts.values()
    assert account.spent[ledger_adapter.KEY] == (mechanism().cost(),)


def test_a_tampered_ledger_stops_the_release(context, private):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    (file,) = ledger_adapter._local(fl_ctx).glob("*ledger*.jsonl")
    file.write_text(
        file.read_text().replace('"noise_multiplier": 1.5', '"noise_multiplier": 9.5', 1).replace("1.5", "9.5")
    )
    with pytest.raises(ReleaseRefused):
        leaving(plaintext_messages.update_message(private), fl_ctx, outbound(mechanism()))


def test_a_mechanism_without_cost_writes_no_ledger(context, update):
    fl_ctx = context("train", job="a1b2c3")
    leaving(plaintext_messages.update_message(update()), fl_ctx)
    assert not list(ledger_adapter._local(fl_ctx).glob("*ledger*"))


def test_the_executor_trains_under_the_exits_promise():
    require_promise_fits(outbound(mechanism()), work(FedAvg()))
    require_promise_fits(outbound(), work(FedAvg(), fedavg_baseline=FedAvg()))
    assert outbound(mechanism()).training_noise == PROMISE
    assert outbound().training_noise is None


@pytest.mark.parametrize(
    ("made", "algorithm", "fedavg_baseline", "words"),
    [
        (mechanism(), FedAvg(), FedAvg(), "fedavg_baseline"),
        (mechanism(num_rounds=3), FedAvg(), None, "other rounds"),
        (mechanism(work=8), FedAvg(), None, "other rounds"),
        (mechanism(), PerFedAvg(0.01, "HF", 0.001), None, "HF"),
    ],
)
def test_a_job_whose_noise_does_not_fit_is_refused(made, algorithm, fedavg_baseline, words):
    with pytest.raises(ConfigRefused, match=words):
        require_promise_fits(outbound(made), work(algorithm, fedavg_baseline=fedavg_baseline))


@pytest.mark.parametrize("name", ["promise", "work", "num_rounds", "delta", "accept_vacuous"])
def test_a_promise_that_is_missing_is_refused(name):
    with pytest.raises(ConfigRefused, match=name):
        mechanism(**{name: None})


def test_blocks_are_as_they_were(private):
    proved(private)
    out, receipt = mechanism().outbound(Update(private.delta, private.weight), 0, {})
    assert out.params is private.delta
    assert "patient" in receipt["guarantee"]
    assert all(np.isfinite(block).all() for block in out.params.values())


def test_a_job_that_reserved_something_does_not_leave_by_a_filter_that_charges_nothing(context, update):
    """A job without a promise in the place of one with: what was promised would never be written down."""
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    with pytest.raises(ReleaseRefused, match="cost nothing"):
        leaving(plaintext_messages.update_message(update()), fl_ctx)
    leaving(plaintext_messages.update_message(update()), context("train", job="another"))


def test_what_the_sites_policy_reserved_is_not_the_jobs_promise(context, update):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None, ledger_adapter.POLICY)
    with pytest.raises(ReleaseRefused, match="not clipped and noised"):
        leaving(plaintext_messages.update_message(update()), fl_ctx)
    fl_ctx.set_prop(ledger_adapter.TREATED, "clip 1", private=True, sticky=False)
    leaving(plaintext_messages.update_message(update()), fl_ctx)
    assert ledger_adapter.spend(mechanism(), {}, fl_ctx, ledger_adapter.POLICY) == {"ledger_entry": 1}
    assert set(ledger_adapter.account(fl_ctx).spent) == {ledger_adapter.POLICY}


def test_once_closed_a_reservation_binds_no_exit(context, update):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    ledger_of(fl_ctx).close("a1b2c3")
    leaving(plaintext_messages.update_message(update()), fl_ctx)


def test_a_filter_that_charges_nothing_does_not_pass_by_a_damaged_ledger(context, update):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    (file,) = ledger_adapter._local(fl_ctx).glob("*ledger*.jsonl")
    file.write_text(file.read_text().replace("1.5", "9.5"))
    with pytest.raises(ReleaseRefused):
        leaving(plaintext_messages.update_message(update()), fl_ctx)


def test_a_job_without_a_ledger_has_no_account(context):
    assert ledger_adapter.account(context("train", job="a1b2c3")) is None


def test_an_account_is_of_the_job_by_name_too(context, monkeypatch):
    """In the simulator every job has the same id."""
    fl_ctx = context("train")
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    assert ledger_adapter.account(fl_ctx) is not None
    monkeypatch.setattr(ledger_adapter.workspaces, "job_name", lambda fl_ctx: "another")
    assert ledger_adapter.account(fl_ctx) is None


def test_a_limit_for_the_unit_is_there_or_refused(context):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.require_limit("patient", fl_ctx)
    with pytest.raises(ConfigRefused, match="a limit for hospital"):
        ledger_adapter.require_limit("hospital", fl_ctx)


@pytest.mark.parametrize("rest", ["the ledger is a folder", "the head alone is left"])
def test_a_filter_that_charges_nothing_does_not_take_a_lost_ledger_for_none(context, update, rest):
    fl_ctx = context("train", job="a1b2c3")
    with_budget(fl_ctx, 8)
    ledger_adapter.reserve(mechanism(), fl_ctx, lambda text: None)
    (file,) = ledger_adapter._local(fl_ctx).glob("*ledger*.jsonl")
    file.unlink()
    if rest == "the ledger is a folder":
        file.mkdir()
    with pytest.raises(ReleaseRefused, match="the ledger"):
        leaving(plaintext_messages.update_message(update()), fl_ctx)


def test_masks_that_a_site_chooses_by_its_patients_are_refused_under_patient_level_noise():
    masks = KLMask("kl", (), 1, 1, 0.5, 1.0, 0.5, 0.3, 1)
    with pytest.raises(ConfigRefused, match="without noise"):
        require_promise_fits(outbound(mechanism()), work(FedAvg(), masks))
