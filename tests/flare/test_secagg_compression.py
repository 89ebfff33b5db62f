"""A compression inside a secure sum: what the executors, filters and the server make is what one process makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from nvflare_federation import MODES, SITES, PlayedHospital, first_model, patients, secagg

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from compression_arms import Hidden, Setting
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.compression.chosen import HalfPrecision, Projections, RandomSlices
from wardround.compression.half import Half
from wardround.compression.linear import layouts, stage_of
from wardround.core.arrays import Layout, digest
from wardround.core.errors import ConfigRefused
from wardround.core.traits import Traits
from wardround.flare import secagg_compression, stage_memory
from wardround.flare.outbound import NONE, Outbound
from wardround.flare.secagg_server import SecAggJobServer
from wardround.secagg.fixed_point import fields_of

ROUNDS = 4
SCHEDULE = Schedule(ROUNDS, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine")
CHOSEN = [RandomSlices(3, 0), Projections(1, 0)]
BY_NAME = pytest.mark.parametrize("chosen", CHOSEN, ids=lambda one: one.name)


@pytest.fixture
def played(federation):
    """played(mode, chosen) -> a federation of four rounds, before it runs"""

    def make(mode, chosen, **changed):
        made = federation(mode, compression=chosen, **changed)
        for site in made.sites.values():
            site.schedule = SCHEDULE
            site.restart()
        made.begin(num_rounds=ROUNDS)
        return made

    return make


def in_one_process(chosen):
    """Return the model after ROUNDS rounds of the benchmark's arm: stages and codec, without masks and messages."""
    initial = first_model()
    arm = Hidden(stage_of(chosen, Layout.of(initial)), Setting(initial, SITES, SCHEDULE, 0), 8)
    weights = initial
    for round_ in range(ROUNDS):
        total = arm(round_)
        for name in SITES:
            total.add(PlayedHospital(name).update(weights, round_), float(patients(name)))
        weights, _ = Mean(1.0).apply(weights, total.mean(), {}, 1.0)
    assert sum(arm.clipped) == 0
    return weights


def models(made):
    return {digest(site.held().wire()) for site in made.sites.values()}


@BY_NAME
@pytest.mark.parametrize("mode", MODES)
def test_the_secure_result_is_the_one_of_one_process_bit_for_bit(played, mode, chosen):
    """The update of a played hospital depends on every bit of the model, and every task finds a new process."""
    made = played(mode, chosen)
    made.restarting = True
    made.run()
    assert made.problems == []
    assert models(made) == {digest(in_one_process(chosen))}
    for site in made.sites.values():
        lines = [line["compression"] for line in site.receipts if "compression" in line]
        assert [line["method"] for line in lines] == [chosen.name] * ROUNDS
        assert all(line["sent"] < 0.6 * line["of"] for line in lines)


@BY_NAME
def test_as_many_bytes_leave_as_the_layout_has_values(played, chosen):
    """And fewer than of a whole update."""
    made, whole = played("masked", chosen).run(), Layout.of(first_model())
    found = [line["bytes"] for line in made.sites["site-1"].receipts if line["task"] == "train"]
    promise = made.promise
    sizes = [fields_of(one, promise.bits, weighted=True) for one in [*layouts(chosen, whole) * ROUNDS][:ROUNDS]]
    assert found == [8 * promise.packing.words(one) for one in sizes]
    assert max(found) < 0.8 * 8 * promise.packing.words(fields_of(whole, promise.bits, weighted=True))


@BY_NAME
@pytest.mark.parametrize("mode", ["masked", "he"])
def test_a_site_whose_update_does_not_arrive_goes_on(played, mode, chosen):
    """It reads the sum like everybody, and what it owes is the same after a restart."""

    def lost(task, name, call, reply):
        return None if (task, name, call.moment.round) == ("train", "site-3", 1) else reply

    runs = [played(mode, chosen) for _ in range(2)]
    runs[1].restarting = True
    found = [(models(one.run(meddle=lost)), one.record["rounds"][1]["aggregated"]) for one in runs]
    assert found[0] == found[1]
    assert len(found[0][0]) == 1
    assert found[0][1] == ["site-1", "site-2", "site-4"]


@BY_NAME
def test_a_crash_between_memory_and_integers_repeats_the_round(played, chosen, monkeypatch):
    """What the site owes is written first: the round begins again from what it owed before."""
    whole = played("masked", chosen).run()
    made = played("masked", chosen)
    keep, crashed = stage_memory.keep, []

    def crash(folder, remembered):
        keep(folder, remembered)
        if remembered.round == 1 and not crashed and "site-2" in str(folder):
            crashed.append(True)
            raise OSError("no space left")

    monkeypatch.setattr(secagg_compression.stage_memory, "keep", crash)

    def again(task, name, call, reply):
        """NVFlare's client is started again, and asked again."""
        if task == "train" and name == "site-2" and crashed == [True]:
            crashed.append(False)
            made.sites[name].restart()
            return made.sites[name].answer(task, made.messages[-2][2])
        return reply

    answer = made.sites["site-2"].answer

    def answered(task, message):
        try:
            return answer(task, message)
        except OSError:
            return None

    made.sites["site-2"].answer = answered
    made.run(meddle=again)
    assert crashed == [True, False]
    assert models(made) == models(whole)


def test_what_does_not_pass_through_a_sum_is_refused():
    """By its traits, and where traits promise more than the stage can do."""

    class Open:
        name, traits, leaves = "open", Traits(), "opened"

        def stage(self, blocks, site):
            return Half(blocks)

    for chosen in (HalfPrecision(), Open()):
        with pytest.raises(ConfigRefused):
            Outbound(NONE, chosen, secagg("masked"), [])
    with pytest.raises(ConfigRefused, match="sum"):
        SecAggJobServer(secagg("masked"), object(), ["model"], [], [], HalfPrecision())
    with pytest.raises(ConfigRefused, match="found"):
        SecAggJobServer(secagg("masked"), object(), ["model"], [], [], None)


def test_a_compressed_update_needs_a_job_that_compresses(played):
    made = played("masked", NONE)
    with pytest.raises(ConfigRefused, match="without a compression"):
        secagg_compression.hold(made.sites["site-1"].outbound, None, None, {}, None)
