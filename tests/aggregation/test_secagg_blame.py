"""One hospital that lies in a secure sum, in whole runs: it is out, the others go on, and nobody else can be pushed out."""

import hashlib
from dataclasses import replace

import pytest
from secagg_federation import FIVE, MASKED, MODES, SECAGG, Federation

from wardround.core.errors import Refusal
from wardround.messages import statements
from wardround.messages.secagg import Call
from wardround.messages.statements import Moment


def said_otherwise(played, site, reply, payload=None, kind=None, **changed):
    """Return a reply in which a site says something else, with its own good signature."""
    said = statements.peek(reply.statement)
    moment = Moment(said["run"], said["round"], said["attempt"])
    keys = statements.SHAPES[kind or said["kind"]]
    fields = {key: said[key] for key in keys if key in said} | changed
    lie = statements.sign(played.sites[site].identity, kind or said["kind"], moment, **fields)
    return replace(reply, statement=lie, payload=reply.payload if payload is None else payload)


def said_in(reply):
    return statements.peek(reply.statement)


def lying(played, liar, task, change, num_rounds=(0, 1)):
    """Let one site change its answers to a task. change(said, call) -> what it says instead, None: silence"""

    def meddle(asked, site, call, reply):
        if (asked, site) != (task, liar) or call.moment.round not in num_rounds:
            return reply
        changed = change(said_in(reply), call)
        return None if changed is None else said_otherwise(played, site, reply, **changed)

    return meddle


def require_alone(played, liar, reason):
    """The liar is lost in its first round, for the reason; all others are in every round and in the end."""
    (problem,) = played.problems
    assert problem.startswith(f"{liar} was lost in "), problem
    assert reason in problem
    others = [site for site in played.names if site != liar]
    assert [entry["aggregated"] for entry in played.num_rounds] == [others] * 2
    assert set(played.record["final"]) == set(others)
    assert len(set(played.models(others).values())) == 1


@pytest.mark.parametrize("victims", [("site-2",), ("site-1", "site-5"), ("site-1", "site-2", "site-4", "site-5")])
@pytest.mark.parametrize("mode", MASKED)
def test_shares_that_do_not_open_cost_their_sender_its_place_and_no_victim_its(federation, mode, victims):
    played = federation(mode, names=FIVE)

    def nonsense(said, call):
        return {"shares": said["shares"] | dict.fromkeys(victims, "00" * 192)}

    played.run(meddle=lying(played, "site-3", "prepare", nonsense))
    require_alone(played, "site-3", "a share that does not open")
    assert played.num_rounds[0]["attempts"] == 2
    assert [site.hospital.trained for name, site in played.sites.items() if name != "site-3"] == [[0, 1]] * 4


def test_a_share_that_opens_and_is_not_the_promised_one_is_its_senders_fault(federation):
    played = federation("masked", names=FIVE)

    def another(said, call):
        return {"digests": said["digests"] | {"site-2": "ab" * 64}}

    played.run(meddle=lying(played, "site-3", "prepare", another))
    require_alone(played, "site-3", "a share that does not open")


UNUSABLE = {
    "a zero mask key": lambda said, call: {"mask": "00" * 32},
    "a mask key of small order": lambda said, call: {"mask": "01" + "00" * 31},
    "a site left out": lambda said, call: {"shares": {k: v for k, v in said["shares"].items() if k != "site-2"}},
    "a digest left out": lambda said, call: {"digests": {k: v for k, v in said["digests"].items() if k != "site-2"}},
    "a site too many": lambda said, call: {"shares": said["shares"] | {"site-9": "00" * 192}},
    "other peers": lambda said, call: {"peers": "ab" * 32},
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_prepare_that_no_other_site_could_use_is_refused_at_the_server(federation, what):
    """It reaches no other hospital, so none has to refuse anything because of it."""
    played = federation("masked", names=FIVE)
    played.run(meddle=lying(played, "site-3", "prepare", UNUSABLE[what]))
    require_alone(played, "site-3", "rejected: round")


@pytest.mark.parametrize("mode", SECAGG)
def test_a_channel_key_that_no_other_site_could_use_is_refused_at_the_server(federation, mode):
    played = federation(mode, names=FIVE)
    played.run(meddle=lying(played, "site-3", "join", lambda said, call: {"channel": "00" * 32}, num_rounds=(-1,)))
    require_alone(played, "site-3", "rejected: round")


@pytest.mark.parametrize("mode", ["masked", "ring"])
def test_a_complaint_that_is_not_true_costs_who_made_it(federation, mode):
    """The accused site shows the one key that opens the share in question, and stays."""
    played = federation(mode, names=FIVE)

    def accuse(said, call):
        roster = statements.digest_of(call.prepares)
        return {"kind": "complain", "roster": roster, "against": ["site-1", "site-4"], "payload": b""}

    played.run(meddle=lying(played, "site-3", "train", accuse))
    require_alone(played, "site-3", "complains about a share")
    shown = [said_in(reply) for task, _, reply in played.messages if task == "unmask"]
    keys = [said["keys"] for said in shown if said["kind"] == "justify"]
    assert [list(one) for one in keys] == [["site-3"], ["site-3"]]


def test_an_accused_site_that_shows_nothing_is_not_in_the_round(federation):
    """It could not, or would not: the round is run again without it, and nobody else is blamed."""
    played = federation("masked", names=FIVE)
    nonsense = lying(
        played, "site-3", "prepare", lambda said, call: {"shares": dict.fromkeys(said["shares"], "00" * 192)}
    )

    def meddle(asked, site, call, reply):
        return None if asked == "unmask" and site == "site-3" else nonsense(asked, site, call, reply)

    played.run(meddle=meddle)
    others = [site for site in FIVE if site != "site-3"]
    assert [entry["aggregated"] for entry in played.num_rounds] == [others] * 2
    assert all(problem.startswith("site-3") for problem in played.problems)


@pytest.mark.parametrize("mode", MASKED)
def test_wrong_shares_in_the_opening_are_the_fault_of_who_hands_them_over(federation, mode):
    played = federation(mode, names=FIVE)
    wrong = lying(played, "site-3", "unmask", lambda said, call: {"shares": dict.fromkeys(said["shares"], "07" * 66)})
    played.run(meddle=wrong)
    (problem,) = played.problems
    assert problem.startswith("site-3 was lost in round 1")
    assert [entry["aggregated"] for entry in played.num_rounds] == [
        list(FIVE),
        [s for s in FIVE if s != "site-3"],
    ]


@pytest.mark.parametrize("mode", ["fixed", "masked", "he", "he with masks"])
@pytest.mark.parametrize("liar", ["site-1", "site-5"])
def test_a_payload_of_another_length_is_refused_even_if_it_comes_first(federation, mode, liar):
    played = federation(mode, names=FIVE)

    def meddle(asked, site, call, reply):
        if (asked, site) != ("train", liar):
            return reply
        lie = reply.payload * 2 if "he" in mode else bytes(8)
        return said_otherwise(played, site, reply, lie, sha256=hashlib.sha256(lie).hexdigest())

    played.run(meddle=meddle)
    require_alone(played, liar, "rejected: round")


@pytest.mark.parametrize("mode", ["fixed", "masked", "he", "ring"])
@pytest.mark.parametrize("what", ["model", "grid"])
def test_the_first_site_to_answer_does_not_decide_what_the_round_starts_from(federation, mode, what):
    played = federation(mode, names=FIVE)
    played.run(meddle=lying(played, "site-1", "train", lambda said, call: {what: "ab" * 32}))
    require_alone(played, "site-1", "another model or grid than most")


def test_a_site_of_another_job_is_lost_and_no_other(federation):
    played = federation("he", names=FIVE)
    played.run(meddle=lying(played, "site-1", "join", lambda said, call: {"job": "ab" * 32}, num_rounds=(-1,)))
    require_alone(played, "site-1", "another job, or other settings")


def of_another_job(played: Federation) -> Federation:
    """Return the federation with sites that know another id or other settings of their job."""
    for site in played.sites.values():
        site.job = "cd" * 32
        site.restart()
    return played


@pytest.mark.parametrize("mode", ["he", "masked"])
def test_two_jobs_that_a_server_gives_one_run_do_not_mix(federation, mode):
    """Everything that a site derives or signs belongs to the job that it knows: another id or settings, and they refuse."""
    one = federation(mode).run()
    assert one.problems == []
    calls = [(asked.task, asked.call) for asked in one.asked]
    joins = [{s["job"] for s in map(statements.peek, call.joins)} for _, call in calls if call.joins]
    joins += [
        {s["job"] for s in map(statements.peek, call.prepares)} for t, call in calls if t == "train" and mode == "he"
    ]
    assert joins
    assert all(len(jobs) == 1 for jobs in joins)
    task = "prepare" if mode == "masked" else "train"
    call = next(call for asked, call in calls if asked == task and call.moment.round == 0)
    site = of_another_job(federation(mode)).sites["site-1"]
    site.answer("join", Call(Moment(call.moment.run, -1, 0), 2))
    with pytest.raises(Refusal) as refused:
        site.answer(task, call)
    assert refused.value.code == "round"


@pytest.mark.parametrize("mode", MODES)
def test_all_sites_of_another_job_are_a_run_of_their_own(federation, mode):
    assert of_another_job(federation(mode)).run().problems == []
