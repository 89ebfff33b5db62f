"""A real site that insists on patient-level privacy, and jobs that only look private: nothing leaves, nothing is booked.

Real executors, exits, policy, ledger and phantoms in one process, with the filters applied by NVFlare; no simulator.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from nvflare.apis.executor import Executor
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.signal import Signal
from nvflare.apis.utils.task_utils import apply_filters
from nvflare.private.fed.client.client_runner import TaskRouter
from nvflare_federation import SPEC, secagg
from outbounds import outbound
from site_policies import open_policy, patient_policy

from wardround import __version__
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.arrays import in_variable
from wardround.core.errors import Refusal
from wardround.dp.accounting import claim
from wardround.dp.budget import FILE
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.ledger import Ledger
from wardround.dp.patient_dp import PatientDP
from wardround.dp.patient_release import PatientRelease
from wardround.flare import (
    curves,
    orders,
    plaintext_messages,
    policy_checks,
    secagg_calls,
    secagg_messages,
)
from wardround.flare.curves import Curves
from wardround.flare.executor import SiteExecutor
from wardround.flare.outbound import ID
from wardround.flare.outbound_filter import OutboundFilter
from wardround.messages.statements import Moment
from wardround.models.fingerprint import fingerprint
from wardround.synthetic.hospitals import hospital
from wardround.training.evaluation import ModelSelection
from wardround.training.global_model import initial_arrays
from wardround.training.opening import Phantoms
from wardround.training.segmentation import Sampling

PROMISE = PatientDP(max_grad_norm=1.0, noise_multiplier=2.0, sample_rate=0.25, reference_patients=16)
DP = PatientRelease(PROMISE, work=2, num_rounds=3, delta=1e-5, accept_vacuous=False)
NOISE = HospitalDP(
    max_update_norm=1.0, noise_multiplier=2.0, sites=16, min_clients=3, colluders=0, distributed=True, bits=16
)
RUN = "ab" * 16


def settings(**changed):
    promise = {
        "algorithm": FedAvg(),
        "sharing": EVERYTHING,
        "model": SPEC,
        "schedule": Schedule(3, 2, 0.05, 0.0, False, 0.0, 0.0, "constant"),
        "sampling": Sampling((8, 8, 8), 2, 0.5, False),
        "model_selection": ModelSelection([0, 1], 0.01),
        "phantoms": Phantoms([16, 16, 16], 14),
        "seed": 0,
    }
    return promise | changed


def trainer(**changed):
    return SiteExecutor(**settings() | changed)


def of_a_sum(**changed):
    """The executor of a secure sum: it tells no number when there is noise in the sum, and trains without."""
    return trainer(server_optimizer=Mean(1.0), variables=["model"], **changed)


class Silent(Executor):
    """An executor of somebody else: it trains nothing, and tells no loss, as one that trains with noise."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        blocks = {name: block + np.float32(1) for name, block in in_variable("model", initial_arrays(SPEC, 0)).items()}
        facts = {"label": "north", "cases": None, "modalities": {}, "label_kind": "brats", "device": "cpu"}
        facts |= {"phantoms": True, "version": __version__, "fingerprint": fingerprint(SPEC)}
        return plaintext_messages.update_message(
            plaintext_messages.Update(blocks, 1.0, dict.fromkeys(plaintext_messages.NUMBERS), facts)
        )


class Scaled(Filter):
    """A filter of somebody else that changes what the training made."""

    def process(self, shareable, fl_ctx):
        update = plaintext_messages.read_update(shareable)
        blocks = {name: block * np.float32(2) for name, block in update.delta.items()}
        return plaintext_messages.update_message(
            plaintext_messages.Update(blocks, update.weight, update.numbers, update.facts)
        )


class Site:
    """One real site with kept state, a budget and the scope `patient`."""

    def __init__(self, context, workspace, project, root):
        self.context, self.root = context, Path(workspace.get_root_dir())
        shutil.copytree(project / "site-1" / "startup", self.root / "startup", dirs_exist_ok=True)
        Phantoms([16, 16, 16], 14).write(root / "data", hospital(0), 0)
        local = {
            "wardround.json": {"data": str(root / "data"), "device": "cpu"},
            "wardround_state.json": {"folder": "kept"},
            FILE: {"patient": {"epsilon": 30, "delta": 1e-5}},
        }
        for name, content in local.items():
            (self.root / "local" / name).write_text(json.dumps(content))

    def job(self, job, executors, promised=None, filters=None, policy=patient_policy):
        """Return ask(task, message) of one job as NVFlare's client runner does a task."""
        filters = [OutboundFilter()] if filters is None else filters
        components = {ID: outbound(DP) if promised is None else promised}
        router = TaskRouter()
        for executor, tasks in executors:
            router.add_executor(tasks, executor)
        table = {f"{task}/out": filters for task in secagg_messages.TASKS}
        scope = SimpleNamespace(task_data_filters={"in": [policy()]}, task_result_filters={"out": [policy()]})

        def ask(task, message):
            fl_ctx = self.context(task, job=job, **{curves.ID: Curves(), **components})
            fl_ctx.set_prop(FLContextKey.RUNNER, SimpleNamespace(task_result_filters=table, task_router=router))
            fl_ctx.set_prop(FLContextKey.SCOPE_OBJECT, scope)
            fl_ctx.set_prop(FLContextKey.JOB_META, {JobMetaKey.JOB_NAME.value: "brats_dp_patient"})
            fl_ctx.set_prop(ReservedKey.RUN_NUM, job, private=False, sticky=False)
            message = apply_filters("task_data_filters", message, fl_ctx, {}, task, FilterKey.IN)
            reply = router.route(task).execute(task, message, fl_ctx, Signal())
            return apply_filters("task_result_filters", reply, fl_ctx, table, task, FilterKey.OUT)

        return ask

    @property
    def ledger(self):
        return Ledger(self.root / "local").state()

    @property
    def booked(self):
        return [entry for entry in self.ledger.chain.entries if entry.what == "spend"]


def order(round_):
    return orders.order_message(orders.Order(in_variable("model", initial_arrays(SPEC, 0)), round_, 3))


def call(round_):
    return secagg_calls.call_message(secagg_messages.Call(Moment(RUN, round_, 0), 3, begun=1))


@pytest.fixture
def site(context, workspace, project, tmp_path, monkeypatch):
    monkeypatch.setattr(policy_checks, "is_log_streaming_allowed", lambda fl_ctx: False)
    return Site(context, workspace, project, tmp_path)


def left(act):
    """Return the update that left, None where the job was refused."""
    try:
        message = act()
    except Refusal:
        return None
    return plaintext_messages.read_update(message) if message.get_return_code() == ReturnCode.OK else None


def test_an_honest_job_leaves_is_booked_and_goes_on_under_its_own_id(site):
    """Broken off after a round and submitted again: its own reservation, for the rounds that are left, charged once."""
    first = site.job("job-1", [(trainer(), ["train", "finish"])])
    assert left(lambda: first("train", order(0))) is not None
    second = site.job("job-2", [(trainer(), ["train", "finish"])])
    for round_ in (1, 2):
        out = left(lambda n=round_: second("train", order(n)))
        assert out is not None
        assert out.numbers["seconds"] is None
    one, two = site.ledger.accounts["job-1"], site.ledger.accounts["job-2"]
    assert (two.job.continues, one.reserved, two.open("federation")) == ("job-1", {}, [])
    assert [entry.job_id for entry in site.booked] == ["job-1", "job-2", "job-2"]
    assert site.ledger.reserved == []
    assert claim(site.ledger.spent, "patient", 1e-5) == claim([DP.plan()], "patient", 1e-5)


def masked(privacy="none"):
    return outbound(privacy, secagg("masked", bits=16, weights="equal"))


BOTH = ["train", "finish"]
SHORT = Schedule(2, 3, 0.05, 0.0, False, 0.0, 0.0, "constant")
# name: (executors with their tasks, what the job promises, its filters, its messages)
ATTACKS = {
    "an executor of a sum": ([(of_a_sum, BOTH)], lambda: outbound(DP), None, call),
    "a sum without noise": ([(of_a_sum, list(secagg_messages.TASKS))], masked, None, call),
    "noise in the sum": (
        [(of_a_sum, list(secagg_messages.TASKS))],
        lambda: masked(HospitalRelease(NOISE, 3, 1e-5, False)),
        None,
        call,
    ),
    "noise in the training of a sum": ([(of_a_sum, list(secagg_messages.TASKS))], lambda: masked(DP), None, call),
    "trained without noise": ([(trainer, BOTH)], outbound, None, order),
    "no promise at all": ([(trainer, BOTH)], object, None, order),
    "two executors": ([(of_a_sum, ["train"]), (trainer, ["finish"])], lambda: outbound(DP), None, call),
    "two executors of one class": ([(trainer, ["train"]), (trainer, ["finish"])], lambda: outbound(DP), None, order),
    "an executor of somebody else": ([(Silent, BOTH)], lambda: outbound(DP), None, order),
    "other settings": (
        [(lambda: trainer(sampling=Sampling((8, 8, 8), 4, 0.5, False)), BOTH)],
        lambda: outbound(DP),
        None,
        order,
    ),
    "a filter before ours": ([(trainer, BOTH)], lambda: outbound(DP), [Scaled(), OutboundFilter()], order),
    "a filter after ours": ([(trainer, BOTH)], lambda: outbound(DP), [OutboundFilter(), Scaled()], order),
    "no filter": ([(trainer, BOTH)], lambda: outbound(DP), [], order),
    "another split of the plan": (
        [(lambda: trainer(schedule=SHORT), BOTH)],
        lambda: outbound(PatientRelease(PROMISE, work=3, num_rounds=2, delta=1e-5, accept_vacuous=False)),
        None,
        order,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("round_", [0, 1])
def test_a_job_of_the_same_name_that_only_looks_private_lets_nothing_out(site, name, round_):
    """After an honest first round, whose reservation and state it would inherit."""
    honest = site.job("job-1", [(trainer(), BOTH)])
    assert left(lambda: honest("train", order(0))) is not None
    executors, promised, filters, message = ATTACKS[name]
    false = site.job("job-2", [(make(), tasks) for make, tasks in executors], promised(), filters)
    assert left(lambda: false("train", message(round_))) is None
    assert [entry.job_id for entry in site.booked] == ["job-1"]


@pytest.mark.parametrize("filters", [None, [Scaled(), OutboundFilter()]], ids=["silent", "silent and scaled"])
def test_without_any_policy_the_filter_alone_does_not_take_silence_for_noise(site, filters):
    """The site's scope is `open`: what is booked as noised must be noised all the same."""
    false = site.job("job-1", [(Silent(), BOTH)], None, filters, open_policy)
    assert left(lambda: false("train", order(0))) is None
    assert site.booked == []
