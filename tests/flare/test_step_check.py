"""A revealed sum is checked at every site before it is applied: in a whole federation in one process."""

import numpy as np
import pytest
from nvflare_federation import SITES, Private, first_model, secagg_site
from outbounds import outbound

from wardround.aggregation.validation import StepCheck
from wardround.core.arrays import digest, norm, subtract
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.flare import orders, plaintext_messages, secagg_calls, strict_dxo
from wardround.flare.outbound import ID
from wardround.flare.site_parts import REASONS
from wardround.flare.workspaces import private_folder
from wardround.secagg.roster import joined

SCORES = StepCheck(margin=0.1, floor=0.5, max_norm=0.0)
LENGTH = StepCheck(margin=0.0, floor=0.5, max_norm=0.5)
HOSTILE = "site-4"
FIXED_GRID = {"weights": "equal"}


def moved(weights):
    return norm(subtract(weights, first_model()))


def judge(near):
    """Return a validation that is content with models within `near` of the first weights; it notes what it was asked."""
    asked = []

    def validate(weights, since):
        asked.append(since)
        return 0.8 if moved(weights) <= near else 0.1

    validate.asked = asked
    return validate


def checked(played, validation, near=10.0):
    """Let all sites check every step; what is longer than `near` ruins their scores."""
    for site in played.sites.values():
        site.validation = validation
        site.restart()
        site.hospital.validate = judge(near)
    return played


def reasons(site):
    path = private_folder(site.context()) / REASONS
    return path.read_text() if path.exists() else ""


def poisoned(delta):
    return {name: np.full_like(block, 5.0) for name, block in delta.items()}


def test_a_check_that_accepts_changes_nothing(federation):
    plain = federation("masked").run()
    both = StepCheck(margin=0.1, floor=0.5, max_norm=100.0)
    played = checked(federation("masked"), both).run()
    assert (played.record["outcome"], played.problems, played.panics) == ("complete", [], [])
    assert played.models() == plain.models()


def test_it_costs_one_evaluation_in_every_round(federation):
    """Two rounds and the judgement: three scores without a check, and one more for each of the two steps."""
    counts = []
    for validation in (None, SCORES):
        played = checked(federation("masked"), validation).run()
        assert played.problems == []
        counts.append(len(played.sites["site-1"].hospital.validate.asked))
    assert counts == [3, 5]


def test_both_scores_start_from_the_same_state_of_the_site(federation):
    """That after its own last round that counted: a site whose update is not in the sum starts from the one before."""

    def meddle(asked, site, call, reply):
        return None if (asked, site, call.moment.round) == ("train", "site-2", 0) else reply

    played = checked(federation("masked"), SCORES).run(meddle=meddle)
    assert (played.problems, len(set(played.models().values()))) == ([], 1)
    assert played.sites["site-1"].hospital.validate.asked == [0, 1, 1, 2, 2]
    assert played.sites["site-2"].hospital.validate.asked == [0, 0, 0, 2, 2]


@pytest.mark.parametrize("mode", ["masked", "ring"])
def test_a_poisoned_sum_is_refused_and_the_model_stays(federation, mode):
    played = checked(federation(mode), SCORES, near=5.0)
    played.sites[HOSTILE].hospital.spoil = poisoned
    played.sites[HOSTILE].hospital.validate = judge(float("inf"))
    played.run()
    assert played.record["outcome"] != "complete"
    for name in SITES[:3]:
        site = played.sites[name]
        assert f"{name} was lost in round 2: refused: round (see that site's own log)" in played.problems
        assert (site.held().round, digest(site.held().wire())) == (0, digest(first_model()))
        assert site.hospital.trained == [0]
        assert "a validation score of 0.1 with it and of 0.8 without it" in reasons(site)
    assert played.sites[HOSTILE].held().round == 1
    # The scores are in no message: the server reads one word.
    told = [
        plaintext_messages.refusal_code(reply)
        for task, name, reply in played.messages
        if name in SITES[:3] and not strict_dxo.is_reply(reply)
    ]
    assert told == ["round"] * 3


def test_a_refusal_is_for_good_also_after_a_restart(federation):
    """Asked once more, even with scores that would come out on the other side, the site does nothing."""
    played = checked(federation("masked"), SCORES, near=5.0)
    played.sites[HOSTILE].hospital.spoil = poisoned
    played.run()
    site = played.sites["site-1"]
    task, message = next(
        (task, message) for task, name, message in reversed(played.messages) if (task, name) == ("train", "server")
    )
    site.restart()
    site.hospital.validate = judge(float("inf"))
    assert plaintext_messages.refusal_code(site.answer(task, message)) == "round"
    assert site.held().round == 0
    assert "more of a job whose sum this site refused" in reasons(site)


def test_a_hospital_that_is_different_leaves_and_the_others_go_on(federation):
    played = checked(federation("masked"), SCORES)
    played.sites["site-2"].hospital.validate = judge(0.0)
    played.run()
    left = ["site-1", "site-3", "site-4"]
    assert played.problems == ["site-2 was lost in round 2: refused: round (see that site's own log)"]
    assert [one["aggregated"] for one in played.record["rounds"]] == [list(SITES), left]
    assert len(set(played.models(left).values())) == 1
    assert played.sites["site-2"].held().round == 0


def test_sites_shorten_their_updates_and_refuse_a_mean_of_one_that_does_not(federation, monkeypatch):
    short = checked(federation("masked", **FIXED_GRID), LENGTH)
    for site in short.sites.values():
        site.hospital.spoil = poisoned
    short.run()
    assert short.problems == []
    # All sites want the same direction: after two rounds the model is two lengths away, but for what coding added.
    assert moved({f"model:{name}": block for name, block in short.sites["site-1"].model().items()}) == pytest.approx(
        2 * LENGTH.max_norm, rel=0.3
    )

    long = checked(federation("masked", **FIXED_GRID), LENGTH)
    hostile = long.sites[HOSTILE]
    hostile.hospital.spoil = poisoned

    def before(task, site, call):
        if (task, site) == ("train", HOSTILE):
            hostile.executor.secagg_model._validation = None

    long.run(before=before)
    for name in SITES[:3]:
        assert long.sites[name].held().round == 0
        assert "a mean change with a norm of" in reasons(long.sites[name])
        assert long.sites[name].hospital.validate.asked == [0], (
            "the length is the same everywhere and is compared first"
        )


def test_sites_that_check_otherwise_are_in_no_sum_together(federation):
    played = checked(federation("masked"), SCORES)
    played.sites["site-2"].validation = None
    played.sites["site-2"].restart()
    played.run()
    assert len(played.problems) == 1
    assert "site-2 was lost in the join: it serves another job, or other settings of it" in played.problems[0]


def test_it_is_refused_where_the_server_applies_the_step(federation, caplog):
    site = federation("he").sites["site-1"]
    site.executor = secagg_site(server_optimizer=None, variables=None, validation=SCORES)
    site.engine.components[ID] = outbound()
    message = orders.order_message(orders.Order(first_model(), 0, 2))
    assert plaintext_messages.refusal_code(site.answer("train", message)) == "config"
    assert "validation, which only sites of a secure sum use" in caplog.text


@pytest.mark.parametrize("mode", ["masked", "he"])
def test_under_hospital_level_noise_no_task_is_done(federation, mode):
    promise = {
        "max_update_norm": 0.05,
        "noise_multiplier": 1.5,
        "sites": 16,
        "min_clients": 3,
        "colluders": 0,
        "bits": 16,
    }
    release = HospitalRelease(HospitalDP(**promise, distributed=mode == "masked"), 2, 1e-5, False)
    played = federation(mode, private=Private(release), bits=16, weights="equal")
    for validation in (SCORES, LENGTH):
        site = checked(played, validation).sites["site-1"]
        reply = site.answer("join", secagg_calls.call_message(secagg_calls.Call(joined("ab" * 16), 2, begun=1)))
        assert plaintext_messages.refusal_code(reply) == "config"
        assert "a refusal is a function of the site's patients, and no noise hides it" in reasons(site)


def test_settings_are_bound_to_the_check_and_without_one_they_are_as_before():
    promised = outbound()
    without, other = secagg_site(validation=None), secagg_site(validation=LENGTH)
    assert secagg_site().settings(promised) == without.settings(promised)
    assert len({one.settings(promised) for one in (without, other, secagg_site(validation=SCORES))}) == 3
