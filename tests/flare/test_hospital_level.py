"""Hospital-level DP through a whole federation with a secure sum: what leaves, what is charged, what every site then holds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from nvflare_federation import FINGERPRINT, SITES, Private, first_model
from outbounds import leaving, outbound

from wardround.algorithms.sharing import EVERYTHING
from wardround.core.arrays import Layout, digest, norm
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.stages import Update
from wardround.dp import hospital_dp
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.ledger import Ledger
from wardround.dp.releases import GaussianRelease
from wardround.dp.scales import groups_of
from wardround.dp.scaling import Scaling
from wardround.flare import plaintext_messages, secagg_calls, secagg_messages, strict_dxo
from wardround.flare.secagg_session import SecAggSession
from wardround.flare.trainer import Work, require_promise_fits
from wardround.messages import plaintext
from wardround.training import state

Z, CLIP = 1.5, 0.05
GROUPS = max(groups_of(Layout.of(first_model()))) + 1
SCALES = Scaling([1.0 + index / GROUPS for index in range(GROUPS)], [], follow=False)
PROMISED = {"bits": 16, "weights": "equal"}


def promise(hidden, **changed):
    settings = {
        "max_update_norm": CLIP,
        "noise_multiplier": Z,
        "sites": 16,
        "min_clients": 3,
        "colluders": 0,
        "bits": 16,
    }
    return HospitalDP(**settings | {"distributed": hidden} | changed)


def private(mode, scaling=SCALES, num_rounds=2, **changed):
    hidden = mode not in ("fixed", "he")
    return Private(HospitalRelease(promise(hidden, **changed), num_rounds, 1e-5, False), scaling)


@pytest.fixture
def played(federation):
    """played(mode) -> a federation with hospital-level noise"""

    def make(mode, names=SITES, scaling=SCALES, **changed):
        return federation(mode, names=names, private=private(mode, scaling, **changed), **PROMISED)

    return make


@pytest.fixture
def without_noise(monkeypatch):
    """The same mechanism with noise of zero, so that everything else can be compared exactly."""
    monkeypatch.setattr(hospital_dp, "normal", lambda words: np.zeros(len(words)))


def texts(run):
    """Return everything that a site sent, as text."""
    found = []
    for task, sender, message in run.messages:
        if sender != "server":
            data, meta = strict_dxo.data_of(message, "APP_DEFINED"), strict_dxo.meta_of(message)
            found.append((task, {key: value for key, value in data.items() if key != "payload"}, meta))
    return found


@pytest.mark.parametrize("mode", ["fixed", "masked", "he", "ring"])
def test_a_run_ends_with_one_model_and_every_release_in_the_ledger(played, mode):
    run = played(mode).run()
    assert run.panics == []
    assert run.record["outcome"] == "complete"
    assert len({digest(site.model()) for site in run.sites.values()}) == 1
    assert any(
        (site.model()[name] != first_model()[f"model:{name}"]).any()
        for site in run.sites.values()
        for name in site.model()
    )
    for site in run.sites.values():
        account = Ledger(site.root / "local").state().accounts["simulate_job"]
        assert sum(release.count for release in account.spent["federation"]) == 2
        assert account.reserved["federation"] == GaussianRelease("hospital", Z, 2)
        updates = [row for row in site.receipts if row["task"] == "train"]
        assert [row["ledger_entry"] for row in updates] == [1, 2]
        assert all(row["clipped"] == 0 and row["mechanism"] == "Gaussian" for row in updates)


def test_no_number_of_the_patients_leaves(played):
    run = played("masked").run()
    for task, _, meta in texts(run):
        if task == plaintext_messages.TRAIN:
            assert meta["numbers"] == {"loss": None, "val_score": None, "seconds": None}
            assert meta["facts"]["cases"] is None
            assert meta["facts"]["modalities"] == {}
        elif task == plaintext_messages.FINISH:
            assert meta == {"scores": plaintext.SILENT}
    said = json.dumps(run.record)
    assert "0.1" not in [
        str(value) for row in run.record["rounds"] for one in row["sites"].values() for value in one.values()
    ]
    assert run.record["final"] == {name: {"candidates": {}, "deploy": None} for name in SITES}
    assert '"val_score": 0' not in said
    assert not [
        event for site in run.sites.values() for event in site.engine.events if event[0] == "analytix_log_stats"
    ]


@pytest.mark.parametrize("mode", ["fixed", "masked"])
def test_without_noise_the_mean_is_that_of_the_clipped_updates(played, without_noise, mode):
    run = played(mode).run()
    first = first_model()
    groups = groups_of(Layout.of(first))
    s = {name: SCALES.start[group] for name, group in zip(first, groups, strict=True)}
    expected = {name: np.zeros(block.shape) for name, block in first.items()}
    for site in run.sites.values():
        u = {name: block.astype(np.float64) / s[name] for name, block in site.hospital.update(first, 0).items()}
        size = np.sqrt(sum(float(np.sum(block**2)) for block in u.values()))
        assert size > CLIP
        for name, block in u.items():
            expected[name] += block * CLIP / size * s[name] / len(SITES)
    site = run.sites["site-1"]
    held = site.held()
    after, _ = state.load(held.folder, 1, FINGERPRINT)
    step = run.sites["site-1"].private.mechanism.promise.step
    for name, block in first.items():
        np.testing.assert_allclose(after[name] - block, expected[name], atol=step * s[name] + 1e-7)


def test_the_noise_in_the_mean_has_the_promised_spread(played):
    run = played("masked", scaling=Scaling([], [], follow=False))
    for site in run.sites.values():
        site.hospital.spoil = lambda delta: {name: np.zeros_like(block) for name, block in delta.items()}
    run.run()
    noise = run.sites["site-1"].private.mechanism.promise
    assert noise.shares == 2
    after = run.sites["site-2"].model()
    moved = np.concatenate([(after[name] - first_model()[f"model:{name}"]).ravel() for name in after])
    expected = noise.deviation * np.sqrt(2) / np.sqrt(len(SITES))  # two rounds, the mean of four sites
    assert abs(moved.std() / expected - 1) < 5 / np.sqrt(2 * len(moved))


def test_scales_that_follow_are_the_same_everywhere_and_move(played):
    run = played("masked", scaling=Scaling([], [], follow=True)).run()
    found = []
    for site in run.sites.values():
        held = site.held()
        found.append([entry["scales"] for entry in held.history])
    assert all(one == found[0] for one in found)
    assert len(found[0][0]) == GROUPS
    assert len(set(found[0][0])) > 1


def test_a_dropout_weakens_nothing(played):
    """site-4 vanishes: three shares of noise are left, two were promised; its masks are removed and the sum is opened."""
    run = played("masked").run(
        meddle=lambda task, name, call, reply: None if name == "site-4" and task == "train" else reply
    )
    assert [row["aggregated"] for row in run.record["rounds"]] == [["site-1", "site-2", "site-3"]] * 2
    assert run.problems == ["site-4 is in no round"]
    three = promise(True)
    assert three.deviation * np.sqrt(3 - 1) >= Z * CLIP * (1 - 1e-12)


def budget(site, epsilon):
    limits = {"hospital": {"epsilon": epsilon, "delta": 1e-5}}
    (site.root / "local" / "wardround_budget.json").write_text(json.dumps(limits))


def charged(site):
    account = Ledger(site.root / "local").state().accounts["simulate_job"]
    return sum(release.count for release in account.spent["federation"])


def test_a_repeated_attempt_is_the_same_release(played):
    """site-4 is heard in no attempt: with three left of a threshold of three, round 0 is tried again."""
    run = played("masked", names=SITES)
    seen = []

    def meddle(task, name, call, reply):
        seen.append((task, name, call.moment.attempt))
        silent = task == "prepare" and call.moment.round == 0 and call.moment.attempt == 0 and name != "site-1"
        return None if silent and name == "site-4" else reply

    run.run(meddle=meddle)
    site = run.sites["site-1"]
    assert site.hospital.trained == [0, 1]
    assert charged(site) == 2


@pytest.mark.parametrize(("epsilon", "counted"), [(20.0, 3), (4.2, 1)])
def test_integers_of_another_run_are_noised_and_charged_anew(played, caplog, epsilon, counted):
    """Two sums of one update are two releases. 4.2: enough for what was reserved, not for one more."""
    run = played("masked")
    for site in run.sites.values():
        budget(site, epsilon)
    run.run(meddle=lambda task, name, call, reply: None if task == "unmask" else reply)  # round 0 is never opened
    assert run.panics
    site = run.sites["site-1"]
    first = site.secure.open(site.context()).fields(0)
    for one in run.sites.values():
        one.restart()
    run.begin()
    second = []

    def before(task, name, call):
        if task == "unmask" and name == "site-1" and call.moment.round == 0:
            second.append(site.secure.open(site.context()).fields(0))

    run.run(before=before)
    if counted == 3:
        assert run.panics == []
        assert (second[0] != first).any()
        assert charged(site) == 3
    else:
        assert run.panics
        assert charged(site) == 2
        assert "epsilon per hospital" in caplog.text


@pytest.mark.parametrize(
    "changed", [{"sites": 8}, {"min_clients": 4}, {"bits": 15}, {"distributed": False}], ids=lambda one: next(iter(one))
)
def test_noise_that_is_not_made_for_the_sum_is_refused(changed):
    from nvflare_federation import secagg

    with pytest.raises(ConfigRefused, match=next(iter(changed))):
        SecAggSession(secagg("masked", **PROMISED), replace(promise(True), **changed))
    with pytest.raises(ConfigRefused, match="distributed True, expected False"):
        SecAggSession(secagg("he", **PROMISED), promise(True))
    with pytest.raises(ConfigRefused, match="weights"):
        SecAggSession(secagg("masked", bits=16), promise(True))


def test_a_threshold_that_lets_two_groups_open_two_sums_is_refused():
    """Of 7 hospitals with one that helps both: 4 and 4 are 7 + 1, so A..F + c and B..F + c differ in A alone; 5 and 5 are not."""
    from nvflare_federation import secagg

    noise = {"sites": 7, "min_clients": 7, "colluders": 1}
    made = {**PROMISED, "sites": 7, "min_clients": 7}
    with pytest.raises(ConfigRefused, match="threshold 4"):
        SecAggSession(secagg("masked", **made, threshold=4), replace(promise(True), **noise))
    for threshold in (5, 0):
        SecAggSession(secagg("masked", **made, threshold=threshold), replace(promise(True), **noise))


def test_noised_integers_of_another_run_are_not_let_out(played):
    """A server that opens a second run and asks for the hop without `train`: one noise would be in two sums."""
    run = played("masked")
    run.run(meddle=lambda task, name, call, reply: None if task == "unmask" else reply)
    site, call = run.sites["site-1"], run.sites["site-1"].secure.call
    made = outbound(site.private.mechanism, run.promise)
    other = replace(call, moment=replace(call.moment, run="cd" * 16))
    made.session._site = site.secure.open(site.context())
    made.session.begin(other, site.secure.settings, 0)
    with pytest.raises(ReleaseRefused, match="those of another run"):
        leaving(secagg_messages.again_message(call.moment.round), site.context("train"), made)


def test_integers_that_were_made_under_another_promise_are_not_let_out(played):
    """Kept integers with less noise, and a job that would be charged for more: the filter compares, whoever trained."""
    run = played("masked")
    run.run(meddle=lambda task, name, call, reply: None if task == "unmask" else reply)
    site, call = run.sites["site-1"], run.sites["site-1"].secure.call
    other = replace(site.private.mechanism, promise=promise(True, noise_multiplier=3.0))
    made = outbound(other, run.promise)
    made.session.begin(call, site.secure.settings, 0)
    made.session._site = site.secure.open(site.context())
    with pytest.raises(ReleaseRefused, match="another outbound filter, sum or policy"):
        leaving(secagg_messages.again_message(call.moment.round), site.context("train"), made)


def test_a_job_beyond_the_budget_is_refused_before_training(played):
    run = played("masked")
    for site in run.sites.values():
        budget(site, 1.0)
    run.run()
    assert run.panics
    assert all(site.hospital.trained == [] for site in run.sites.values())
    assert all("epsilon per hospital" in (site.folder / "refusals.txt").read_text() for site in run.sites.values())
    replies = [message for task, sender, message in run.messages if task == "train" and sender != "server"]
    assert {plaintext_messages.refusal_code(reply) for reply in replies} == {"release"}


def test_another_number_of_rounds_than_the_schedule_is_refused(federation, caplog):
    run = federation("masked", private=private("masked", num_rounds=3), **PROMISED).run()
    assert run.panics
    assert "other rounds or work" in caplog.text
    assert all(site.hospital.trained == [] for site in run.sites.values())


def test_rounding_that_costs_too_much_is_refused_at_load():
    from nvflare_federation import SPEC, secagg

    from wardround.algorithms.fedavg import FedAvg
    from wardround.algorithms.schedule import Schedule

    schedule = Schedule(2, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine")
    good = private("masked").mechanism
    work = Work(FedAvg(), EVERYTHING, SPEC, schedule, None, None, None, 0, None)
    require_promise_fits(outbound(good, secagg("masked", **PROMISED)), work)
    coarse = replace(good, delta=1e-9, promise=promise(True, noise_multiplier=0.05, bits=9))
    with pytest.raises(ConfigRefused, match="rounding that costs less"):
        require_promise_fits(outbound(coarse, secagg("masked", **PROMISED | {"bits": 9})), work)


@pytest.mark.parametrize("name", ["promise", "num_rounds", "delta", "accept_vacuous"])
def test_a_missing_value_is_refused(name):
    with pytest.raises(ConfigRefused, match=name):
        replace(private("masked").mechanism, **{name: None})


def test_the_update_that_leaves_is_clipped_whatever_was_handed_over(without_noise):
    made = private("fixed").mechanism
    big = {"model:w": np.full((40, 50), 7.0, np.float32), "model:b": np.full(3, -1e4, np.float32)}
    out, receipt = made.outbound(Update(big, 1.0), 0, {})
    assert norm(out.params) <= CLIP + made.promise.step * np.sqrt(2003) / 2
    assert receipt["mechanism"] == "Gaussian"
    assert "all of it added here" in str(receipt["guarantee"])


def test_sealed_revealed_may_have_no_dice(played):
    run = played("masked").run()
    calls = [
        secagg_calls.read_call(message)
        for task, sender, message in run.messages
        if sender == "server" and task == "train"
    ]
    assert {one.val_score for call in calls for one in call.revealed} == {None}


@pytest.mark.parametrize("mode", ["masked", "fixed"])
def test_noise_that_is_made_for_a_sum_is_refused_where_single_updates_are_read(mode):
    """A share of it would hide less than what is charged; and the weight beside it would be the number of patients."""
    with pytest.raises(ConfigRefused, match="hospital-level differential privacy"):
        outbound(private(mode).mechanism)
