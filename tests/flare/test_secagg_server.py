"""Whole runs of a secure sum through NVFlare's contexts, messages and filters: keys, restarts, and what the server sees.

What the server does about each fault is tested without NVFlare in tests/aggregation/test_secagg_run.py.
"""

import shutil

import numpy as np
import pytest
from nvflare.apis.client import Client
from nvflare.apis.dxo import from_shareable
from nvflare.apis.shareable import Shareable
from nvflare.fuel.utils import fobs
from nvflare_federation import (
    ABOUT,
    FINGERPRINT,
    MODES,
    SECAGG,
    SITES,
    SPEC,
    first_model,
    make_kits,
    patients,
    secagg,
)

from wardround.core.arrays import digest, in_variable
from wardround.core.errors import ConfigRefused
from wardround.flare import plaintext_messages, secagg_calls, workspaces
from wardround.flare.controller import ServerController
from wardround.flare.secagg_server import SecAggJobServer
from wardround.models import checkpoint
from wardround.secagg import encryption_key

FIVE = (*SITES, "site-5")
CODED = "held-00000.npz"


def silent(*names, task, round_=0, attempt=0):
    """Let these sites not answer one task."""

    def meddle(asked, site, call, reply):
        moment = call.moment
        at = (asked, max(0, moment.round), moment.attempt) == (task, round_, attempt)
        return None if site in names and at else reply

    return meddle


@pytest.fixture(scope="module")
def known():
    """Models that were computed in the open already."""
    return {}


@pytest.fixture
def without(federation, known):
    """without(*sites, round_=0) -> digest of the final model in the open when these sites refuse from that round on"""

    def make(*names, round_=0):
        def meddle(asked, site, call, reply):
            refuses = asked == "train" and site in names and call.moment.round >= round_
            return plaintext_messages.refusal_message("data") if refuses else reply

        if (names, round_) not in known:
            played = federation("fixed").run(meddle=meddle)
            known[names, round_] = played.models(["site-1"])["site-1"]
        return known[names, round_]

    return make


def test_every_mode_ends_with_the_same_model(federation):
    found = {}
    for mode in MODES:
        played = federation(mode).run()
        assert (played.record["outcome"], played.problems, played.panics) == ("complete", [], [])
        assert len(set(played.models().values())) == 1
        found[mode] = (played.models()["site-1"], played.record["model"]["sha256"])
    assert len(set(found.values())) == 1, found


def test_processes_that_are_restarted_for_every_task_change_nothing(federation, without):
    played = federation("ring")
    played.restarting = True
    assert played.run().models() == dict.fromkeys(SITES, without())
    assert played.problems == []


def test_real_hospitals_train_the_same_model_in_the_open_and_in_the_ring(federation):
    """Real phantoms, real training, real judgement: all that is played is the communicator."""
    played = [federation(mode, names=SITES[:3], played=False).run() for mode in ("fixed", "ring")]
    assert [one.problems for one in played] == [[], []]
    assert played[0].models() == played[1].models()
    assert digest(played[0].sites["site-1"].model()) != digest(first_model())
    assert set(played[1].record["final"]) == set(SITES[:3])
    assert all(0 <= entry["sites"]["site-1"]["val_score"] <= 1 for entry in played[1].record["rounds"])


@pytest.mark.parametrize("mode", ["he", "ring"])
def test_a_site_that_missed_a_round_is_brought_to_the_same_model(federation, mode):
    """Missing in train, a site whose masks are in the others' updates is recovered; without masks nothing has to be. In the
    next round it takes part again, and its model is that of all others, bit for bit."""
    played = federation(mode).run(meddle=silent("site-2", task="train"))
    first, second = played.record["rounds"]
    left = ["site-1", "site-3", "site-4"]
    assert (first["aggregated"], second["aggregated"]) == (left, list(SITES))
    assert (first["recovered"], second["recovered"]) == (["site-2"] if played.promise.masks else [], [])
    assert (first["missing"], second["missing"]) == ({"site-2": "no answer in time"}, {})
    assert (first["attempts"], second["attempts"]) == (1, 1)
    assert (played.problems, played.record["outcome"]) == ([], "complete")
    assert played.record["remarks"] == ["site-2 is not in round 1: no answer in time"]
    assert len(set(played.models().values())) == 1


@pytest.mark.parametrize("mode", ["masked", "ring"])
@pytest.mark.parametrize("away", [{0, 1}, {1, 2}])
def test_a_site_that_was_away_for_rounds_applies_their_sums(federation, mode, away):
    """It is not even reached: it gets no call at all. The server keeps the sums that it lacks, and no others."""
    played = federation(mode)
    played.begin(num_rounds=4)

    def meddle(asked, site, call, reply):
        return None if site == "site-2" and call.moment.round in away else reply

    silences = played.sites["site-2"].answer
    played.sites["site-2"].answer = lambda task, message: (
        Shareable() if secagg_calls.read_call(message).moment.round in away else silences(task, message)
    )
    played.run(meddle=meddle)
    assert [("site-2" in entry["aggregated"]) for entry in played.record["rounds"]] == [n not in away for n in range(4)]
    assert (played.problems, played.record["outcome"]) == ([], "complete")
    assert len(set(played.models().values())) == 1
    assert played.sites["site-2"].hospital.trained == [n for n in range(4) if n not in away]
    assert len(list(played.server.folder.glob("sum-*.bin"))) == 1


def test_a_site_that_died_and_lost_its_secrets_joins_again(federation):
    """It dies in round 1 and comes back with a new token, without the channel key of this run: it is asked to join anew."""
    played = federation("ring")
    site, clients = played.sites["site-2"], played.server.engine.clients

    def meddle(asked, name, call, reply):
        if (asked, name, call.moment.round) != ("train", "site-2", 0):
            return reply
        (site.folder / "secure" / "secrets.json").unlink()
        clients[1] = Client("site-2", "new")
        site.restart()
        return None

    played.run(meddle=meddle)
    assert [one.targets for one in played.asked if one.task == "join"] == [SITES, ("site-2",)]
    first, second = played.record["rounds"]
    assert (first["recovered"], second["aggregated"]) == (["site-2"], list(SITES))
    assert (played.problems, len(set(played.models().values()))) == ([], 1)


def test_a_site_that_is_silent_in_the_judgement_makes_the_run_incomplete(federation):
    played = federation("ring").run(meddle=silent("site-2", task="finish", round_=2))
    assert [entry["aggregated"] for entry in played.record["rounds"]] == [list(SITES)] * 2
    assert played.problems == ["site-2 was lost in the final evaluation: no answer in time (see that site's own log)"]
    assert "INCOMPLETE: site-2" in played.panics[0]
    assert set(played.record["final"]) == {"site-1", "site-3", "site-4"}


@pytest.mark.parametrize(("mode", "task"), [("masked", "train"), ("ring", "hop")])
def test_too_many_missing_to_open_the_masks_and_the_round_is_run_again(federation, mode, task):
    """Five sites agreed that four open the sum; two go missing: the other three start afresh and train nothing twice."""
    played = federation(mode, names=FIVE).run(meddle=silent("site-2", "site-5", task=task))
    first, second = played.record["rounds"]
    left = ["site-1", "site-3", "site-4"]
    assert (first["attempts"], second["attempts"]) == (2, 1)
    assert (first["aggregated"], second["aggregated"]) == (left, list(FIVE))
    assert first["configured"] == list(FIVE)
    assert first["recovered"] == []
    assert [played.sites[site].hospital.trained for site in left] == [[0, 1]] * 3
    assert sorted(first["missing"]) == ["site-2", "site-5"]
    assert (played.problems, played.record["outcome"]) == ([], "complete")
    assert len(set(played.models().values())) == 1


def test_fewer_than_three_stop_the_run(federation):
    played = federation("ring", names=SITES[:3]).run(meddle=silent("site-2", task="train", round_=1))
    assert len(played.record["rounds"]) == 1
    (reason,) = played.problems
    assert "2 sites" in reason
    assert "round 2" in reason
    assert "site-2: no answer in time" in reason
    assert played.record["outcome"] == "incomplete"
    assert "finish" not in played.tasks()
    assert not list(played.root.glob("*/*/wardround/final_model.npz"))


@pytest.mark.parametrize("mode", ["fixed", "he", "ring"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_with_nan_stays_at_the_site(federation, mode, value):
    def spoil(delta):
        first = next(iter(delta))
        delta[first].flat[3] = value
        return delta

    played = federation(mode)
    played.sites["site-2"].hospital.spoil = spoil
    played.run()
    assert played.problems == [
        "site-2 was lost in round 1: refused: TASK_RESULT_FILTER_ERROR (see that site's own log)"
    ]
    for entry in played.record["rounds"]:
        assert entry["aggregated"] == ["site-1", "site-3", "site-4"]
    assert [line["task"] for line in played.sites["site-2"].receipts if line["task"] == "train"] == []
    assert not list(played.sites["site-2"].root.rglob(CODED))


def altered(reply, **changed):
    """Return a reply with parts of its data exchanged."""
    dxo = from_shareable(reply)
    dxo.data |= changed
    return dxo.to_shareable()


def of(reply, key):
    return from_shareable(reply).data[key]


ALTERED = {
    "payload, truncated": lambda reply: altered(reply, payload=of(reply, "payload")[:-8]),
    "another kind": lambda reply: altered(reply, text=of(reply, "text").replace('"kind":"', '"kind":"un')),
    "an entry more": lambda reply: altered(reply, delta=[1, 2]),
    "no signature": lambda reply: altered(reply, signature=None),
}


@pytest.mark.parametrize("what", ALTERED)
@pytest.mark.parametrize(("mode", "task"), [("he", "train"), ("ring", "hop")])
def test_a_reply_that_was_altered_is_named_and_not_added(federation, without, caplog, mode, task, what):
    def meddle(asked, site, call, reply):
        return ALTERED[what](reply) if (asked, site, call.moment.round) == (task, "site-2", 0) else reply

    played = federation(mode).run(meddle=meddle)
    (problem,) = played.problems
    assert problem.startswith("site-2 was lost in round 1: rejected: r")
    assert f"REJECTED the answer of site-2 to task {task}" in caplog.text
    assert all(entry["aggregated"] == ["site-1", "site-3", "site-4"] for entry in played.record["rounds"])
    left = ("site-1", "site-3", "site-4")
    assert played.models(left) == dict.fromkeys(left, without("site-2"))


@pytest.mark.parametrize("task", ["join", "prepare", "unmask", "finish"])
@pytest.mark.parametrize("what", ["an entry more"])
def test_an_altered_statement_loses_its_site_only(federation, task, what):
    def meddle(asked, site, call, reply):
        return ALTERED[what](reply) if (asked, site) == (task, "site-2") else reply

    played = federation("ring").run(meddle=meddle)
    (problem,) = played.problems
    assert "site-2 was lost" in problem
    assert "rejected: r" in problem
    assert played.tasks()[-1] == "finish"
    assert set(played.record["final"]) == {"site-1", "site-3", "site-4"}


@pytest.mark.parametrize(("mode", "task"), [("he", "train"), ("ring", "hop")])
def test_a_reply_that_comes_twice_is_added_once(federation, without, caplog, mode, task):
    def meddle(asked, site, call, reply):
        return [reply, fobs.loads(fobs.dumps(reply))] if (asked, site) == (task, "site-2") else reply

    played = federation(mode).run(meddle=meddle)
    assert "a second update" in caplog.text or "a hop out of order" in caplog.text
    assert [problem.split()[0] for problem in played.problems] == ["site-2"]
    assert played.record["rounds"][0]["aggregated"] == list(SITES)
    left = ("site-1", "site-3", "site-4")
    assert played.models(left) == dict.fromkeys(left, without("site-2", round_=1))


def test_another_sum_key_is_refused_in_the_join(federation, caplog):
    played = federation("he")
    encryption_key.write_site(played.sites["site-2"].startup, encryption_key.new_seed())
    played.run()
    assert played.problems == ["site-2 was lost in the join: rejected: config (see that site's own log)"]
    assert f"startup/{encryption_key.SITE_FILE}" in caplog.text
    assert f"startup/{encryption_key.SERVER_FILE}" in caplog.text
    assert played.record["rounds"][0]["aggregated"] == ["site-1", "site-3", "site-4"]


def test_a_site_of_another_project_is_refused_in_the_join(federation, caplog, tmp_path):
    """Its certificate is signed by another root."""
    other, played = make_kits(tmp_path / "other", ["site-2"]), federation("masked")
    for file in ("client.crt", "client.key", "rootCA.pem"):
        shutil.copy(other / "site-2/startup" / file, played.sites["site-2"].startup / file)
    played.run()
    assert played.problems == ["site-2 was lost in the join: rejected: round (see that site's own log)"]
    assert "a certificate that this project's root did not issue" in caplog.text


@pytest.mark.parametrize("folder", ["startup", "local"])
@pytest.mark.parametrize("mode", ["fixed", "he"])
def test_a_secret_key_at_the_server_and_the_run_does_not_start(federation, mode, folder):
    played = federation(mode)
    encryption_key.write_site(played.server.root / folder, encryption_key.new_seed())
    played.run()
    (words,) = played.panics
    assert "the run cannot start" in words
    assert folder in words
    assert encryption_key.SITE_FILE in words
    assert played.asked == []


def provisioned(played, server=True):
    """Give the server its kit as provisioning does (outside the simulator nobody else will)."""
    startup = played.server.startup
    shutil.copy(played.sites["site-1"].startup / "rootCA.pem", startup / "rootCA.pem")
    if server:
        encryption_key.write_server(startup, encryption_key.read_site(played.sites["site-1"].startup))
    return played


def test_outside_the_simulator_only_provisioned_keys_count(federation):
    played = provisioned(federation("ring", job="a1b2c3")).run()
    assert played.problems == []
    assert len(set(played.models().values())) == 1
    assert played.record["simulator"] is False


@pytest.mark.parametrize("file", [encryption_key.SITE_FILE, "client.key", "client.crt", "rootCA.pem"])
def test_a_key_file_that_is_missing_at_a_site(federation, caplog, file):
    played = provisioned(federation("he", job="a1b2c3"))
    (played.sites["site-2"].startup / file).unlink()
    played.run()
    assert played.problems == ["site-2 was lost in the join: refused: config (see that site's own log)"]
    reason = (workspaces.private_folder(played.sites["site-2"].context()) / "refusals.txt").read_text()
    assert reason.startswith(
        f"REFUSED by site-2 (config): the {'key file' if file == encryption_key.SITE_FILE else 'startup kit:'}"
    )
    assert f"startup/{file}" in reason
    assert file not in caplog.text
    assert played.record["rounds"][1]["aggregated"] == ["site-1", "site-3", "site-4"]


@pytest.mark.parametrize(("file", "left"), [("rootCA.pem", True), (encryption_key.SERVER_FILE, False)])
def test_a_key_file_that_is_missing_at_the_server(federation, file, left):
    played = provisioned(federation("he", job="a1b2c3"), server=left)
    (played.server.startup / file).unlink(missing_ok=True)
    played.run()
    assert file in played.panics[0]
    assert played.asked == []


@pytest.mark.parametrize("liar", ["site-1", "site-4"])
@pytest.mark.parametrize("mode", ["ring"])
def test_a_site_with_another_global_model_is_lost_and_the_others_go_on(federation, without, mode, liar):
    """One weight of one site's model is changed in its memory. Whether it answers first or last is all the same."""
    played = federation(mode)

    def before(task, site, call):
        if (task, site, call.moment.round) == ("train", liar, 1):
            held = played.sites[site].held()
            next(iter(held.wire().values())).flat[0] += 1

    played.run(before=before)
    (problem,) = played.problems
    assert problem.startswith(f"{liar} was lost in round 2: it started from another model or grid than most")
    left = [site for site in SITES if site != liar]
    assert played.record["rounds"][1]["aggregated"] == left
    assert len(set(played.models(left).values())) == 1
    assert set(played.record["final"]) == set(left)


def test_a_site_whose_last_model_differs_is_named(federation):
    """One weight of one site's model is changed in its state folder, before the last sum is applied."""
    played = federation("he")

    def before(task, site, call):
        if (task, site) == ("finish", "site-2"):
            path = played.sites[site].folder / "global" / "round-00001.npz"
            arrays, meta = checkpoint.load(path)
            next(iter(arrays.values())).flat[0] += 1
            checkpoint.save(path, arrays, FINGERPRINT, meta)
            played.sites[site].restart()

    played.run(before=before)
    (problem,) = played.problems
    assert problem.startswith("site-2 was lost in the final evaluation: it holds another final model than most")
    assert played.record["model"]["sha256"] == digest(in_variable("model", played.sites["site-1"].model()))
    assert played.record["outcome"] == "incomplete"


def stopped(played, task, round_):
    """Run until the first site gets this task, then stop the server; the answer of that site is lost."""

    def meddle(asked, site, call, reply):
        if (asked, call.moment.round) == (task, round_):
            played.abort.trigger("stop")
            return None
        return reply

    played.run(meddle=meddle)
    assert played.record["outcome"] == "incomplete"
    played.asked.clear()
    played.begin()
    return played


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("mode", ["he", "ring"])
def test_a_run_that_was_stopped_goes_on_to_the_same_model(federation, without, mode, restart):
    """Stopped between rounds: a new server with its folder, new sites or the old ones."""
    first = "prepare" if MODES[mode]["masks"] else "train"
    played = stopped(federation(mode), first, 1)
    for site in played.sites.values() if restart else ():
        site.restart()
    played.run()
    assert played.problems == []
    assert {one.round for one in played.asked} == {-1, 1, 2}
    assert played.models() == dict.fromkeys(SITES, without())
    assert [entry["round"] for entry in played.record["rounds"]] == [0, 1]
    assert played.record["best"] == {"round": 2, "val_score": pytest.approx(0.3)}


@pytest.mark.parametrize(("mode", "task"), [("masked", "unmask"), ("ring", "hop")])
@pytest.mark.parametrize("round_", [1])
def test_a_run_that_was_stopped_within_a_round_trains_nothing_twice(federation, without, mode, task, round_):
    """The sites keep their integers; a sum that some of them opened already is opened for the same sites again."""
    played = stopped(federation(mode), task, round_)
    for site in played.sites.values():
        site.restart()
    played.run()
    assert played.problems == []
    assert played.models() == dict.fromkeys(SITES, without())
    assert [site.hospital.trained for site in played.sites.values()] == [[0, 1]] * len(SITES)


def test_a_stopped_run_cannot_go_on_as_another_job(federation):
    played = stopped(federation("he"), "train", 1)
    played.begin(about=ABOUT | {"lr": 1.0})
    played.run()
    assert "another job" in played.panics[0]


def test_a_run_that_ended_is_judged_again_and_nothing_else(federation):
    played = federation("masked").run()
    models = played.models()
    played.asked.clear()
    played.begin()
    played.run()
    assert played.tasks() == ["join", "finish"]
    assert played.models() == models


def leaves(value, path=()):
    """Yield (path, value) of everything in a message that is not a container."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part, path)
    else:
        yield path, value


def readable(played):
    """Return how many messages hold a piece of a site's plain integers: packed, as int8, int16, int32 or float32."""
    needles = []
    for site in played.sites.values():
        fields = site.secure._site.fields(1)
        words = played.promise.packing.pack(fields)
        forms = [words, *(fields.astype(kind) for kind in (np.int8, np.int16, np.int32, np.float32))]
        needles += [form[start : start + 16].tobytes() for form in forms for start in (0, len(form) // 2)]
    texts = [fobs.dumps(message) for _, _, message in played.messages]
    return sum(any(needle in text for needle in needles) for text in texts)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_readable_leaves(federation, mode):
    """No message of a secure sum holds an array, a number beside those that secagg_messages.py lists, or the plain integers."""
    played = federation(mode).run()
    numbers = set()
    for task, _, message in played.messages:
        dxo = from_shareable(message)
        for path, value in leaves({"data": dxo.data, "meta": dxo.meta}):
            assert isinstance(value, (str, bytes, bool, int, float, type(None))), (task, path)
            if isinstance(value, float):
                numbers.add(".".join(path))
    listed = {f"meta.numbers.{name}" for name in plaintext_messages.NUMBERS} | {"data.revealed.val_score"}
    # The time of a round grows with the number of patients, which goes only into the sum.
    listed -= {"meta.numbers.seconds"}
    assert listed <= numbers
    assert all(path in listed or path.startswith("meta.scores.") for path in numbers)
    assert (readable(played) > 0) == (mode == "fixed")


@pytest.mark.parametrize("mode", SECAGG)
def test_two_sites_with_the_same_update_send_different_bytes(federation, mode):
    played = federation(mode)
    for name in ("site-2", "site-3"):
        hospital = played.sites[name].hospital
        hospital.spoil = lambda delta: {block: np.full_like(values, 0.01) for block, values in delta.items()}
    played.run()
    task = "hop" if mode == "ring" else "train"
    sent = [
        from_shareable(message).data["payload"]
        for asked, who, message in played.messages
        if asked == task and who != "server"
    ]
    assert len(set(sent)) == len(sent) == 2 * len(SITES)


@pytest.mark.parametrize("mode", ["fixed", "ring"])
@pytest.mark.parametrize(
    ("weights", "told"), [("equal", True), ("patients_plaintext", True), ("patients_in_sum", False)]
)
def test_the_number_of_patients(federation, mode, weights, told):
    """patients_in_sum: no count of patients or scans in any message, in the report, nowhere at the server."""
    played = federation(mode, weights=weights).run()
    counts, seen = [], set()
    for _, who, message in played.messages:
        dxo = from_shareable(message)
        counts += [value for path, value in leaves(dxo.meta) if "cases" in path]
        if who != "server":
            seen |= {value for path, value in leaves(dxo.meta) if "modalities" in path}
    facts = played.record["sites"]["site-3"]
    if told:
        assert {patients(site) for site in SITES} <= set(counts)
        assert facts["cases"] == {"train": 5, "val": 1, "test": 2}
        assert seen == {0, 9}
    else:
        assert set(counts) == {None}
        assert facts["cases"] is None
        assert seen == {0, 1}
    said = played.record["final"]["site-3"]["candidates"]["fedavg"]
    assert ("cases" in said["gain"], "cases" in said["test"]["dice_mean"]) == (told, told)


def test_the_server_never_has_a_model(federation):
    played = federation("ring").run()
    assert not list(played.server.root.rglob("*.npz"))
    texts = [fobs.dumps(message) for _, _, message in played.messages]
    block = max(played.sites["site-1"].model().values(), key=np.size).tobytes()[:64]
    assert not any(block in text for text in texts)


def test_what_is_said_of_a_run(federation):
    """The report: bytes, the best round, receipts for everything that left."""
    played = federation("ring").run()
    first, second = played.record["rounds"]
    assert first["bytes_up"] > 4 * 32_000
    assert second["bytes_down"] > first["bytes_down"] > 3 * 32_000
    assert played.record["best"] == {"round": 2, "val_score": pytest.approx(0.3)}
    for site in played.sites.values():
        tasks = [line["task"] for line in site.receipts]
        assert tasks == ["join", *["prepare", "train", "hop", "unmask"] * 2, "finish"]
        assert {line["secagg"] for line in site.receipts} == {"ring"}


def test_an_aborted_run_is_incomplete(federation):
    played = federation("ring")
    stopped(played, "hop", 0)
    assert played.problems == ["the run was aborted in round 1"]
    assert played.record["rounds"] == []


def test_training_has_its_own_patience(federation):
    """round_timeout_s 0 means for ever, as in the jobs in plaintext."""
    played = federation("ring")
    played.begin(round_timeout_s=0, step_timeout_s=7)
    played.run()
    long = {one.task for one in played.asked if one.timeout == 0}
    assert long == {"train", "finish"}
    assert {one.timeout for one in played.asked if one.task not in long} == {7}


@pytest.mark.parametrize(
    "changed",
    [{name: None} for name in ("secagg", "model", "variables", "home_roles", "allowed_names", "compression")],
)
def test_a_promise_that_is_missing_is_refused(changed):
    """NVFlare turns an undefined variable of a config into None."""
    promise = {"secagg": secagg("he"), "model": SPEC, "variables": ["model"], "home_roles": [], "allowed_names": []}
    promise["compression"] = "none"
    SecAggJobServer(**promise)
    with pytest.raises(ConfigRefused):
        SecAggJobServer(**promise | changed)


@pytest.mark.parametrize(
    "changed", [{"num_rounds": None}, {"num_rounds": 0}, {"step_timeout_s": 0}, {"wait_time_after_min_received": None}]
)
def test_a_step_of_a_sum_is_not_waited_for_for_ever(changed):
    mode = SecAggJobServer(secagg("he"), SPEC, ["model"], [], [], "none")
    settings = {
        "mode": mode,
        "num_rounds": 2,
        "about": ABOUT,
        "round_timeout_s": 60,
        "step_timeout_s": 30,
        "wait_time_after_min_received": 60,
    }
    ServerController(**settings)
    with pytest.raises(ConfigRefused):
        ServerController(**settings | changed)
