import json
import os
import time

import pytest

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.dp import budget as budgets
from wardround.dp import ledger_file
from wardround.dp.accounting import epsilon
from wardround.dp.budget import Budget, Limit
from wardround.dp.ledger import Job, Ledger, require_affordable
from wardround.dp.releases import GaussianRelease, SampledGaussianRelease, UnknownRelease, repeated

BUDGET = Budget((Limit("patient", 8.0, 1e-5),))
PLAN = GaussianRelease("patient", 3.0, 10)  # epsilon 4.65; twice 7.00; three times 8.94
ONE = repeated(PLAN, 1)
FIRST, SECOND = Job("id-1", "brats", "0.1.0"), Job("id-2", "brats", "0.1.0")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "local")


def entries(ledger):
    return [(entry.job_id, entry.what) for entry in ledger.state().chain.entries]


def test_a_job_from_reservation_to_close(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    assert (ledger.state().spent, ledger.state().reserved) == ([], [PLAN])
    for done in range(1, 8):
        assert ledger.spend(FIRST, "update", ONE, BUDGET).n == done
        assert ledger.state().spent == [repeated(PLAN, done)]
        assert ledger.state().reserved == [repeated(PLAN, 10 - done)]
    ledger.close(FIRST.id)
    assert (ledger.state().spent, ledger.state().reserved) == ([repeated(PLAN, 7)], [])
    ledger.close(FIRST.id)
    assert entries(ledger) == [("id-1", "reserve"), *[("id-1", "spend")] * 7, ("id-1", "close")]


def test_budgets_are_over_all_jobs_and_outlive_them(ledger):
    for number in (1, 2):
        job = Job(f"id-{number}", "brats", "0.1.0")
        ledger.reserve(job, {"update": PLAN}, BUDGET)
        ledger.spend(job, "update", PLAN, BUDGET)
        ledger.close(job.id)
    before = (ledger.folder / ledger_file.FILE).read_bytes()
    with pytest.raises(ReleaseRefused, match=r"spent 6\.999 .* with this job 8\.94 "):
        Ledger(ledger.folder).reserve(Job("id-3", "brats", "0.1.0"), {"update": PLAN}, BUDGET)
    assert (ledger.folder / ledger_file.FILE).read_bytes() == before


def test_what_others_reserved_is_not_there_for_this_job(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    ledger.reserve(SECOND, {"update": PLAN}, BUDGET)
    with pytest.raises(ReleaseRefused, match=r"spent 0 \(mu 0\.000\), with what is reserved 6\.999"):
        ledger.reserve(Job("id-3", "brats", "0.1.0"), {"update": PLAN}, BUDGET)
    ledger.close(FIRST.id)
    ledger.reserve(Job("id-3", "brats", "0.1.0"), {"update": PLAN}, BUDGET)


def test_a_plan_of_several_releases_is_asked_for_as_a_whole(ledger):
    plan = {"update": PLAN, "energy": SampledGaussianRelease("patient", 1.0, 0.05, 200)}
    require_affordable(ledger, BUDGET, plan)
    ledger.reserve(FIRST, plan, BUDGET)
    assert ledger.state().reserved == list(plan.values())
    with pytest.raises(ReleaseRefused):
        ledger.reserve(SECOND, {**plan, "more": PLAN}, BUDGET)
    assert entries(ledger) == [("id-1", "reserve")] * 2


def test_a_restarted_job_finds_its_reservation_and_every_release_counts(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    for _ in range(6):
        ledger.spend(FIRST, "update", ONE, BUDGET)
    Ledger(ledger.folder).reserve(Job("id-1", "brats", "0.1.1"), {"update": PLAN}, BUDGET)
    assert ledger.state().reserved == [repeated(PLAN, 4)]
    for _ in range(10):
        ledger.spend(FIRST, "update", ONE, BUDGET)
    assert ledger.state().spent == [repeated(PLAN, 16)]
    assert ledger.state().reserved == []


def test_beyond_its_reservation_a_job_may_go_as_far_as_the_budget(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    ledger.reserve(SECOND, {"update": repeated(PLAN, 13)}, BUDGET)
    for _ in range(11):
        ledger.spend(FIRST, "update", ONE, BUDGET)
    assert epsilon([repeated(PLAN, 24)], "patient", 1e-5) < 8 < epsilon([repeated(PLAN, 25)], "patient", 1e-5)
    before = entries(ledger)
    with pytest.raises(ReleaseRefused, match="privacy budget"):
        ledger.spend(FIRST, "update", ONE, BUDGET)
    assert entries(ledger) == before
    ledger.spend(SECOND, "update", repeated(PLAN, 13), BUDGET)


def test_of_a_release_that_begins_inside_only_what_is_beyond_is_asked_for(ledger):
    ledger.reserve(FIRST, {"update": repeated(PLAN, 23)}, BUDGET)
    ledger.spend(FIRST, "update", repeated(PLAN, 20), BUDGET)
    with pytest.raises(ReleaseRefused):
        ledger.spend(FIRST, "update", repeated(PLAN, 5), BUDGET)
    ledger.spend(FIRST, "update", repeated(PLAN, 4), BUDGET)
    assert ledger.state().spent == [repeated(PLAN, 24)]


def test_another_release_than_the_reserved_one_is_not_covered_by_it(ledger):
    ledger.reserve(FIRST, {"update": repeated(PLAN, 20)}, BUDGET)
    for key, release in (("update", GaussianRelease("patient", 1.0, 1)), ("other", repeated(PLAN, 7))):
        with pytest.raises(ReleaseRefused, match="privacy budget"):
            ledger.spend(FIRST, key, release, BUDGET)
    ledger.spend(FIRST, "update", GaussianRelease("patient", 30.0, 1), BUDGET)
    assert ledger.state().reserved == [repeated(PLAN, 20)]


def test_a_release_without_a_reservation_must_fit_the_budget(ledger):
    ledger.spend(FIRST, "update", PLAN, BUDGET)
    with pytest.raises(ReleaseRefused):
        ledger.spend(SECOND, "update", repeated(PLAN, 20), BUDGET)
    with pytest.raises(ReleaseRefused, match="infinite because of something"):
        ledger.spend(SECOND, "update", UnknownRelease("something"), BUDGET)
    assert ledger.state().spent == [PLAN]


def test_after_close_a_release_is_asked_for_again(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    ledger.close(FIRST.id)
    ledger.reserve(SECOND, {"update": repeated(PLAN, 24)}, BUDGET)
    with pytest.raises(ReleaseRefused):
        ledger.spend(FIRST, "update", repeated(PLAN, 2), BUDGET)
    with pytest.raises(ReleaseRefused):
        ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    ledger.close(SECOND.id)
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    assert ledger.state().reserved == [PLAN]


def test_a_lower_budget_stops_a_job_at_its_restart(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    with pytest.raises(ReleaseRefused):
        ledger.reserve(FIRST, {"update": PLAN}, Budget((Limit("patient", 4.0, 1e-5),)))


def test_another_plan_or_name_under_the_same_id_is_refused(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    with pytest.raises(ConfigRefused, match="another plan"):
        ledger.reserve(FIRST, {"update": repeated(PLAN, 11)}, BUDGET)
    with pytest.raises(ConfigRefused, match="a new one"):
        ledger.reserve(Job("id-1", "lgg", "0.1.0"), {"update": PLAN}, BUDGET)
    with pytest.raises(ConfigRefused, match="empty plan"):
        ledger.reserve(SECOND, {}, BUDGET)
    assert entries(ledger) == [("id-1", "reserve")]


def test_a_job_has_an_id_a_name_and_a_version():
    with pytest.raises(ConfigRefused):
        Job("", "brats", "0.1.0")


def test_closing_a_job_that_nobody_knows_is_refused(ledger):
    with pytest.raises(ReleaseRefused, match="no job 'id-9'"):
        ledger.close("id-9")


def test_asking_writes_nothing(ledger):
    require_affordable(ledger, BUDGET, {"update": PLAN})
    assert [bill.fits for bill in ledger.bills({"update": PLAN}, BUDGET)] == [True]
    with pytest.raises(ReleaseRefused, match=r"spent 0 .* with this job"):
        require_affordable(ledger, BUDGET, {"update": repeated(PLAN, 30)})
    assert not ledger.folder.exists()


def test_an_unknown_line_makes_every_later_job_too_expensive(ledger):
    ledger.spend(FIRST, "update", ONE, BUDGET)
    chain = ledger_file.read(ledger.folder)
    content = json.loads(chain.lines[0]) | {"release": {"kind": "skellam", "mu": 1}}
    line = ledger_file._canonical(content) + b"\n"
    (ledger.folder / ledger_file.FILE).write_bytes(line)
    ledger_file._write_head(ledger.folder, (line,), "")
    with pytest.raises(ReleaseRefused, match="no kind of release that this version knows"):
        ledger.reserve(SECOND, {"update": ONE}, BUDGET)


def test_an_announced_reservation_and_spend_count(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
    ledger.spend(FIRST, "update", repeated(PLAN, 3), BUDGET)
    chain = ledger_file.read(ledger.folder)
    for left in (1, 0):
        (ledger.folder / ledger_file.FILE).write_bytes(b"".join(chain.lines[:left]))
        ledger_file._write_head(ledger.folder, chain.lines[:left], chain.lines[left].decode())
        state = ledger.state()
        assert state.chain.pending
        assert state.spent == ([repeated(PLAN, 3)] if left else [])
        assert state.reserved == [repeated(PLAN, 7 if left else 10)]


def forked(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def test_two_jobs_at_once_cannot_both_have_the_last_of_the_budget(ledger, monkeypatch):
    """Every process asks slowly, while it holds the lock: without the lock all four would find room."""
    real = budgets.claim

    def slow(*args):
        time.sleep(0.03)
        return real(*args)

    monkeypatch.setattr(budgets, "claim", slow)

    def work(number):
        try:
            ledger.reserve(Job(f"id-{number}", "brats", "0.1.0"), {"update": PLAN}, BUDGET)
        except ReleaseRefused as refusal:
            return 7 if "with this job 8.94" in refusal.found else 8
        return 0

    children = [forked(lambda number=number: work(number)) for number in range(4)]
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == [0, 0, 7, 7]
    assert ledger.state().reserved == [repeated(PLAN, 20)]


def test_two_processes_of_one_job_reserve_once_and_each_release_counts(ledger):
    def work():
        ledger.reserve(FIRST, {"update": PLAN}, BUDGET)
        for _ in range(5):
            ledger.spend(FIRST, "update", ONE, BUDGET)
        return 0

    children = [forked(work) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert sorted(entries(ledger)) == [("id-1", "reserve"), *[("id-1", "spend")] * 10]
    assert (ledger.state().spent, ledger.state().reserved) == ([PLAN], [])


def test_within_the_reservation_nothing_is_computed(ledger, monkeypatch):
    """The accountant of sampled releases takes a part of a second; not in every round."""
    plan = SampledGaussianRelease("patient", 1.0, 0.05, 200)
    ledger.reserve(FIRST, {"update": plan}, BUDGET)
    monkeypatch.setattr(budgets, "claim", None)
    for _ in range(4):
        ledger.spend(FIRST, "update", repeated(plan, 50), BUDGET)
    with pytest.raises(TypeError):
        ledger.spend(FIRST, "update", repeated(plan, 50), BUDGET)
    assert ledger.state().spent == [plan]


def test_time_that_went_back_is_told(ledger, monkeypatch):
    ledger.spend(FIRST, "update", ONE, BUDGET)
    assert ledger.state().clock_back == []

    class Earlier(ledger_file.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat("2001-01-01T00:00:00+00:00")

    monkeypatch.setattr(ledger_file, "datetime", Earlier)
    ledger.spend(FIRST, "update", ONE, BUDGET)
    assert ledger.state().clock_back == [2]


def again(number, continues="id-1", name="brats"):
    return Job(f"id-{number}", name, "0.1.0", continues)


def test_a_job_that_continues_another_takes_over_what_is_left(ledger):
    """Broken off after 4 of 10 releases, gone on with twice: ten releases in all, charged once, by whoever made them."""
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET, "settings")
    ledger.spend(FIRST, "update", repeated(PLAN, 4), BUDGET)
    for number, done in ((2, 3), (3, 3)):
        ledger.reserve(again(number), {"update": PLAN}, BUDGET, "settings")
        assert {one.count for one in (*ledger.state().spent, *ledger.state().reserved)} == {
            4 if number == 2 else 7,
            6 if number == 2 else 3,
        }
        ledger.spend(again(number), "update", repeated(PLAN, done), BUDGET)
    state = ledger.state()
    assert (state.spent, state.reserved) == ([PLAN], [])
    assert [state.accounts[f"id-{n}"].job.continues for n in (1, 2, 3)] == ["", "id-1", "id-1"]
    assert [sum(one.count for one in state.accounts[f"id-{n}"].spent["update"]) for n in (1, 2, 3)] == [4, 3, 3]


def test_a_reservation_is_of_one_job_at_a_time(ledger):
    """The one that was broken off holds nothing any more; what it releases all the same must fit the budget."""
    tight = Budget((Limit("patient", 4.7, 1e-5),))
    ledger.reserve(FIRST, {"update": PLAN}, tight, "settings")
    ledger.reserve(again(2), {"update": PLAN}, tight, "settings")
    assert ledger.state().accounts["id-1"].reserved == {}
    with pytest.raises(ReleaseRefused, match="budget"):
        ledger.spend(FIRST, "update", ONE, tight)
    ledger.spend(again(2), "update", PLAN, tight)
    with pytest.raises(ReleaseRefused, match="budget"):
        ledger.spend(again(2), "update", ONE, tight)


@pytest.mark.parametrize(
    ("job", "plan", "settings"),
    [
        (again(2), PLAN, "other settings"),
        (again(2), PLAN, ""),
        (again(2), repeated(PLAN, 9), "settings"),
        (again(2, name="another"), PLAN, "settings"),
        (FIRST, PLAN, "other settings"),
    ],
)
def test_a_reservation_is_of_one_digest_of_settings(ledger, job, plan, settings):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET, "settings")
    with pytest.raises(ConfigRefused, match="another plan or settings"):
        ledger.reserve(job, {"update": plan}, BUDGET, settings)
    assert entries(ledger) == [("id-1", "reserve")]


def test_a_stranger_that_continues_nobody_takes_nothing_over(ledger):
    ledger.reserve(FIRST, {"update": PLAN}, BUDGET, "settings")
    ledger.reserve(again(2, "id-9"), {"update": PLAN}, BUDGET, "settings")
    assert ledger.state().reserved == [repeated(PLAN, 20)]


@pytest.mark.parametrize("name", [ledger_file.FILE, ledger_file.HEAD])
def test_a_folder_in_the_place_of_the_ledger_is_refused(ledger, name):
    (ledger.folder / name).mkdir(parents=True)
    if name == ledger_file.HEAD:
        (ledger.folder / ledger_file.FILE).write_text("x\n")
    for act in (
        ledger.state,
        lambda: ledger.reserve(FIRST, {"update": PLAN}, BUDGET),
        lambda: ledger.spend(FIRST, "update", ONE, BUDGET),
        lambda: ledger.close("id-1"),
    ):
        with pytest.raises(ReleaseRefused, match="the ledger"):
            act()


@pytest.mark.parametrize("delta", [1e-8, 9.9e-8, 1e-9])
def test_a_budget_below_what_the_sampler_can_keep_is_refused(delta):
    with pytest.raises(ConfigRefused, match=r"1e-07 to 0\.001"):
        Limit("patient", 8.0, delta)
    assert Limit("patient", 8.0, 1e-7).delta == 1e-7
