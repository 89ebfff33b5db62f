"""Rounds with a compression through the real filter of every site and the real controller, against the pure stages.

The filter is built anew for every task, as in a process that was started again: what a site owes lies in its state folder.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, TaskCompletionStatus
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from outbounds import leaving, outbound

from wardround.aggregation.mean import WeightedMean
from wardround.algorithms.server_optimizers import Mean
from wardround.compression.chosen import HalfPrecision, LargestValues, Quantisation, RandomSlices
from wardround.compression.opening import Opening
from wardround.core.arrays import Layout, RunningMean, in_variable
from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.core.stages import Update
from wardround.core.traits import Traits
from wardround.flare import compressed_messages, few_patients, orders, plaintext_messages, workspaces
from wardround.flare.controller import ServerController
from wardround.flare.outbound import Asked
from wardround.flare.plaintext_server import PlaintextServer
from wardround.flare.workspaces import SIMULATOR_JOB
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.training.global_model import initial_arrays

SPEC = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)
CHOSEN = [HalfPrecision(), Quantisation(8, 256, 0), LargestValues(0.1), RandomSlices(2, 0)]
BY_NAME = pytest.mark.parametrize("chosen", CHOSEN, ids=lambda one: one.name)
WEIGHTS = {"site-1": 3.0, "site-2": 4.0, "site-3": 8.0}
ROUNDS = 4
ABOUT = {"config_type": "dict", "job": "brats_fedavg", "algorithm": "FedAvg", "rounds": ROUNDS}


def trained(site, round_):
    """Return the update that a site would send as float32."""
    rng = stream(0, site, round_)
    return {
        name: rng.normal(0, 0.01, block.shape).astype(np.float32)
        for name, block in in_variable("model", initial_arrays(SPEC, 0)).items()
    }


def lost(site, round_):
    """site-2 is silent in round 1; the message that site-3 has made in round 2 never arrives."""
    return (site, round_) in {("site-2", 1), ("site-3", 2)}


def expected(chosen):
    """Return the final model as the pure stages make it."""
    model = in_variable("model", initial_arrays(SPEC, 0))
    blocks = Layout.of(model)
    opening = Opening(chosen, blocks, {}, 1e6)
    memories = {site: {} for site in WEIGHTS}
    for round_ in range(ROUNDS):
        mean, done = RunningMean(), []
        for site, weight in WEIGHTS.items():
            if (site, round_) == ("site-2", 1):
                continue
            stage = chosen.stage(blocks, site)
            message, _ = stage.outbound(Update(trained(site, round_), weight), round_, memories[site])
            if not lost(site, round_):
                mean.add(opening.opened(site, message.params, round_), weight)
                done.append(site)
            stage.settle(memories[site], site in done)
        opening.settle(done)
        model = {name: block + mean.mean()[name] for name, block in model.items()}
    return {name.removeprefix("model:"): block for name, block in model.items()}


class Sites:
    """Plays the network: every site's update goes through a filter of its own, in a folder of its own."""

    def __init__(self, controller, chosen, root, update, scores, sent):
        self.controller, self.chosen, self.root = controller, chosen, root
        self.update, self.scores, self.sent = update, scores, sent
        self.contexts = {}

    def context(self, site):
        if site not in self.contexts:
            (self.root / site / "local").mkdir(parents=True)
            (self.root / site / "startup").mkdir()
            engine = SimpleNamespace(components={}, workspace=Workspace(str(self.root / site), site))
            engine.get_workspace = lambda: engine.workspace
            engine.get_component = engine.components.get
            fl_ctx = FLContext()
            fl_ctx.set_prop(ReservedKey.ENGINE, engine, private=True, sticky=False)
            fl_ctx.set_prop(ReservedKey.RUN_NUM, SIMULATOR_JOB, private=False, sticky=False)
            fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, site, private=False, sticky=False)
            fl_ctx.set_prop(FLContextKey.TASK_NAME, "train", private=True, sticky=False)
            few_patients.keep(fl_ctx, few_patients.Patients(train=30, val=12, test=12))
            self.contexts[site] = fl_ctx
        return self.contexts[site]

    def cancel_task(self, task, completion_status, fl_ctx):
        task.completion_status = completion_status

    def broadcast(self, task, fl_ctx, targets, min_responses, wait):
        order = orders.read_order(task.data)
        for site in targets:
            if task.name == plaintext_messages.FINISH:
                message = plaintext_messages.scores_message(self.scores)
            elif (site, order.round) == ("site-2", 1):
                continue
            else:
                message = self.made(site, order)
                # A round that is asked again, as after a restart of the server, is answered with the same message.
                again = self.read(self.made(site, order))
                assert all(np.array_equal(array, again[name]) for name, array in self.read(message).items())
                if lost(site, order.round):
                    continue
            client_task = ClientTask(Client(site, "token"), task)
            client_task.result = self.sent(message, site)
            task.result_received_cb(client_task=client_task, fl_ctx=None)
        task.completion_status = TaskCompletionStatus.TIMEOUT

    def made(self, site, order):
        promised = outbound(compression=self.chosen)
        promised.begin(Asked(order.round, "aa", order.since(site)))
        facts = {"fingerprint": fingerprint(SPEC)}
        given = self.update(trained(site, order.round), WEIGHTS[site], **facts)
        return leaving(plaintext_messages.update_message(given), self.context(site), promised)

    def read(self, message):
        return compressed_messages.read_update(message, self.chosen.name).delta


def server(chosen, **changed):
    parts = {
        "aggregation": WeightedMean(),
        "compression": chosen,
        "server_optimizer": Mean(1.0),
        "model": SPEC,
        "variables": ["model"],
    }
    return PlaintextServer(**parts | {"home_roles": [], "allowed_names": [], "min_clients": 2, "seed": 0} | changed)


@BY_NAME
def test_rounds_are_those_of_the_pure_stages(chosen, context, update, scores, sent, tmp_path):
    fl_ctx = context(party="server")
    fl_ctx.get_engine().clients += [SimpleNamespace(name=site) for site in WEIGHTS]
    made = ServerController(server(chosen), ROUNDS, ABOUT, 60, 60, 60)
    made.communicator = sites = Sites(made, chosen, tmp_path / "sites", update, scores, sent)
    made.initialize(fl_ctx)
    made.control_flow(Signal(), fl_ctx)
    folder = workspaces.run_folder(fl_ctx)
    report = json.loads((folder / "report.json").read_text())
    both = ["site-1", "site-3"], ["site-1", "site-2"]
    assert [one["aggregated"] for one in report["rounds"]] == [sorted(WEIGHTS), *both, sorted(WEIGHTS)]
    final, _ = checkpoint.load(folder / "final_model.npz", fingerprint(SPEC))
    for name, block in expected(chosen).items():
        np.testing.assert_allclose(final[name], block, rtol=0, atol=1e-7)
    whole = 4 * sum(block.size for block in final.values())
    assert report["rounds"][0]["bytes_up"] < 0.6 * whole * len(WEIGHTS)
    receipts = [json.loads(line) for line in (workspaces.run_folder(sites.context("site-1")) / "releases.jsonl").open()]
    assert all(one["compression"]["method"] == chosen.name for one in receipts)
    assert receipts[0]["bytes"] * len(WEIGHTS) == report["rounds"][0]["bytes_up"]


def test_a_server_is_not_built_with_a_compression_that_its_rule_cannot_read():
    class Robust:
        name = "robust"
        traits = Traits(needs=frozenset({"fixed_layout"}))

    with pytest.raises(ConfigRefused, match="since top_k"):
        server(LargestValues(0.1), aggregation=Robust())
    with pytest.raises(ConfigRefused, match="every part"):
        server(None)
