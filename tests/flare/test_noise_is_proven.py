"""A real site that insists on patient-level privacy, and jobs that only look private: nothing leaves, nothing is booked.

Real executors, exits, policy, ledger and phantoms in one process, with the filters applied by NVFlare; no simulator.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hidden_federation import SPEC, protection
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.signal import Signal
from nvflare.apis.utils.task_utils import apply_filters
from nvflare.private.fed.client.client_runner import TaskRouter

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.rules import Mean
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING
from wardround.arrays import in_bank
from wardround.data.cases import MODALITIES
from wardround.data.hospitals import hospital
from wardround.errors import Refusal
from wardround.flare import curves, policy_checks, sealed, site_policy, wire
from wardround.flare.curves import Curves
from wardround.flare.ledger_door import PatientRelease
from wardround.flare.release import Release
from wardround.flare.secure_site import SecureSite
from wardround.flare.secure_sum import ID, SecureSum
from wardround.flare.site import SiteTrainer
from wardround.flare.site_policy import PatientPolicy
from wardround.hospital.global_model import initial_arrays
from wardround.hospital.judging import Judging
from wardround.hospital.opening import Phantoms
from wardround.hospital.segmentation import Sampling
from wardround.privacy.accounting import claim
from wardround.privacy.budget import FILE
from wardround.privacy.dp_sgd import PatientDP
from wardround.privacy.hospital_dp import HospitalDP
from wardround.privacy.ledger import Ledger
from wardround.privacy.statements import Moment

PROMISE = PatientDP(clip=1.0, noise_multiplier=2.0, sampling_rate=0.25, reference_patients=16)
DP = PatientRelease(PROMISE, work=2, rounds=3, delta=1e-5, accept_vacuous=False)
NOISE = HospitalDP(clip=1.0, noise_multiplier=2.0, sites=16, min_sites=3, colluders=0, hidden=True, bits=16)
RUN = "ab" * 16


def settings(**changed):
    promise = {
        "algorithm": FedAvg(),
        "sharing": EVERYTHING,
        "model": SPEC,
        "schedule": Schedule(3, 2, 0.05, 0.0, False, 0.0, 0.0, "constant"),
        "sampling": Sampling((8, 8, 8), 2, 0.5, False),
        "judging": Judging([0, 1], 0.01),
        "phantoms": Phantoms([16, 16, 16], 14),
        "seed": 0,
    }
    return promise | changed


def trainer(**changed):
    return SiteTrainer(**settings(dp=DP) | changed)


def unnoised(**changed):
    """The executor of a hidden sum: it tells no number when its sum says that there is noise. It trains without."""
    return SecureSite(**settings(rule=Mean(1.0), banks=["model"], dp=None) | changed)


class Scaled(Filter):
    """A filter before the exit that changes what the training made."""

    def process(self, shareable, fl_ctx):
        update = wire.read_update(shareable)
        blocks = {name: block * np.float32(2) for name, block in update.delta.items()}
        return wire.update_message(wire.Update(blocks, update.weight, update.numbers, update.facts))


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

    def job(self, job, executors, filters=None, policy=PatientPolicy, **components):
        """Return ask(task, message) of one job as NVFlare's client runner does a task."""
        filters = [Release(DP, MODALITIES)] if filters is None else filters
        router = TaskRouter()
        for executor, tasks in executors:
            router.add_executor(tasks, executor)
        table = {f"{task}/out": filters for task in sealed.TASKS}
        scope = SimpleNamespace(task_data_filters={"in": [policy()]}, task_result_filters={"out": [policy()]})

        def ask(task, message):
            fl_ctx = self.context(task, job=job, **{curves.ID: Curves(), **components})
            fl_ctx.set_prop(FLContextKey.RUNNER, SimpleNamespace(task_result_filters=table, task_router=router))
            fl_ctx.set_prop(FLContextKey.SCOPE_OBJECT, scope)
            fl_ctx.set_prop(FLContextKey.JOB_META, {JobMetaKey.JOB_NAME.value: "brats_dp_record"})
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
    return wire.order_message(wire.Order(in_bank("model", initial_arrays(SPEC, 0)), round_, 3))


def call(round_):
    return sealed.call_message(sealed.Call(Moment(RUN, round_, 0), 3, begun=1))


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
    return wire.read_update(message) if message.get_return_code() == ReturnCode.OK else None


def test_an_honest_job_leaves_is_booked_and_goes_on_under_its_own_id(site):
    """Broken off after a round and submitted again: its own reservation, for the rounds that are left, charged once."""
    first = site.job("job-1", [(trainer(), ["train", "finish"])])
    assert left(lambda: first("train", order(0))) is not None
    second = site.job("job-2", [(trainer(), ["train", "finish"])])
    for round_ in (1, 2):
        assert left(lambda n=round_: second("train", order(n))) is not None
    one, two = site.ledger.accounts["job-1"], site.ledger.accounts["job-2"]
    assert (two.job.continues, one.reserved, two.open("federation")) == ("job-1", {}, [])
    assert [entry.job_id for entry in site.booked] == ["job-1", "job-2", "job-2"]
    assert site.ledger.reserved == []
    assert claim(site.ledger.spent, "patient", 1e-5) == claim([DP.plan()], "patient", 1e-5)


ATTACKS = {
    "hidden executor": ([(unnoised, ["train", "finish"])], None, call),
    "hidden executor with noise": ([(lambda: unnoised(), list(sealed.TASKS))], None, call),
    "trained without dp": ([(lambda: trainer(dp=None), ["train", "finish"])], None, order),
    "two executors": ([(unnoised, ["train"]), (trainer, ["finish"])], None, call),
    "two executors of one class": ([(trainer, ["train"]), (trainer, ["finish"])], None, order),
    "other settings": (
        [(lambda: trainer(sampling=Sampling((8, 8, 8), 4, 0.5, False)), ["train", "finish"])],
        None,
        order,
    ),
    "a filter before the exit": ([(trainer, ["train", "finish"])], [Scaled(), Release(DP, MODALITIES)], order),
    "another split of the plan": (
        [
            (
                lambda: trainer(
                    schedule=Schedule(2, 3, 0.05, 0.0, False, 0.0, 0.0, "constant"),
                    dp=PatientRelease(PROMISE, work=3, rounds=2, delta=1e-5, accept_vacuous=False),
                ),
                ["train", "finish"],
            )
        ],
        None,
        order,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("round_", [0, 1])
def test_a_job_of_the_same_name_that_only_looks_private_lets_nothing_out(site, name, round_):
    """After an honest first round, whose reservation and state it would inherit."""
    honest = site.job("job-1", [(trainer(), ["train", "finish"])])
    assert left(lambda: honest("train", order(0))) is not None
    executors, filters, message = ATTACKS[name]
    noise = NOISE if "noise" in name or "hidden" in name or name == "two executors" else None
    secure = SecureSum(protection("masked", bits=16, weights="equal"), 0, noise)
    false = site.job("job-2", [(make(), tasks) for make, tasks in executors], filters, **{ID: secure})
    assert left(lambda: false("train", message(round_))) is None
    assert [entry.job_id for entry in site.booked] == ["job-1"]


@pytest.mark.parametrize("noise", [NOISE, None], ids=["noise in the sum", "no noise"])
def test_without_any_policy_the_exit_alone_does_not_take_silence_for_noise(site, noise):
    """The site's scope is `open`: what is booked as noised must be noised all the same."""
    secure = SecureSum(protection("masked", bits=16, weights="equal"), 0, noise)
    false = site.job("job-1", [(unnoised(), list(sealed.TASKS))], policy=site_policy.OpenPolicy, **{ID: secure})
    assert left(lambda: false("train", call(0))) is None
    assert site.booked == []


def test_a_sum_whose_noise_its_executor_does_not_promise_is_refused_by_the_executor(site):
    secure = SecureSum(protection("masked", bits=16, weights="equal"), 0, NOISE)
    false = site.job("job-1", [(unnoised(), list(sealed.TASKS))], [], site_policy.OpenPolicy, **{ID: secure})
    reply = false("train", call(0))
    assert wire.refusal_code(reply) == "config"
