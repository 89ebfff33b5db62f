"""What a hospital's own policy lets out of any job: every scope, every refusal, and the shipped privacy.json files."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.logging.constants import is_log_streaming_allowed
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.fed.client.client_runner import TaskRouter
from nvflare_federation import SITES, secagg_site
from outbounds import outbound
from site_policies import has, hospital_policy, named, open_policy, patient_policy, under

from wardround.aggregation.validation import StepCheck
from wardround.algorithms.schedule import Schedule
from wardround.core.arrays import digest
from wardround.core.errors import ConfigRefused, Refusal, ReleaseRefused
from wardround.core.traits import Traits
from wardround.dp import hospital_dp
from wardround.dp.accounting import claim
from wardround.dp.budget import FILE
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.ledger import Ledger
from wardround.dp.patient_dp import PatientDP
from wardround.dp.patient_release import PatientRelease
from wardround.dp.releases import GaussianRelease, SampledGaussianRelease
from wardround.flare import (
    curves,
    ledger_adapter,
    orders,
    plaintext_messages,
    policy_checks,
    secagg_calls,
    secagg_messages,
    strict_dxo,
    workspaces,
)
from wardround.flare.curves import Curves
from wardround.flare.ledger_adapter import KEY, POLICY
from wardround.flare.outbound import ID, Outbound
from wardround.flare.outbound_filter import OutboundFilter
from wardround.flare.policy_rules import HospitalRule
from wardround.flare.site_parts import REASONS
from wardround.flare.site_policy import unlike
from wardround.flare.workspaces import SIMULATOR_JOB, private_folder, run_folder
from wardround.messages import statements
from wardround.messages.plaintext import SILENT
from wardround.messages.statements import Moment, Signed
from wardround.secagg.spec import SecAggSpec

JOB, DELTA = "a1b2c3", 1e-5
SCHEDULE = Schedule(2, 4, 0.05, 0.0, False, 0.0, 0.0, "constant")
PROMISE = HospitalDP(
    max_update_norm=1.0, noise_multiplier=2.0, sites=256, min_clients=3, colluders=0, distributed=False, bits=16
)
SHARED = HospitalDP(
    max_update_norm=1.0, noise_multiplier=2.0, sites=16, min_clients=3, colluders=0, distributed=True, bits=16
)
PRIVATE = PatientDP(max_grad_norm=1.0, noise_multiplier=1.5, sample_rate=0.25, reference_patients=16)
LOCAL = SecAggSpec(
    sites=16,
    min_clients=3,
    bits=16,
    weights="equal",
    reference_patients=1,
    masks=True,
    encryption=False,
    ring=False,
    threshold=0,
)
BLOCKS = {"model:w": np.full(600, 0.5, np.float32), "model:b": np.ones((2, 3), np.float32)}
POLICIES = (open_policy(), patient_policy(), hospital_policy(PROMISE, DELTA))


def patient(**changed):
    promise = {"promise": PRIVATE, "work": 4, "num_rounds": 2, "delta": DELTA, "accept_vacuous": False}
    return PatientRelease(**promise | changed)


def shared(num_rounds=2, **changed):
    return HospitalRelease(dataclasses.replace(SHARED, **changed), num_rounds, DELTA, accept_vacuous=False)


def plaintext(privacy="none"):
    """Return what a job promises whose server reads updates."""
    return outbound(privacy)


def secagg_job(privacy="none", sum_=LOCAL):
    """Return what a job with secure aggregation promises."""
    return outbound(privacy, sum_)


class Rig:
    """A real site (no simulator) that runs one job, which promises `promised`, under one policy.

    promised: None: a job without a filter of ours; a filter of another kind: one that has it instead of ours
    """

    def __init__(self, context, policy, promised=None, listed=True, filters=None):
        self.policy, self.context = policy, context
        self.components = {curves.ID: Curves()} if listed else {}
        ours = isinstance(promised, Outbound)
        self.components |= {ID: promised} if ours else {}
        self.promised = promised if ours else outbound()
        filters = filters or ([OutboundFilter()] if ours else [promised] if promised is not None else [])
        table = {f"{task}/out": filters for task in secagg_messages.TASKS} if filters else {}
        self.executor, router = secagg_site(schedule=SCHEDULE), TaskRouter()
        router.add_executor(list(secagg_messages.TASKS), self.executor)
        self.runner = SimpleNamespace(task_result_filters=table, task_router=router)

    def reserve(self, mechanism, job=JOB):
        at = self.context("train", job=job)
        ledger_adapter.reserve(mechanism, at, str, settings=self.executor.settings(self.promised))

    def at(self, task, direction=FilterKey.OUT):
        fl_ctx = self.context(task, job=JOB, **self.components)
        fl_ctx.set_prop(FLContextKey.RUNNER, self.runner)
        fl_ctx.set_prop(FLContextKey.FILTER_DIRECTION, direction, private=True, sticky=False)
        return under(fl_ctx, self.policy)

    def before(self, message, task="train"):
        return self.policy.process(message, self.at(task, FilterKey.IN))

    def leave(self, message, task="train"):
        return self.policy.process(message, self.at(task))

    def through(self, message, task="train"):
        """Return what the policy and then the job's own filter let out, in one context, as NVFlare does it."""
        fl_ctx = self.at(task)
        return OutboundFilter().process(self.policy.process(message, fl_ctx), fl_ctx)

    def budget(self, **limits):
        content = {unit: {"epsilon": epsilon, "delta": DELTA} for unit, epsilon in limits.items()}
        (ledger_adapter._local(self.at("train")) / FILE).write_text(json.dumps(content))
        return self

    @property
    def account(self):
        return ledger_adapter.account(self.at("train"))

    @property
    def ledger(self):
        return Ledger(ledger_adapter._local(self.at("train")))

    @property
    def reasons(self):
        path = private_folder(self.at("train")) / REASONS
        return path.read_text() if path.exists() else ""

    @property
    def receipts(self):
        path = run_folder(self.at("train")) / "releases.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def refuses(self, act, words):
        """Nothing but the code is in the error that NVFlare logs (and streams); the reason is in the run folder."""
        with pytest.raises(ReleaseRefused, match="hospital's own policy") as caught:
            act()
        assert words in self.reasons
        assert words not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert self.receipts == []


@pytest.fixture(autouse=True)
def _no_log_streaming(monkeypatch):
    monkeypatch.setattr(policy_checks, "is_log_streaming_allowed", lambda fl_ctx: False)


@pytest.fixture
def rig(context):
    """rig(policy, exit=None, **more) -> Rig"""
    return lambda policy, *more, **named: Rig(context, policy, *more, **named)


@pytest.fixture
def message(update):
    """message(loss=1.5, **facts) -> what an executor hands over after training"""

    def make(loss=1.5, blocks=None, **changed):
        found = update(BLOCKS if blocks is None else blocks, **changed)
        return plaintext_messages.update_message(dataclasses.replace(found, numbers={**found.numbers, "loss": loss}))

    return make


def statement(kind):
    """Return a statement in the form of its kind; nobody has signed it."""
    forms = {statements.HEX: "ab", statements.KEY: "ab" * 32, statements.NAMES: ["site-2"]}
    forms |= {form: {"site-2": "ab" * (int(form.split()[0]) // 2)} for form in statements.BY_SITE}
    content = {"kind": kind, "site": "site-1", "run": "ab", "round": 0, "attempt": 0}
    content |= {key: forms[form] for key, form in statements.SHAPES[kind].items()}
    return Signed(json.dumps(content, sort_keys=True, separators=(",", ":")), b"s", b"c")


def order(round_=0, num_rounds=2):
    return orders.order_message(orders.Order(BLOCKS, round_, num_rounds))


def call(round_=0, num_rounds=2):
    return secagg_calls.call_message(secagg_messages.Call(Moment("ab" * 16, round_, 0), num_rounds))


def stock():
    """What NVFlare's stock CKKS workflow sends, and a foreign job's update."""
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 7}
    return DXO(DataKind.WEIGHT_DIFF, data={"w": np.ones(3, np.float32)}, meta=meta).to_shareable()


# every scope


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize("direction", [FilterKey.IN, FilterKey.OUT])
@pytest.mark.parametrize("task", ["validate", "submit_model", "*", "", None])
def test_a_task_that_is_not_ours_is_refused_before_and_after(rig, policy, direction, task, message):
    made = rig(policy)
    made.refuses(lambda: policy.process(message(), made.at(task, direction)), "one of join, prepare, train")


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize("task", secagg_messages.TASKS)
@pytest.mark.parametrize("exit_", [lambda: None, plaintext, secagg_job])
@pytest.mark.parametrize(
    "what",
    [
        Shareable(),
        stock(),
        order(),
        DXO(DataKind.WEIGHTS, data={"w": np.ones(3, np.float32)}).to_shareable(),
        DXO(DataKind.COLLECTION, data={"a": stock()}).to_shareable(),
        DXO(DataKind.APP_DEFINED, data={"anything": "phantom-north-001"}).to_shareable(),
        DXO(DataKind.METRICS, data={"dice": 0.7}).to_shareable(),
    ],
    ids=["nothing", "stock", "weights", "foreign weights", "collection", "words", "metrics"],
)
def test_what_no_format_describes_stays(rig, policy, task, exit_, what):
    made = rig(policy, exit_())
    with pytest.raises(ReleaseRefused, match="own policy"):
        made.leave(what, task)
    assert made.receipts == []


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize("task", secagg_messages.TASKS)
@pytest.mark.parametrize("code", ["data", "memory", "failure"])
def test_of_a_refusal_the_code_alone_goes_on(rig, policy, task, code):
    said = plaintext_messages.refusal_message(code)
    said["reason"] = "/data/x.nii.gz"
    out = rig(policy).leave(said, task)
    assert plaintext_messages.refusal_code(out) == code
    assert "x.nii" not in str(out)
    assert rig(policy).leave(make_reply(ReturnCode.EXECUTION_EXCEPTION), task).get_return_code() != ReturnCode.OK


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize(
    "task", [secagg_messages.JOIN, secagg_messages.PREPARE, secagg_messages.HOP, secagg_messages.UNMASK]
)
def test_the_replies_of_a_hidden_sum_pass_built_anew(rig, policy, task):
    """But a hop, in which an update is added, only where this policy lets an update of this job go."""
    signed = statement(task)
    given = secagg_messages.reply_message(
        secagg_messages.Reply(signed, b"payload" if task == secagg_messages.HOP else b"", {})
    )
    given["more"] = "phantom-north-001"
    given.set_header("note", "phantom-north-001")
    made = rig(policy, secagg_job())
    if task == secagg_messages.HOP and policy.rules:
        made.refuses(lambda: made.leave(given, task), "REFUSED")
        return
    out = made.leave(given, task)
    assert secagg_messages.read_reply(out, task).statement == signed
    assert "phantom-north" not in str(out)


@pytest.mark.parametrize("policy", POLICIES, ids=named)
def test_a_statement_is_no_update(rig, policy):
    """Only the exit may turn an update into a statement, after this policy has seen the update."""
    made = rig(policy, secagg_job())
    signed = statement("submit")
    with pytest.raises(ReleaseRefused):
        made.leave(secagg_messages.reply_message(secagg_messages.Reply(signed, b"words", {})))


# open


def test_open_lets_an_update_pass_whole_and_built_anew(rig, message):
    given = message()
    given["more"] = "phantom-north-001"
    made = rig(open_policy(), plaintext())
    assert made.before(given) is given
    out = made.leave(given)
    assert digest(plaintext_messages.read_update(out).delta) == digest(BLOCKS)
    assert (plaintext_messages.read_update(out).weight, plaintext_messages.read_update(out).numbers["loss"]) == (
        3.0,
        1.5,
    )
    assert "phantom-north" not in str(out)
    assert made.receipts == [], "the job's own exit writes it"


@pytest.mark.parametrize("exit_", [None, open_policy()])
def test_open_writes_the_receipt_of_a_job_without_an_exit_of_ours(rig, message, scores, exit_):
    made = rig(open_policy(), exit_)
    made.leave(message())
    made.leave(plaintext_messages.scores_message(scores), "finish")
    first, second = made.receipts
    assert (first["task"], first["sha256"], first["mechanism"]) == ("train", digest(BLOCKS), "none")
    assert second["task"] == "finish"


@pytest.mark.parametrize("wrong", [{"model:w": np.array([np.nan], np.float32)}, {}, {"w": np.ones(2, np.float32)}])
def test_open_reads_strictly(rig, message, wrong):
    made = rig(open_policy())
    data = strict_dxo.meta_of(message())
    with pytest.raises(ReleaseRefused):
        made.leave(DXO(DataKind.WEIGHT_DIFF, data=wrong, meta=data).to_shareable())
    assert made.receipts == []


def test_the_marker_of_another_attempt_passes_only_to_a_job_with_a_secure_sum(rig):
    assert secagg_messages.read_again(rig(open_policy(), secagg_job()).leave(secagg_messages.again_message(1))) == 1
    for made in (rig(open_policy()), rig(open_policy(), plaintext())):
        with pytest.raises(ReleaseRefused):
            made.leave(secagg_messages.again_message(1))


@pytest.mark.parametrize("round_", [-1, 2**16, 10**60])
def test_a_marker_is_a_round_and_no_letter(rig, round_):
    made = rig(open_policy(), secagg_job())
    made.refuses(lambda: made.leave(secagg_messages.again_message(round_)), "coded already")


# patient


@pytest.mark.parametrize("exit_", [lambda: None, plaintext, secagg_job, open_policy])
def test_patient_refuses_a_looser_job_before_training(rig, exit_, message, scores):
    made = rig(patient_policy(), exit_())
    made.refuses(lambda: made.before(order()), "patient-level differential privacy")
    made.refuses(lambda: made.leave(message(loss=None)), "patient-level differential privacy")
    made.refuses(lambda: made.leave(plaintext_messages.scores_message(scores), "finish"), "patient-level")
    made.refuses(lambda: made.before(order(), "finish"), "patient-level")


def test_patient_passes_what_this_job_reserved(rig, message, scores):
    made = rig(patient_policy(), plaintext(patient())).budget(patient=8)
    assert made.before(order()) is not None
    made.refuses(lambda: made.leave(message(loss=None)), "did not reserve")
    made.reserve(patient())
    out = plaintext_messages.read_update(made.leave(message(loss=None)))
    assert digest(out.delta) == digest(BLOCKS)
    assert out.facts["cases"] is None
    told = plaintext_messages.read_scores(made.leave(plaintext_messages.scores_message(scores), "finish"))
    assert (set(told["candidates"]), told["deploy"]) == ({"fedavg"}, None)
    assert "cases" not in str(told)


def test_patient_refuses_an_update_with_its_loss(rig, message):
    made = rig(patient_policy(), plaintext(patient())).budget(patient=8)
    made.reserve(patient())
    made.refuses(lambda: made.leave(message(loss=1.5)), "training loss")


def test_patient_refuses_an_exit_that_would_charge_something_else(rig, message):
    weak = patient(promise=dataclasses.replace(PRIVATE, noise_multiplier=1.0))
    made = rig(patient_policy(), plaintext(patient())).budget(patient=50)
    made.reserve(weak)
    made.refuses(lambda: made.leave(message(loss=None)), "did not reserve what it promises")


def test_patient_takes_what_another_job_reserved_for_nothing(rig, message):
    made = rig(patient_policy(), plaintext(patient())).budget(patient=8)
    made.reserve(patient(), job="another")
    made.refuses(lambda: made.leave(message(loss=None)), "did not reserve")


def test_patient_refuses_less_than_a_patient(rig):
    class PerImage(PatientRelease.__bases__[0]):
        name, traits, num_rounds = "per_image", Traits(), 2
        unit, delta, accept_vacuous = "image", DELTA, False

        def plan(self):
            return SampledGaussianRelease("image", 1.0, 0.1, 4)

        cost = plan

        def outbound(self, update, round_, memory):
            return update, {}

        def inbound(self, aggregate, round_, memory):
            return aggregate

    made = rig(patient_policy(), plaintext(PerImage()))
    made.refuses(lambda: made.before(order()), "less than a patient")


def test_patient_accepts_a_job_that_hides_the_whole_hospital(rig, message):
    made = rig(patient_policy(), secagg_job(shared())).budget(hospital=20)
    made.before(call())
    made.reserve(shared())
    assert digest(plaintext_messages.read_update(made.leave(message(loss=None))).delta) == digest(BLOCKS)
    assert secagg_messages.read_again(made.leave(secagg_messages.again_message(0))) == 0


def test_what_another_filter_sees_as_well_is_no_privacy(rig):
    """Before ours it could keep what has no noise yet, after it undo what was done."""
    for filters in ([open_policy(), OutboundFilter()], [OutboundFilter(), open_policy()], [open_policy()]):
        made = rig(patient_policy(), plaintext(patient()), filters=filters)
        made.refuses(lambda made=made: made.before(order()), "less than a patient")


def test_a_job_of_ours_without_a_promise_is_refused(rig, message):
    for policy in POLICIES[:2]:
        made = rig(policy, plaintext(patient()))
        del made.components[ID]
        made.refuses(lambda made=made: made.leave(message(loss=None)), "component 'outbound'")


# hospital


def hospital(rig, *more, **named):
    return rig(hospital_policy(PROMISE, DELTA), *more, **named).budget(hospital=20)


@pytest.mark.parametrize(
    ("exit_", "task_data"),
    [(lambda: None, order), (plaintext, order), (secagg_job, call)],
)
def test_hospital_reserves_before_training_and_charges_every_round(rig, message, exit_, task_data):
    made = hospital(rig, exit_())
    for round_ in range(2):
        given = task_data(round_)
        assert made.before(given) is given
        assert made.account.reserved == {POLICY: GaussianRelease("hospital", 2.0, 2)}
        made.leave(message())
        assert made.account.spent[POLICY] == (PROMISE.release,) * (round_ + 1)
    assert [line["ledger_entry"] for line in made.receipts] == [1, 2]


@pytest.mark.parametrize("exit_", [lambda: secagg_job(), lambda: secagg_job(shared())])
def test_hospital_lets_no_job_check_steps_on_its_patients(rig, exit_):
    """A refusal is told, and no noise of this policy hides it."""
    made = hospital(rig, exit_())
    made.executor.validation = StepCheck(margin=0.1, floor=0.5, max_norm=0.0)
    made.refuses(lambda: made.before(call()), "a job that checks every step on this site's patients")
    assert made.account is None


def test_hospital_reserves_for_the_run_that_begins_not_for_the_one_that_ended(
    rig, message, context, monkeypatch, tmp_path
):
    """State is kept by the job's name, and the site's filter comes before the executor clears it."""
    monkeypatch.setenv("WARDROUND_STATE", str(tmp_path / "kept"))
    monkeypatch.setattr(workspaces, "job_name", lambda fl_ctx: "one")
    made = hospital(rig, plaintext())
    old = context("train", job="an-older-job")
    workspaces.run_id(old)
    workspaces.finish(old)
    made.before(order())
    workspaces.begin_new_run(made.at("train"))  # as the executor does
    made.leave(message())
    assert made.account.job.id == JOB
    assert made.account.spent[POLICY] == (PROMISE.release,)


def test_hospital_clips_and_noises_whatever_the_job_says(rig, message, monkeypatch):
    """Without noise (the one line that draws it is silenced) the norm is the clip; with it, that of the noise."""
    made = hospital(rig, plaintext())
    made.before(order())
    given = math.sqrt(sum(float(np.sum(block**2.0)) for block in BLOCKS.values()))
    assert given > 10
    noisy = plaintext_messages.read_update(made.leave(message()))
    size = sum(block.size for block in BLOCKS.values())
    norm = math.sqrt(sum(float(np.sum(block.astype(float) ** 2)) for block in noisy.delta.values()))
    assert norm == pytest.approx(PROMISE.deviation * math.sqrt(size), rel=0.15)
    monkeypatch.setattr(hospital_dp, "normal", lambda words: np.zeros(len(words)))
    monkeypatch.setattr(hospital_dp, "secret_words", lambda count: np.zeros(count))
    clean = plaintext_messages.read_update(made.leave(message())).delta
    vector = np.concatenate([block.ravel() for block in clean.values()]).astype(float)
    direction = np.concatenate([block.ravel() for block in BLOCKS.values()]) / given
    assert np.linalg.norm(vector) == pytest.approx(1.0, rel=1e-2)
    assert np.abs(vector - direction).max() <= PROMISE.step
    assert {name: block.shape for name, block in clean.items()} == {name: b.shape for name, b in BLOCKS.items()}


def test_hospital_tells_nothing_beside_the_update(rig, message, scores):
    made = hospital(rig, plaintext())
    made.before(order())
    out = plaintext_messages.read_update(made.leave(message()))
    assert out.weight == 1.0
    assert out.numbers == {"loss": None, "val_score": None, "seconds": None}
    assert (out.facts["cases"], out.facts["modalities"]) == (None, {})
    assert plaintext_messages.read_scores(made.leave(plaintext_messages.scores_message(scores), "finish")) == SILENT
    (receipt,) = made.receipts
    assert (receipt["policy"], receipt["mechanism"], receipt["sha256"]) == ("hospital", "Gaussian", digest(out.delta))
    assert "unit: hospital" in receipt["guarantee"]


def test_hospital_silences_the_scores_of_a_secure_sum(rig, scores):
    made = hospital(rig, secagg_job())
    signed = statement("judged")
    given = secagg_messages.reply_message(secagg_messages.Reply(signed, b"", {"scores": scores}))
    assert secagg_messages.read_reply(made.leave(given, "finish"), "finish").meta == {"scores": SILENT}


def test_hospital_what_leaves_passes_the_jobs_own_exit(rig, message, scores):
    """The exit after it writes its receipt and does not take the policy's reservation for the job's own."""
    made = hospital(rig, plaintext())
    made.before(order())
    out = made.through(message())
    assert plaintext_messages.read_update(out).numbers["loss"] is None
    assert len(made.receipts) == 2
    silent = made.through(plaintext_messages.scores_message(scores), "finish")
    assert plaintext_messages.read_scores(silent) == SILENT


# a scope that says one thing of tasks and another of replies


def none():
    return []


def other_promise():
    return [hospital_policy(dataclasses.replace(PROMISE, noise_multiplier=3.0), DELTA)]


def twice():
    return [hospital_policy(PROMISE, DELTA)] * 2


HALVES = [none, lambda: [open_policy()], other_promise, twice, lambda: [OutboundFilter()]]


@pytest.mark.parametrize("out", HALVES)
def test_a_scope_whose_lists_differ_lets_no_task_begin(rig, out):
    made = hospital(rig, plaintext())
    fl_ctx = under(made.at("train", FilterKey.IN), made.policy, out=out())
    made.refuses(lambda: made.policy.process(order(), fl_ctx), "SitePolicy in task_data_filters and one in")
    assert made.account is None


@pytest.mark.parametrize("before", [[], [patient_policy()], [hospital_policy(PROMISE, DELTA)] * 2])
def test_a_scope_whose_lists_differ_lets_nothing_leave(rig, message, before):
    made = hospital(rig, plaintext())
    made.before(order())
    fl_ctx = under(made.at("train"), *before, out=[made.policy])
    made.refuses(lambda: made.policy.process(message(), fl_ctx), "SitePolicy in task_data_filters and one in")


def test_a_policy_that_is_in_no_scope_refuses(rig, message):
    made = rig(open_policy(), plaintext())
    fl_ctx = made.at("train")
    fl_ctx.set_prop(FLContextKey.SCOPE_OBJECT, None, private=True, sticky=False)
    made.refuses(lambda: made.policy.process(message(), fl_ctx), "without a scope")


@pytest.mark.parametrize("task", ["train", "finish"])
def test_what_was_reserved_by_a_policy_leaves_only_through_it(rig, message, scores, task):
    """The site restarts with another scope in the middle of the job: the job's own filter lets nothing out."""
    made = hospital(rig, plaintext())
    made.before(order())
    made.policy = open_policy()
    given = message() if task == "train" else plaintext_messages.scores_message(scores)
    with pytest.raises(ReleaseRefused, match="not clipped and noised"):
        made.through(given, task)
    assert made.receipts == []


def test_hospital_refuses_what_would_overspend_before_training_with_the_figures(rig):
    cost = claim([GaussianRelease("hospital", 2.0, 3)], "hospital", DELTA).epsilon
    made = rig(hospital_policy(PROMISE, DELTA)).budget(hospital=0.99 * cost)
    made.refuses(lambda: made.before(order(num_rounds=3)), f"{cost:.4g}")
    assert made.account is None
    made.before(order(num_rounds=2))


def test_hospital_charges_patients_at_double_mu(rig):
    plan = [GaussianRelease("hospital", 2.0, 2)]
    per_hospital, per_patient = (claim(plan, unit, DELTA).epsilon for unit in ("hospital", "patient"))
    assert per_patient > 2 * per_hospital
    made = rig(hospital_policy(PROMISE, DELTA)).budget(hospital=20, patient=1.5 * per_hospital)
    made.refuses(lambda: made.before(order()), "per patient")


def test_hospital_needs_a_budget_with_a_limit_of_its_own(rig):
    made = rig(hospital_policy(PROMISE, DELTA))
    made.refuses(lambda: made.before(order()), FILE)
    made.budget(patient=50)
    made.refuses(lambda: made.before(order()), "a limit for hospital")


def test_hospital_refuses_an_epsilon_that_is_no_claim(rig):
    made = hospital(rig)
    made.refuses(lambda: made.before(order(num_rounds=2000)), "not a privacy claim")


def test_hospital_a_server_that_changes_its_mind_about_the_rounds_is_refused(rig):
    made = hospital(rig)
    made.before(order(num_rounds=2))
    made.refuses(lambda: made.before(order(num_rounds=1)), "another plan")


def test_hospital_a_round_beyond_the_plan_needs_the_budget(rig, message):
    cost = claim([GaussianRelease("hospital", 2.0, 2)], "hospital", DELTA).epsilon
    made = rig(hospital_policy(PROMISE, DELTA), plaintext()).budget(hospital=1.001 * cost)
    made.before(order())
    for _ in range(2):
        made.leave(message())
    with pytest.raises(ReleaseRefused):
        made.leave(message())
    assert "budget" in made.reasons
    assert len(made.account.spent[POLICY]) == 2


def test_hospital_a_job_that_is_charged_per_patient_is_refused_before_anything_is_reserved(rig):
    """Its own entries would promise nothing for a whole hospital, so the ledger would refuse it a moment later."""
    made = hospital(rig, plaintext(patient()))
    made.refuses(lambda: made.before(order()), "charged per patient")
    assert made.account is None


def test_hospital_nothing_leaves_that_was_not_reserved(rig, message):
    made = hospital(rig)
    made.refuses(lambda: made.leave(message()), "nothing reserved by this policy")


def test_hospital_another_promise_in_the_middle_of_a_job_is_refused(rig, message):
    made = hospital(rig)
    made.before(order())
    made.policy = hospital_policy(dataclasses.replace(PROMISE, noise_multiplier=1.0), DELTA)
    made.refuses(lambda: made.leave(message()), "nothing reserved by this policy")


@pytest.mark.parametrize("policy", POLICIES[1:], ids=named)
@pytest.mark.parametrize("task", secagg_messages.TASKS)
def test_nothing_runs_while_events_or_logs_could_tell(rig, policy, task, monkeypatch):
    """Not even a job that only judges: its scores would be in the log."""
    exit_ = plaintext(patient()) if has(policy, "patient") else plaintext()
    made = rig(policy, exit_, listed=False).budget(hospital=20)
    made.refuses(lambda: made.before(order(), task), curves.ID)
    made = rig(policy, exit_).budget(hospital=20)
    assert made.before(order(), task) is not None
    monkeypatch.setattr(policy_checks, "is_log_streaming_allowed", lambda fl_ctx: True)
    made.refuses(lambda: made.before(order(), task), "allow_log_streaming")


def test_nvflare_streams_logs_unless_a_site_says_no(context, workspace):
    """The default is to stream, so a site that did not decide is refused."""
    fl_ctx = context("train", job=JOB)
    assert is_log_streaming_allowed(fl_ctx)
    fl_ctx.set_prop(FLContextKey.WORKSPACE_ROOT, workspace.get_root_dir())
    (ledger_adapter._local(fl_ctx) / "resources.json").write_text('{"allow_log_streaming": false}')
    assert not is_log_streaming_allowed(fl_ctx)


@pytest.mark.parametrize("given", [stock(), Shareable(), plaintext_messages.refusal_message("data")])
def test_hospital_a_train_task_that_is_neither_order_nor_call_is_refused(rig, given):
    made = hospital(rig)
    with pytest.raises(ReleaseRefused):
        made.before(given)
    assert made.account is None


def test_hospital_noise_whose_rounding_is_not_covered_is_refused(rig, message, monkeypatch):
    made = hospital(rig)
    made.before(order())
    monkeypatch.setattr("wardround.dp.noise_shares.TAIL", 1e-8)
    made.refuses(lambda: made.leave(message()), "rounding")
    assert POLICY not in made.account.spent


@pytest.mark.parametrize(
    ("promise", "delta"), [(None, DELTA), (PROMISE, None), (dataclasses.replace(PROMISE, distributed=True), DELTA)]
)
def test_hospital_a_policy_that_promises_nothing_is_refused(promise, delta):
    with pytest.raises(ConfigRefused, match=r"privacy_hospital\.json"):
        hospital_policy(promise, delta)


def test_hospital_another_attempt_passes_once_the_policy_has_noised_the_update(rig, message):
    made = hospital(rig, secagg_job())
    made.before(call())
    made.refuses(lambda: made.leave(secagg_messages.again_message(0)), "coded before this policy")
    made.leave(message())
    assert secagg_messages.read_again(made.leave(secagg_messages.again_message(0))) == 0


# hospital: a stricter job


@pytest.mark.parametrize(
    "noise",
    [
        SHARED,
        dataclasses.replace(SHARED, noise_multiplier=3.0),
        dataclasses.replace(SHARED, min_clients=4, colluders=1),
    ],
)
def test_a_job_with_as_much_noise_passes_unchanged_and_is_not_charged_twice(rig, message, noise):
    own = HospitalRelease(noise, 2, DELTA, accept_vacuous=False)
    sum_ = dataclasses.replace(LOCAL, min_clients=noise.min_clients)
    made = rig(hospital_policy(PROMISE, DELTA), secagg_job(own, sum_)).budget(hospital=20)
    made.before(call())
    assert made.account is None
    made.refuses(lambda: made.leave(message(loss=None)), "did not reserve")
    made.reserve(own)
    out = plaintext_messages.read_update(made.leave(message(loss=None)))
    assert digest(out.delta) == digest(BLOCKS)
    assert out.weight == 3.0
    assert secagg_messages.read_again(made.leave(secagg_messages.again_message(0))) == 0
    assert set(made.account.reserved) == {KEY}
    assert made.receipts == [], "the job's own filter adds the noise, charges it and writes the receipt"


@pytest.mark.parametrize(
    ("mine", "noise"),
    [
        (PROMISE, dataclasses.replace(SHARED, noise_multiplier=1.99)),
        (dataclasses.replace(PROMISE, min_clients=4), SHARED),
        (dataclasses.replace(PROMISE, colluders=1), SHARED),
    ],
)
def test_a_job_that_promises_less_is_noised_here(rig, message, mine, noise):
    own = HospitalRelease(noise, 2, DELTA, accept_vacuous=False)
    made = rig(hospital_policy(mine, DELTA), secagg_job(own)).budget(hospital=40)
    made.before(call())
    assert set(made.account.reserved) == {POLICY}
    made.reserve(own)
    out = plaintext_messages.read_update(made.leave(message(loss=None)))
    assert digest(out.delta) != digest(BLOCKS)
    assert (out.weight, len(made.receipts)) == (1.0, 1)


@pytest.mark.parametrize(
    "filters", [[open_policy()], [open_policy(), OutboundFilter()], [OutboundFilter(), open_policy()]]
)
def test_noise_that_our_filter_alone_does_not_add_is_no_promise(rig, message, filters):
    """A component that promises noise, and filters that need not keep it: it is added here."""
    made = hospital(rig, secagg_job(shared()), filters=filters)
    made.before(call())
    assert set(made.account.reserved) == {POLICY}
    assert digest(plaintext_messages.read_update(made.leave(message(loss=None))).delta) != digest(BLOCKS)


def test_a_job_that_comes_with_the_whole_noise_at_every_site_is_as_strict(rig, message):
    noise = dataclasses.replace(SHARED, distributed=False)
    own = HospitalRelease(noise, 2, DELTA, accept_vacuous=False)
    insists = hospital_policy(dataclasses.replace(PROMISE, min_clients=5, colluders=2), DELTA)
    made = rig(insists, secagg_job(own, dataclasses.replace(LOCAL, masks=False))).budget(hospital=20)
    made.before(call())
    made.reserve(own)
    assert digest(plaintext_messages.read_update(made.leave(message(loss=None))).delta) == digest(BLOCKS)


# a whole secure sum with one such hospital


@pytest.mark.parametrize("mode", ["masked", "ring"])
def test_a_hidden_sum_ends_well_with_a_hospital_that_insists(federation, mode):
    made = federation(mode)
    site, policy = made.sites["site-1"], hospital_policy(PROMISE, DELTA)
    site.engine.components[curves.ID] = Curves()
    (site.root / "local" / FILE).write_text(json.dumps({"hospital": {"epsilon": 20, "delta": DELTA}}))
    own, answer = site.exit, site.executor.execute
    runner = SimpleNamespace(task_result_filters={f"{task}/out": [own] for task in secagg_messages.TASKS})

    def at(fl_ctx, direction):
        fl_ctx.set_prop(FLContextKey.RUNNER, runner)
        fl_ctx.set_prop(FLContextKey.FILTER_DIRECTION, direction, private=True, sticky=False)
        return under(fl_ctx, policy)

    def execute(task, message, fl_ctx, signal):
        return answer(task, policy.process(message, at(fl_ctx, FilterKey.IN)), fl_ctx, signal)

    site.executor.execute = execute
    site.exit = SimpleNamespace(process=lambda message, ctx: own.process(policy.process(message, at(ctx, "out")), ctx))
    made.run()
    assert made.problems == []
    assert len(set(made.models().values())) == 1
    assert [entry["aggregated"] for entry in made.record["rounds"]] == [list(SITES)] * 2
    assert len(Ledger(site.root / "local").state().accounts[SIMULATOR_JOB].spent[POLICY]) == 2
    assert all(entry["sites"]["site-1"]["val_score"] is None for entry in made.record["rounds"])
    assert all(entry["sites"]["site-2"]["val_score"] is not None for entry in made.record["rounds"])


# the shipped files, read by NVFlare


SHIPPED = {
    "privacy.json": ("open", {"open": "open", "patient": "patient", "hospital": "hospital"}),
    "privacy_patient.json": ("patient", {"patient": "patient"}),
    "privacy_secagg.json": ("secagg", {"secagg": "secagg"}),
    "privacy_hospital.json": ("hospital", {"hospital": "hospital"}),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_nvflare_builds_the_shipped_policy(repository, workspace, name):
    default, scopes = SHIPPED[name]
    file = repository / "poc_workspace" / name
    target = workspace.get_site_privacy_file_path()
    with open(target, "w", encoding="utf-8") as out:  # noqa: PTH123 - NVFlare's own path is a text
        out.write(file.read_text())
    manager = create_privacy_manager(workspace, names_only=False)
    assert manager.is_policy_defined()
    assert manager.default_scope.name == default
    assert [unlike(scope) for scope in manager.name_to_scopes.values()] == [""] * len(scopes)
    assert {
        one: named(scope.task_result_filters[FilterKey.OUT][0]) for one, scope in manager.name_to_scopes.items()
    } == scopes
    assert {
        one: named(scope.task_data_filters[FilterKey.IN][0]) for one, scope in manager.name_to_scopes.items()
    } == scopes
    assert {one: scope.props for one, scope in manager.name_to_scopes.items()} == {
        one: {curves.PROPERTY: curves.SHOWN if one in ("open", "secagg") else "withheld"} for one in scopes
    }
    assert type(manager.components[curves.ID]) is Curves
    assert manager.get_scope("another") is None
    if "hospital" in scopes:
        scope = manager.get_scope("hospital")
        before, after = scope.task_data_filters[FilterKey.IN][0], scope.task_result_filters[FilterKey.OUT][0]
        assert before.rules == after.rules == (HospitalRule(PROMISE, DELTA),)


def test_a_file_with_one_scope_has_no_way_around_it(repository, workspace):
    with open(workspace.get_site_privacy_file_path(), "w", encoding="utf-8") as out:  # noqa: PTH123 - as above
        out.write((repository / "poc_workspace" / "privacy_hospital.json").read_text())
    manager = create_privacy_manager(workspace, names_only=True)
    assert [manager.get_scope(name) for name in ("open", "patient", "another")] == [None] * 3
    assert manager.get_scope("").name == manager.get_scope(None).name == "hospital"


def test_no_reason_is_a_refusal_that_is_lost(rig, message):
    """Where the reason cannot be written, nothing leaves either."""
    made = rig(patient_policy())
    (private_folder(made.at("train")) / REASONS).mkdir()
    with pytest.raises((OSError, Refusal)):
        made.leave(message())


def test_a_job_without_an_exit_of_ours_names_brats_sequences_and_nothing_else(rig, message):
    rig(open_policy()).leave(message())
    for facts in ({"classes": {"J. Smith": 1}}, {"modalities": {"J. Smith": 1}}):
        with pytest.raises(ReleaseRefused, match="own policy"):
            rig(open_policy()).leave(message(**facts))
