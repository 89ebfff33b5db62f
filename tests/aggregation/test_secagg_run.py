"""Whole runs of a secure sum: the model that comes out, who is missing or lost and why, and what is run again.

Each fault is one line: who is silent, away, started again, or says something else, and at which step.
"""

import numpy as np
import pytest
from secagg_federation import (
    FIVE,
    MODES,
    SITES,
    facts_of,
    first_model,
    flipped,
    patients,
    silent,
)

from wardround.aggregation.secagg_run import reached
from wardround.core.arrays import digest
from wardround.core.errors import RoundRefused
from wardround.messages import statements
from wardround.secagg.key_agreement import KeyAgreement


@pytest.fixture(scope="module")
def known():
    """Models that were computed in the open already."""
    return {}


@pytest.fixture
def without(federation, known):
    """without(*sites, round_=0) -> digest of the final model in the open when these sites say nothing from that round on"""

    def make(*names, round_=0):
        if (names, round_) not in known:
            played = federation("fixed")
            played.away = lambda site, call: site in names and call.moment.round >= round_
            known[names, round_] = played.run().models(["site-1"])["site-1"]
        return known[names, round_]

    return make


# --- nothing goes wrong


@pytest.mark.parametrize("weights", ["equal", "patients_plaintext", "patients_in_sum"])
def test_every_mode_ends_with_the_same_model(federation, weights):
    found = {}
    for mode in MODES:
        played = federation(mode, weights=weights).run()
        assert (played.finished, played.problems, played.rejected) == (True, [], [])
        assert len(set(played.models().values())) == 1
        found[mode] = (played.models()["site-1"], played.record["model"]["sha256"])
    assert len(set(found.values())) == 1, found
    assert len(set(found["he"])) == 1


@pytest.mark.parametrize("weights", ["equal", "patients_in_sum"])
def test_the_model_is_the_weighted_mean_within_the_published_error(federation, weights):
    """One round: |model - (first + mean)| < k step / sum of weights, block by block."""
    played = federation("ring", weights=weights)
    played.begin(num_rounds=1)
    played.run()
    first, promise = first_model(), played.promise
    share = {site: promise.weight(patients(site)) for site in SITES}
    wish = {name: np.zeros(block.shape) for name, block in first.items()}
    for site in SITES:
        for name, block in played.sites[site].hospital.update(first, 0).items():
            wish[name] += block * share[site] / sum(share.values())
    final, grid = played.sites["site-2"].weights, played.sites["site-2"].secure.grid(0)
    bound = grid.layout.unflatten((grid.error() * len(SITES) / sum(share.values())).astype(np.float32))
    for name, block in wish.items():
        moved = final[name] - first[name]
        assert np.all(np.abs(moved - block) < bound[name] + 1e-6), name
    assert max(np.abs(block).max() for block in wish.values()) > 0.01


def test_processes_that_are_restarted_for_every_task_change_nothing(federation, without):
    played = federation("ring")
    played.restarting = True
    assert played.run().models() == dict.fromkeys(SITES, without())
    assert played.problems == []


def test_the_steps_of_each_mode(federation):
    steps = {mode: federation(mode).run().tasks() for mode in MODES}
    masked = ["join", *["prepare", "train", "unmask"] * 2, "finish"]
    assert steps["fixed"] == steps["he"] == ["join", "train", "train", "finish"]
    assert steps["masked"] == steps["he with masks"] == masked
    assert steps["ring"] == ["join", *["prepare", "train", *["hop"] * 4, "unmask"] * 2, "finish"]


def test_how_long_each_step_is_waited_for_and_how_many_answers_start_the_grace(federation):
    """Training has its own patience. A hop and the judgement wait for all that are asked."""
    played = federation("ring", names=FIVE).run()
    assert {one.task for one in played.asked if one.ask.deadline == "training"} == {"train", "finish"}
    assert {one.ask.deadline for one in played.asked if one.task not in ("train", "finish")} == {"step"}
    needs = {one.task: one.ask.need for one in played.asked}
    assert needs == {"join": 3, "prepare": 4, "train": 4, "hop": None, "unmask": 4, "finish": None}


def test_what_is_said_of_a_run(federation):
    played = federation("ring").run()
    first, second = played.num_rounds
    hops = [len(reply.payload) for task, _, reply in played.messages if task == "hop"]
    (last,) = {len(call.revealed[0].payload) for call in (one.call for one in played.asked) if call.revealed}
    assert (first["bytes_up"], second["bytes_up"]) == (sum(hops[:4]), sum(hops[4:]))
    assert first["bytes_down"] == sum(hops[:3])
    # In the second round all four are handed the first one's sum, too.
    assert second["bytes_down"] == sum(hops[4:7]) + 4 * last
    assert played.server.best() == {"round": 2, "val_score": pytest.approx(0.3)}
    assert played.record["sites"]["site-3"]["cases"] == {"train": 5, "val": 1, "test": 2}
    assert set(played.record["final"]) == set(SITES)


@pytest.mark.parametrize("mode", ["he", "ring"])
def test_two_sites_with_the_same_update_send_different_bytes(federation, mode):
    played = federation(mode)
    for name in ("site-2", "site-3"):
        played.sites[name].hospital.spoil = lambda delta: {block: np.full_like(x, 0.01) for block, x in delta.items()}
    played.run()
    sent = [reply.payload for task, _, reply in played.messages if task == ("hop" if mode == "ring" else "train")]
    assert len(set(sent)) == len(sent) == 2 * len(SITES)


# --- a site is silent, or away, and comes back


@pytest.mark.parametrize("mode", MODES)
def test_a_site_that_missed_a_round_is_brought_to_the_same_model(federation, mode):
    """Missing in train, a site whose masks are in the others' updates is recovered; without masks nothing has to be. In the
    next round it takes part again, and its model is that of all others, bit for bit."""
    played = federation(mode).run(meddle=silent("site-2", task="train"))
    first, second = played.num_rounds
    left = ["site-1", "site-3", "site-4"]
    assert (first["aggregated"], second["aggregated"]) == (left, list(SITES))
    assert (first["recovered"], second["recovered"]) == (["site-2"] if played.promise.masks else [], [])
    assert (first["missing"], second["missing"]) == ({"site-2": "no answer in time"}, {})
    assert (first["attempts"], second["attempts"]) == (1, 1)
    assert (played.problems, played.finished) == ([], True)
    assert played.remarks == ["site-2 is not in round 1: no answer in time"]
    assert len(set(played.models().values())) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("away", [{0, 1}, {1, 2}, {0, 1, 2}])
def test_a_site_that_was_away_for_rounds_applies_their_sums(federation, mode, away):
    """It gets no call at all. The server keeps the sums that it lacks, and no others."""
    played = federation(mode)
    played.begin(num_rounds=4)
    played.away = lambda site, call: site == "site-2" and call.moment.round in away
    played.run()
    assert [("site-2" in entry["aggregated"]) for entry in played.num_rounds] == [n not in away for n in range(4)]
    assert (played.problems, played.finished) == ([], True)
    assert len(set(played.models().values())) == 1
    assert played.sites["site-2"].hospital.trained == [n for n in range(4) if n not in away]
    assert len(list((played.root / "server").glob("sum-*.bin"))) == 1


@pytest.mark.parametrize("mode", ["masked", "ring"])
def test_a_site_that_died_and_lost_its_secrets_joins_again(federation, mode):
    """It dies in round 1 and comes back without the channel key of this run: it is asked to join once more."""
    played = federation(mode)
    site = played.sites["site-2"]

    def meddle(asked, name, call, reply):
        if (asked, name, call.moment.round) != ("train", "site-2", 0):
            return reply
        (site.folder / "secrets.json").unlink()
        site.restart()
        played.attendance.came_back("site-2")
        return None

    played.run(meddle=meddle)
    assert [one.targets for one in played.asked if one.task == "join"] == [SITES, ("site-2",)]
    first, second = played.num_rounds
    assert (first["recovered"], second["aggregated"]) == (["site-2"], list(SITES))
    assert (played.problems, len(set(played.models().values()))) == ([], 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_site_that_never_joined_is_in_no_round_and_has_the_model_all_the_same(federation, mode):
    def meddle(asked, site, call, reply):
        return None if (asked, site) == ("join", "site-2") else reply

    played = federation(mode).run(meddle=meddle)
    assert [entry["aggregated"] for entry in played.num_rounds] == [["site-1", "site-3", "site-4"]] * 2
    assert played.problems == ["site-2 is in no round"]
    assert len(set(played.models().values())) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_site_that_misses_the_first_join_joins_in_the_first_round(federation, mode):
    joins = []

    def meddle(asked, site, call, reply):
        if (asked, site) == ("join", "site-2") and not joins:
            joins.append(site)
            return None
        return reply

    played = federation(mode).run(meddle=meddle)
    assert [one.targets for one in played.asked if one.task == "join"] == [SITES, ("site-2",)]
    assert [entry["aggregated"] for entry in played.num_rounds] == [list(SITES)] * 2
    assert played.problems == []


@pytest.mark.parametrize("mode", MODES)
def test_a_site_that_is_silent_in_the_judgement_makes_the_run_incomplete(federation, mode):
    played = federation(mode).run(meddle=silent("site-2", task="finish", round_=2))
    assert [entry["aggregated"] for entry in played.num_rounds] == [list(SITES)] * 2
    assert played.problems == ["site-2 was lost in the final evaluation: no answer in time (see that site's own log)"]
    assert not played.finished
    assert set(played.record["final"]) == {"site-1", "site-3", "site-4"}


@pytest.mark.parametrize(
    ("mode", "task", "trained", "aggregated", "recovered"),
    [
        ("masked", "prepare", 3, 3, []),
        ("ring", "prepare", 3, 3, []),
        ("ring", "hop", 4, 3, ["site-2"]),
        ("masked", "unmask", 4, 4, []),
        ("he with masks", "unmask", 4, 4, []),
        ("ring", "unmask", 4, 4, []),
    ],
)
def test_a_site_lost_in_the_middle_of_a_round(federation, mode, task, trained, aggregated, recovered):
    played = federation(mode).run(meddle=silent("site-2", task=task))
    first, second = played.num_rounds
    assert (len(first["trained"]), len(first["aggregated"]), first["recovered"]) == (trained, aggregated, recovered)
    assert first["attempts"] == second["attempts"] == 1
    assert second["aggregated"] == list(SITES)
    assert (played.problems, played.finished) == ([], True)
    assert len(set(played.models().values())) == 1


@pytest.mark.parametrize("mode", ["masked", "ring"])
def test_losses_are_the_same_to_the_model_in_every_mode(federation, mode):
    """Who is in which sum decides about the model, and nothing else does."""
    open_ = federation("fixed").run(meddle=silent("site-3", task="train"))
    played = federation(mode).run(meddle=silent("site-3", task="hop" if mode == "ring" else "train"))
    assert played.models() == open_.models()


@pytest.mark.parametrize(
    ("mode", "task"),
    [("masked", "prepare"), ("masked", "train"), ("he with masks", "train"), ("ring", "train"), ("ring", "hop")],
)
def test_too_many_missing_to_open_the_masks_and_the_round_is_run_again(federation, mode, task):
    """Five sites agreed that four open the sum; two go missing: the other three start afresh and train nothing twice."""
    played = federation(mode, names=FIVE).run(meddle=silent("site-2", "site-5", task=task))
    first, second = played.num_rounds
    left = ["site-1", "site-3", "site-4"]
    assert (first["attempts"], second["attempts"]) == (2, 1)
    assert (first["aggregated"], second["aggregated"]) == (left, list(FIVE))
    assert first["configured"] == list(FIVE)
    assert first["recovered"] == []
    assert [played.sites[site].hospital.trained for site in left] == [[0, 1]] * 3
    assert sorted(first["missing"]) == ["site-2", "site-5"]
    assert (played.problems, played.finished) == ([], True)
    assert len(set(played.models().values())) == 1


def test_a_sum_that_was_half_opened_stops_the_run_and_blames_no_honest_site(federation):
    """Three of five gave their shares for a sum of five, one too few: a sum of three would tell the other two's difference."""
    played = federation("masked", names=FIVE).run(meddle=silent("site-2", "site-5", task="unmask"))
    assert played.num_rounds == []
    assert {asked.call.moment.attempt for asked in played.asked} == {0}
    assert not played.finished
    (reason,) = played.record["problems"]
    assert reason.startswith("round 1 cannot be opened, nor run again")
    assert "3 of 4 answers" in reason


@pytest.mark.parametrize("mode", MODES)
def test_fewer_than_three_stop_the_run(federation, mode):
    played = federation(mode, names=SITES[:3]).run(meddle=silent("site-2", task="train", round_=1))
    assert len(played.num_rounds) == 1
    (reason,) = played.problems
    assert "2 sites" in reason
    assert "round 2" in reason
    assert "site-2: no answer in time" in reason
    assert not played.finished
    assert "finish" not in played.tasks()


@pytest.mark.parametrize(("mode", "names"), [("he", SITES[:2]), ("ring", SITES[:1])])
def test_two_configured_sites_are_refused_before_anybody_is_asked(federation, mode, names):
    played = federation(mode, names=names).run()
    assert played.asked == []
    assert played.problems == [f"the sites of this run ({len(names)} sites)"]
    assert played.num_rounds == []


def test_more_sites_than_the_fields_have_room_for_are_refused(federation):
    played = federation("masked", names=FIVE, sites=4).run()
    assert played.asked == []
    assert played.problems == ["the sites of this run (5 sites)"]


@pytest.mark.parametrize("mode", ["fixed", "he", "ring"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_with_nan_stays_at_the_site(federation, mode, value):
    def spoil(delta):
        next(iter(delta.values())).flat[3] = value
        return delta

    played = federation(mode)
    played.sites["site-2"].hospital.spoil = spoil
    played.run()
    assert played.problems == ["site-2 was lost in round 1: refused: release (see that site's own log)"]
    assert [entry["aggregated"] for entry in played.num_rounds] == [["site-1", "site-3", "site-4"]] * 2
    assert not list((played.root / "site-2").rglob("held-00000.npz"))


# --- a site, or somebody on the way, says something else


def statement(**changes):
    """Return a change of a reply's statement. changes: part -> its old value -> its new value"""

    def change(reply):
        old = reply.statement
        parts = {part: make(getattr(old, part)) for part, make in changes.items()}
        return type(reply)(statements.Signed(**vars(old) | parts), reply.payload, reply.meta)

    return change


def payload(make):
    return lambda reply: type(reply)(reply.statement, make(reply.payload), reply.meta)


ALTERED = {
    "payload, one bit": payload(flipped),
    "payload, truncated": payload(lambda data: data[:-8]),
    "payload, none": payload(lambda data: b""),
    "signature, one bit": statement(signature=flipped),
    "text, one letter": statement(text=lambda text: text.replace('"attempt":0', '"attempt":1')),
    "another kind": statement(text=lambda text: text.replace('"kind":"', '"kind":"un')),
    "no certificate": statement(certificate=lambda data: b""),
}


@pytest.mark.parametrize("what", ALTERED)
@pytest.mark.parametrize(("mode", "task"), [("masked", "train"), ("he", "train"), ("ring", "hop")])
def test_a_reply_that_was_altered_is_named_and_not_added(federation, without, mode, task, what):
    def meddle(asked, site, call, reply):
        return ALTERED[what](reply) if (asked, site, call.moment.round) == (task, "site-2", 0) else reply

    played = federation(mode).run(meddle=meddle)
    (problem,) = played.problems
    assert problem.startswith("site-2 was lost in round 1: rejected: r")
    assert all(entry["aggregated"] == ["site-1", "site-3", "site-4"] for entry in played.num_rounds)
    left = ("site-1", "site-3", "site-4")
    assert played.models(left) == dict.fromkeys(left, without("site-2"))


@pytest.mark.parametrize("task", ["join", "prepare", "unmask", "finish"])
@pytest.mark.parametrize("what", ["signature, one bit", "another kind", "no certificate"])
def test_an_altered_statement_loses_its_site_only(federation, task, what):
    def meddle(asked, site, call, reply):
        return ALTERED[what](reply) if (asked, site) == (task, "site-2") else reply

    played = federation("ring").run(meddle=meddle)
    (problem,) = played.problems
    assert "site-2 was lost" in problem
    assert "rejected: r" in problem
    assert played.tasks()[-1] == "finish"
    assert set(played.record["final"]) == {"site-1", "site-3", "site-4"}


@pytest.mark.parametrize("task", ["join", "prepare", "train", "hop", "unmask", "finish"])
def test_the_words_of_another_site_are_refused(federation, task):
    """The second site that answers says what the first has signed: true, and not its own."""
    said = []

    def meddle(asked, site, call, reply):
        if asked != task or call.moment.round == 1:
            return reply
        said.append((site, reply))
        return said[0][1] if len(said) == 2 else reply

    played = federation("ring").run(meddle=meddle)
    (truth, _), (liar, _), *_ = said
    (problem,) = played.problems
    assert problem.startswith(f"{liar} was lost in ")
    assert "rejected: round" in problem
    assert any(f"a statement of {truth}" in why for why in played.rejected)


@pytest.mark.parametrize(("mode", "task"), [("masked", "train"), ("he", "train"), ("ring", "hop"), ("ring", "prepare")])
def test_a_reply_of_an_earlier_round_is_refused(federation, mode, task):
    kept = {}

    def meddle(asked, site, call, reply):
        return kept.setdefault(task, reply) if (asked, site) == (task, "site-2") else reply

    played = federation(mode).run(meddle=meddle)
    assert played.problems == ["site-2 was lost in round 2: rejected: round (see that site's own log)"]
    assert "an old message was replayed" in played.rejected[0]
    first, second = played.num_rounds
    assert (len(first["aggregated"]), len(second["aggregated"])) == (4, 3)


def test_a_reply_of_an_earlier_attempt_is_refused(federation):
    kept = {}
    lose = silent("site-2", "site-5", task="train")

    def meddle(asked, site, call, reply):
        if (asked, site, call.moment.round) == ("train", "site-3", 0):
            return kept.setdefault(asked, reply)
        return lose(asked, site, call, reply)

    played = federation("masked", names=FIVE).run(meddle=meddle)
    assert "round 0, attempt 0" in played.rejected[0]
    assert played.problems[0].startswith("site-3 was lost")
    assert "2 sites" in played.problems[1]


@pytest.mark.parametrize(("mode", "task"), [("fixed", "train"), ("masked", "train"), ("he", "train"), ("ring", "hop")])
def test_a_reply_that_comes_twice_is_added_once(federation, without, mode, task):
    def meddle(asked, site, call, reply):
        return [reply, reply] if (asked, site) == (task, "site-2") else reply

    played = federation(mode).run(meddle=meddle)
    assert "a second update" in played.rejected[0] or "a hop out of order" in played.rejected[0]
    assert [problem.split()[0] for problem in played.problems] == ["site-2"]
    assert played.num_rounds[0]["aggregated"] == list(SITES)
    left = ("site-1", "site-3", "site-4")
    assert played.models(left) == dict.fromkeys(left, without("site-2", round_=1))


@pytest.mark.parametrize("mode", ["he", "ring"])
def test_another_sum_key_is_refused_in_the_join(federation, mode):
    played = federation(mode)
    played.sites["site-2"].key_id = "cd" * 16
    played.sites["site-2"].restart()
    played.run()
    assert played.problems == ["site-2 was lost in the join: rejected: config (see that site's own log)"]
    assert "startup/wardround_sum_key.key" in played.rejected[0]
    assert "startup/wardround_sum_public.json" in played.rejected[0]
    assert played.num_rounds[0]["aggregated"] == ["site-1", "site-3", "site-4"]


def test_a_site_of_another_project_is_refused_in_the_join(federation, other_project):
    """Its certificate is signed by another root."""
    played = federation("masked")
    played.sites["site-2"].identity = other_project("site-2")
    played.sites["site-2"].restart()
    played.run()
    assert played.problems == ["site-2 was lost in the join: rejected: round (see that site's own log)"]
    assert "a certificate that this project's root did not issue" in played.rejected[0]


def test_the_jobs_of_which_none_has_a_majority_stop_the_run_and_nobody_is_blamed(federation):
    played = federation("he")
    for name in ("site-1", "site-2"):
        played.sites[name].job = "cd" * 32
        played.sites[name].restart()
    played.run()
    (reason,) = played.problems
    assert "2 different ones, none at more than half of 4 sites" in reason
    assert played.attendance.out == {}
    assert played.tasks() == ["join"]


@pytest.mark.parametrize("liar", ["site-1", "site-4"])
@pytest.mark.parametrize("mode", MODES)
def test_a_site_with_another_global_model_is_lost_and_the_others_go_on(federation, mode, liar):
    """One weight of one site's model is changed in its memory. Whether it answers first or last is all the same."""
    played = federation(mode)

    def before(task, site, call):
        if (task, site, call.moment.round) == ("train", liar, 1):
            played.sites[site].weights["model:conv"].flat[0] += 1

    played.run(before=before)
    (problem,) = played.problems
    assert problem.startswith(f"{liar} was lost in round 2: it started from another model or grid than most")
    left = [site for site in SITES if site != liar]
    assert played.num_rounds[1]["aggregated"] == left
    assert len(set(played.models(left).values())) == 1
    assert set(played.record["final"]) == set(left)


def test_a_site_whose_last_model_differs_is_named(federation):
    """One weight of one site's model is changed in its state folder, before the last sum is applied."""
    played = federation("he")

    def before(task, site, call):
        if (task, site) == ("finish", "site-2"):
            played.sites[site].weights["model:conv"].flat[0] += 1
            played.sites[site].keep()
            played.sites[site].restart()

    played.run(before=before)
    (problem,) = played.problems
    assert problem.startswith("site-2 was lost in the final evaluation: it holds another final model than most")
    assert played.record["model"]["sha256"] == digest(played.sites["site-1"].weights)


def test_a_final_judgement_of_another_job_is_refused(federation):
    played = federation("fixed")

    def before(task, site, call):
        if (task, site) == ("finish", "site-2"):
            played.sites[site].job = "cd" * 32
            played.sites[site].restart()

    played.run(before=before)
    assert "the end of another job" in played.rejected[0]
    assert played.problems == ["site-2 was lost in the final evaluation: rejected: round (see that site's own log)"]


@pytest.mark.parametrize(("fact", "value"), [("fingerprint", "0" * 16), ("version", "0.0.9")])
def test_a_site_with_another_network_or_version_is_refused(federation, fact, value):
    played = federation("he")
    played.sites["site-2"].facts = facts_of("site-2") | {fact: value}
    played.run()
    code = "round" if fact == "fingerprint" else "config"
    assert played.problems == [f"site-2 was lost in round 1: rejected: {code} (see that site's own log)"]
    assert value in played.rejected[0]


@pytest.mark.parametrize("mode", ["masked", "ring"])
def test_shares_for_other_sites_are_refused(federation, mode, monkeypatch):
    """A site that leaves out a share would make the server fail for all."""
    made = KeyAgreement.unmask

    def unmask(self, moment, joins, prepares, survivors):
        signed = made(self, moment, joins, prepares, survivors)
        if self.name != "site-2" or moment.round:
            return signed
        said = dict(statements.peek(signed))
        shares = {site: text for site, text in said["shares"].items() if site != "site-1"}
        return statements.sign(
            self.identity, "unmask", moment, roster=said["roster"], survivors=said["survivors"], shares=shares
        )

    monkeypatch.setattr(KeyAgreement, "unmask", unmask)
    played = federation(mode).run()
    assert played.problems == ["site-2 was lost in round 1: rejected: round (see that site's own log)"]
    assert "shares for another sum" in played.rejected[0]
    assert len(played.num_rounds) == 2


# --- the server is stopped and started again


def stopped(played, task, round_):
    """Run until the first site gets this task, then stop the server; the answer of that site is lost."""

    def meddle(asked, site, call, reply):
        if (asked, call.moment.round) == (task, round_):
            played.stopping = True
            return None
        return reply

    played.run(meddle=meddle)
    assert not played.finished
    played.asked.clear()
    played.begin()
    return played


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_was_stopped_goes_on_to_the_same_model(federation, without, mode, restart):
    """Stopped between rounds: a new server with its folder, new sites or the old ones."""
    first = "prepare" if MODES[mode]["masks"] else "train"
    played = stopped(federation(mode), first, 1)
    assert played.server.done == 1
    for site in played.sites.values() if restart else ():
        site.restart()
    played.run()
    assert played.problems == []
    assert {one.round for one in played.asked} == {-1, 1, 2}
    assert {one.call.begun for one in played.asked if one.task == "join"} == {1}
    assert played.models() == dict.fromkeys(SITES, without())
    assert [entry["round"] for entry in played.num_rounds] == [0, 1]
    assert played.server.best() == {"round": 2, "val_score": pytest.approx(0.3)}


@pytest.mark.parametrize(("mode", "task"), [("masked", "unmask"), ("ring", "hop"), ("ring", "unmask")])
@pytest.mark.parametrize("round_", [0, 1])
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
    with pytest.raises(RoundRefused, match="another job"):
        played.begin(lr=1.0)


def test_a_run_that_was_stopped_within_a_hop_has_no_round(federation):
    played = stopped(federation("ring"), "hop", 0)
    assert (played.server.done, played.num_rounds, played.problems) == (0, [], [])


def test_a_run_that_ended_is_judged_again_and_nothing_else(federation):
    played = federation("masked").run()
    models = played.models()
    played.asked.clear()
    played.begin()
    played.run()
    assert played.tasks() == ["join", "finish"]
    assert played.models() == models


def test_a_site_has_the_model_that_the_last_round_it_trained_began_with():
    history = [{"round": 0, "trained": ["a", "b"]}, {"round": 1, "trained": ["a"]}]
    assert reached(history) == {"a": 1, "b": 0}
