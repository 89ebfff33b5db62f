"""A statistic of few patients is their record: what of it leaves a hospital, seen on the messages, events and logs that leave.

The attack is that of the first release: with two test patients the ends of a bootstrap interval are the two scores, with three
the third follows from the mean; and a float is an exact fraction of voxels.
"""

import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from outbounds import outbound
from site_policies import open_policy, under

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.arrays import in_variable
from wardround.core.errors import ConfigRefused
from wardround.data.cases import MODALITIES
from wardround.data.site_config import read_site_config
from wardround.flare import few_patients, orders, plaintext_messages
from wardround.flare.executor import SiteExecutor
from wardround.flare.few_patients import Patients
from wardround.flare.outbound_filter import OutboundFilter
from wardround.messages import plaintext
from wardround.models.nets import UNet3d
from wardround.reports.intervals import bootstrap_mean, paired_gain
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantoms import MARKER, write_cohort
from wardround.training.evaluation import ModelSelection
from wardround.training.global_model import initial_arrays
from wardround.training.opening import Phantoms
from wardround.training.segmentation import Sampling

SPEC = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)
ROUND = {"loss": 0.71234567, "val_score": 2 * 1234 / (1300 + 1411), "seconds": 2.0}


def judged(rows, reference):
    """The numbers of a judgement as a site makes them, from one Dice and one distance per test patient."""

    def candidate(dice, gain):
        test = {"dice_mean": asdict(bootstrap_mean(dice, 0)), "dice_WT": asdict(bootstrap_mean(dice, 0))}
        test["hd95_mm_WT"] = asdict(bootstrap_mean([100 * (1 - one) for one in dice], 0))
        return {"k": 5, "val": float(np.mean(dice)) + 1e-4, "test": test, "gain": gain}

    local = candidate(reference, None)
    mine = candidate(rows, asdict(paired_gain(rows, reference, 0)))
    scores = {"candidates": {"local": local, "personalised": mine}, "deploy": "personalised", "usable": True}
    return scores | {"val_score": 0.4321, "seconds": 1.0}


def recovered(leaving):
    """What a server that knows the code computes from an interval over two or three patients."""
    low, mean, high = (leaving[key] for key in ("low", "value", "high"))
    return sorted([low, 3 * mean - low - high, high])


def numbers_in(value):
    if isinstance(value, dict):
        return [one for part in value.values() for one in numbers_in(part)]
    return [value] if isinstance(value, float) else []


def leave(scores, fl_ctx, filter_=None):
    return plaintext_messages.read_scores(
        (filter_ or OutboundFilter()).process(plaintext_messages.scores_message(scores), fl_ctx)
    )


@pytest.fixture
def doors(context):
    """Every door of a site in plaintext: (name, function of task and Patients that returns (filter, context))"""

    def door(kind):
        def make(task, patients):
            fl_ctx = context(task, job="a1b2c3", few=True, outbound=outbound())
            if patients is not None:
                few_patients.keep(fl_ctx, patients)
            fl_ctx.set_prop(FLContextKey.FILTER_DIRECTION, FilterKey.OUT, private=True, sticky=False)
            return (OutboundFilter() if kind == "filter" else open_policy()), under(fl_ctx, open_policy())

        return make

    return {kind: door(kind) for kind in ("filter", "policy")}


def test_the_attack_works_on_what_stays():
    """Otherwise the tests below would prove nothing."""
    rows = [0.12, 0.55, 0.91]
    found = judged(rows, [0.2, 0.5, 0.6])["candidates"]["personalised"]["test"]["dice_mean"]
    assert recovered(found) == pytest.approx(rows, abs=1e-9)


@pytest.mark.parametrize("kind", ["filter", "policy"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_whatever_few_patients_score_the_same_message_leaves(doors, kind, count):
    filter_, fl_ctx = doors[kind]("finish", Patients(train=20, val=count, test=count))
    rng, seen = np.random.default_rng(count), set()
    for _ in range(4):
        scores = judged(list(rng.random(count)), list(rng.random(count)))
        leaving = leave(scores, fl_ctx, filter_)
        assert numbers_in(leaving) == [1.0]  # the seconds
        seen.add(json.dumps(leaving, sort_keys=True))
    assert len(seen) == 1
    assert json.loads(seen.pop())["candidates"] == {"local": {}, "personalised": {}}
    assert (leaving["deploy"], leaving["usable"]) == ("personalised", True)


@pytest.mark.parametrize("kind", ["filter", "policy"])
def test_from_five_on_two_digits_leave(doors, kind):
    filter_, fl_ctx = doors[kind]("finish", Patients(train=20, val=5, test=5))
    given = judged([0.123456, 0.55, 0.91, 0.4, 0.7], [0.2, 0.5, 0.6, 0.1, 0.3])
    leaving = leave(given, fl_ctx, filter_)
    mine = leaving["candidates"]["personalised"]
    assert mine["test"]["dice_mean"]["value"] == round(
        given["candidates"]["personalised"]["test"]["dice_mean"]["value"], 2
    )
    assert mine["gain"]["cases"] == 5
    assert mine["test"]["hd95_mm_WT"]["value"] == pytest.approx(46, abs=1)
    for number in [*numbers_in(leaving["candidates"]), leaving["val_score"]]:
        assert number == round(number, 2)


def test_the_rows_of_five_patients_do_not_follow_from_what_leaves(doors):
    """For every hospital of a sample there is another one, whose rows are far away, that sends the same message."""
    filter_, fl_ctx = doors["filter"]("finish", Patients(train=20, val=5, test=5))
    rng = np.random.default_rng(0)
    grid = np.linspace(-0.06, 0.06, 7)
    for _ in range(3):
        rows = np.sort(rng.uniform(0.2, 0.8, 5))
        sent = leave(judged(list(rows), [0.5] * 5), fl_ctx, filter_)["candidates"]["personalised"]["test"]["dice_mean"]
        moved = (rows + np.array(step) for step in product(grid, repeat=5) if abs(sum(step)) < 0.01)
        twins = (twin for twin in moved if np.abs(twin - rows).max() > 0.05)
        same = (twin for twin in twins if rounded_alike(bootstrap_mean(list(twin), 0, 2000), sent))
        assert next(same, None) is not None


def rounded_alike(interval, sent):
    found = asdict(interval)
    return all(round(found[key], 2) == sent[key] for key in ("value", "low", "high"))


@pytest.mark.parametrize("kind", ["filter", "policy"])
def test_a_round_over_few_patients_tells_no_score_and_no_count(doors, kind, update):
    filter_, fl_ctx = doors[kind]("train", Patients(train=4, val=1, test=2))
    facts = {"phantoms": False, "cases": {"train": 4, "val": 1, "test": 2}}
    given = replace(update(**facts), numbers=dict(ROUND))
    out = plaintext_messages.read_update(filter_.process(plaintext_messages.update_message(given), fl_ctx))
    assert out.numbers == {"loss": None, "val_score": None, "seconds": 2.0}
    assert out.facts["cases"] == {"train": None, "val": None, "test": None}


@pytest.mark.parametrize("kind", ["filter", "policy"])
def test_a_round_over_many_tells_two_digits(doors, kind, update):
    filter_, fl_ctx = doors[kind]("train", Patients(train=20, val=5, test=6))
    given = replace(update(phantoms=False, cases={"train": 20, "val": 5, "test": 6}), numbers=dict(ROUND))
    out = plaintext_messages.read_update(filter_.process(plaintext_messages.update_message(given), fl_ctx))
    assert out.numbers == {"loss": 0.71, "val_score": 0.91, "seconds": 2.0}
    assert out.facts["cases"] == {"train": 20, "val": 5, "test": 6}


@pytest.mark.parametrize(("took", "told"), [(0.0049, 0.0), (12.3456, 12.0), (128.4, 130.0), (86399.9, 86000.0)])
def test_seconds_leave_with_two_digits_but_those_of_synthetic_patients_as_they_are(took, told):
    real, nobody = Patients(20, 5, 6), Patients(20, 5, 6, synthetic=True)
    scores = {"candidates": {}, "deploy": None, "val_score": None, "seconds": took}
    for patients, wanted in ((real, told), (nobody, took)):
        assert few_patients.numbers({"seconds": took}, patients) == {"seconds": wanted}
        assert few_patients.scores(scores, patients)["seconds"] == wanted


def test_a_class_with_few_patients_hides_all_counts_by_class(doors, update):
    words = [*MODALITIES, "glioma", "rare"]
    filter_, fl_ctx = doors["filter"]("train", Patients(train=20, val=9, test=9))
    fl_ctx.get_engine().components["outbound"] = outbound(names=words)
    for classes, told in (({"glioma": 30, "rare": 8}, True), ({"glioma": 37, "rare": 1}, False)):
        out = plaintext_messages.read_update(
            filter_.process(plaintext_messages.update_message(update(phantoms=False, classes=classes)), fl_ctx)
        )
        assert ("classes" in out.facts) == told


def test_what_nobody_counted_is_over_no_patient(doors):
    """No word of the site, and a message without counts, as under hidden numbers of patients: nothing but whether."""
    filter_, fl_ctx = doors["filter"]("finish", None)
    scores = plaintext.scores_without_counts(judged([0.1, 0.2, 0.9, 0.4, 0.4, 0.3], [0.2] * 6))
    assert numbers_in(leave(scores, fl_ctx, filter_)) == [1.0]


def test_a_hospital_may_ask_for_more_and_says_so_in_its_own_file(doors, tmp_path):
    filter_, fl_ctx = doors["filter"]("finish", Patients(train=20, val=9, test=9, least=10))
    assert numbers_in(leave(judged([0.5] * 9, [0.4] * 9), fl_ctx, filter_)) == [1.0]
    file = tmp_path / "wardround.json"
    for value, least in ((10, 10), (None, 5)):
        file.write_text(json.dumps({"data": str(tmp_path), "fewest_patients": value}))
        assert read_site_config(file).fewest_patients == least
    for wrong in (0, -5, 2.5, "5", True):
        file.write_text(json.dumps({"data": str(tmp_path), "fewest_patients": wrong}))
        with pytest.raises(ConfigRefused, match="fewest_patients"):
            read_site_config(file)


@pytest.mark.parametrize("mode", ["masked", "he", "ring"])
def test_a_hidden_sum_of_few_patients_goes_on_without_scores(federation, mode):
    """No score is told, no best round is chosen, and the job is complete all the same."""
    played = federation(mode)
    for site in played.sites.values():
        site.synthetic = False
    played.run()
    record = played.record
    assert (played.problems, record["outcome"], record["best"]) == ([], "complete", None)
    assert {numbers["val_score"] for entry in record["rounds"] for numbers in entry["sites"].values()} == {None}
    assert all(not one for final in record["final"].values() for one in final["candidates"].values())
    assert {final["deploy"] for final in record["final"].values()} == {"fedavg"}


def trainer():
    promise = {
        "algorithm": FedAvg(),
        "sharing": EVERYTHING,
        "model": SPEC,
        "schedule": Schedule(1, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine"),
    }
    promise |= {
        "sampling": Sampling((8, 8, 8), 2, 0.5, False),
        "model_selection": ModelSelection([0, 1], 0.01),
        "seed": 0,
    }
    return SiteExecutor(**promise, phantoms=Phantoms([16, 16, 16], 5))


@pytest.mark.parametrize(("marked", "told"), [(True, True), (False, False)])
def test_a_whole_job_at_a_real_site_with_few_patients(context, workspace, tmp_path, caplog, marked, told):
    """Executor, exit, events and log. Synthetic patients, whose folder says so, are told exactly: there is nobody."""
    data = tmp_path / "data"
    write_cohort(data, hospital(0), 0, (16, 16, 16), 8)
    if not marked:
        (data / MARKER).unlink()
    config = {"data": str(data), "device": "cpu"}
    (Path(workspace.get_root_dir()) / "local" / "wardround.json").write_text(json.dumps(config))
    made, promised, seen, left = trainer(), outbound(), [], {}
    with caplog.at_level("INFO"):
        for task, round_ in (("train", 0), ("finish", 1)):
            fl_ctx = context(task, job="a1b2c3", few=True, outbound=promised)
            fl_ctx.get_engine().fire_event = lambda event, ctx: seen.append(ctx.get_prop("__event_data__"))
            order = orders.order_message(orders.Order(in_variable("model", initial_arrays(SPEC, 0)), round_, 1))
            reply = made.execute(task, order, fl_ctx, Signal())
            left[task] = OutboundFilter().process(reply, fl_ctx)
    update, scores = plaintext_messages.read_update(left["train"]), plaintext_messages.read_scores(left["finish"])
    assert update.facts["phantoms"], "ids that begin as phantoms' do are told, whatever the marker says"
    assert (update.numbers["val_score"] is not None) == told
    assert (scores["val_score"] is not None) == told
    assert any(one.get("test") for one in scores["candidates"].values()) == told
    curves = [event["DXO"]["data"]["track_key"] for event in seen if isinstance(event, Shareable)]
    assert ("val_score" in curves) == told
    assert scores["deploy"] in scores["candidates"]
    home = next(Path(workspace.get_root_dir()).rglob("own_rounds.jsonl"))
    exact = [json.loads(line) for line in home.read_text().splitlines()]
    assert [line["round"] for line in exact] == [1, 2]
    assert all(0 <= line["val_score"] <= 1 for line in exact)
    assert home.stat().st_mode & 0o077 == 0
    if not told:
        said = "\n".join(record.getMessage() for record in caplog.records)
        assert "not reported" in said
        assert not any(f"{line['val_score']:.3f}"[1:] in said for line in exact if line["val_score"] > 0)
