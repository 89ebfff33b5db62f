"""Opacus' PRV accountant agrees with ours within its error; where it does not, the larger epsilon counts."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from wardround.dp import second_accountant
from wardround.dp.accounting import Claim, claim, epsilon_of
from wardround.dp.budget import Budget, Limit, bills
from wardround.dp.releases import GaussianRelease, Release, SampledGaussianRelease, UnknownRelease
from wardround.dp.second_accountant import ERROR, said, second_opinion, the_larger

DELTA = 1e-5
CASES: dict[str, list[Release]] = {
    "sampled": [SampledGaussianRelease("patient", 1.0, 0.05, 200)],
    "everybody in every step": [GaussianRelease("patient", 6.0, 10)],
    "both": [SampledGaussianRelease("patient", 3.0, 0.25, 30), GaussianRelease("patient", 20.0, 60)],
    "a hospital's release, for a patient": [GaussianRelease("hospital", 20.0, 30)],
}


@pytest.mark.parametrize("name", CASES)
def test_both_agree_within_its_error(name: str) -> None:
    ours = claim(CASES[name], "patient", DELTA)
    second = second_opinion(CASES[name], "patient", DELTA)
    assert second is not None
    assert ours.epsilon <= second * (1 + 1e-6) <= ours.epsilon + 3 * ERROR
    assert the_larger(ours, CASES[name]) == ours


def test_full_participation_is_the_closed_form() -> None:
    second = second_opinion([GaussianRelease("patient", 10.0, 25)], "patient", DELTA)
    assert second == pytest.approx(epsilon_of(0.5, DELTA) + ERROR, abs=ERROR)


@pytest.mark.parametrize(
    ("releases", "unit"),
    [
        ([], "patient"),
        ([GaussianRelease("hospital", 5.0, 3)], "hospital"),
        ([GaussianRelease("image", 5.0, 3)], "patient"),
        ([UnknownRelease("a filter of somebody else")], "patient"),
    ],
)
def test_no_answer(releases: list[Release], unit: str) -> None:
    assert second_opinion(releases, unit, DELTA) is None
    assert said(None, unit) == ""
    ours = claim(releases, unit, DELTA)
    assert the_larger(ours, releases) is ours


def stated(monkeypatch: pytest.MonkeyPatch, value: float | None) -> list[int]:
    """Let the second accountant state this epsilon; return how often it was asked."""
    asked: list[int] = []

    def opinion(releases: Iterable[Release], unit: str, delta: float) -> float | None:
        asked.append(len(list(releases)))
        return value

    monkeypatch.setattr(second_accountant, "second_opinion", opinion)
    return asked


@pytest.mark.parametrize(("above", "counts"), [(2.9 * ERROR, False), (3.1 * ERROR, True), (-1.0, False)])
def test_the_larger_counts_where_it_contradicts_ours(
    above: float, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = claim(CASES["everybody in every step"], "patient", DELTA)
    stated(monkeypatch, ours.epsilon + above)
    found = the_larger(ours, CASES["everybody in every step"])
    assert (found == ours) is not counts
    if counts:
        assert found.epsilon == ours.epsilon + above
        assert epsilon_of(found.mu, DELTA) == pytest.approx(found.epsilon)
        assert found.attack.accuracy > ours.attack.accuracy


def test_a_budget_is_decided_by_the_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = CASES["everybody in every step"]
    ours = claim(plan, "patient", DELTA)
    budget = Budget((Limit("patient", ours.epsilon + 0.05, DELTA),))
    stated(monkeypatch, ours.epsilon + 0.01)
    assert bills([], [], plan, budget)[0].fits
    stated(monkeypatch, ours.epsilon + 0.06)
    assert not bills([], [], plan, budget)[0].fits


def test_a_budget_that_ours_exceeds_is_refused_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = CASES["everybody in every step"]
    asked = stated(monkeypatch, 0.1)
    assert not bills([], [], plan, Budget((Limit("patient", 1.0, DELTA),)))[0].fits
    assert bills(plan, [], [], Budget((Limit("patient", 8.0, DELTA),)))[0].fits
    assert asked == []


def test_a_vacuous_claim_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stated(monkeypatch, 1e6)
    release: list[Release] = [GaussianRelease("patient", 0.05, 10)]
    ours: Claim = claim(release, "patient", DELTA)
    assert the_larger(ours, release) is ours
    assert asked == []


def test_arithmetic_that_fails_is_no_answer() -> None:
    assert second_opinion([GaussianRelease("patient", 5.0, 3)], "patient", 1e-300) is None


def test_the_line() -> None:
    assert said(8.0101, "patient") == (
        "a second accountant (Opacus PRV) says epsilon 8.01 per patient, an upper bound like ours"
    )
