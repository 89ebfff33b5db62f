import math

import pytest

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.dp.accounting import epsilon
from wardround.dp.budget import EXAMPLE, Budget, Limit, bills, read_budget, require_within
from wardround.dp.releases import GaussianRelease, SampledGaussianRelease, UnknownRelease

PATIENT = Budget((Limit("patient", 8.0, 1e-5),))
TEN = GaussianRelease("patient", 3.0, 10)


def test_the_example_is_a_budget(tmp_path):
    (tmp_path / "b.json").write_text(EXAMPLE)
    assert read_budget(tmp_path / "b.json") == PATIENT


def test_a_missing_budget_is_refused_with_the_file_to_write(tmp_path):
    with pytest.raises(ConfigRefused) as refused:
        read_budget(tmp_path / "wardround_budget.json")
    assert refused.value.found == "no such file"
    assert str(tmp_path / "wardround_budget.json") in refused.value.fix
    assert EXAMPLE in refused.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "{",
        "null",
        "[" * 100_000,
        '{"patient": 8}',
        '{"patient": {"epsilon": 8}}',
        '{"patient": {"epsilon": 8, "delta": 1e-5, "note": ""}}',
        '{"voxel": {"epsilon": 8, "delta": 1e-5}}',
        '{"patient": {"epsilon": 8, "delta": 1e-5}, "patient": {"epsilon": 80, "delta": 1e-5}}',
        '{"patient": {"epsilon": 8, "epsilon": 9, "delta": 1e-5}}',
        '{"patient": {"epsilon": "8", "delta": 1e-5}}',
        '{"patient": {"epsilon": true, "delta": 1e-5}}',
        '{"patient": {"epsilon": 0, "delta": 1e-5}}',
        '{"patient": {"epsilon": NaN, "delta": 1e-5}}',
        '{"patient": {"epsilon": Infinity, "delta": 1e-5}}',
        '{"patient": {"epsilon": 8, "delta": 0}}',
        '{"patient": {"epsilon": 8, "delta": 0.05}}',
        '{"patient": {"epsilon": 8, "delta": NaN}}',
    ],
)
def test_a_budget_is_read_strictly(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(ConfigRefused, match=r"b\.json") as refused:
        read_budget(path)
    assert EXAMPLE in refused.value.fix


def test_a_budget_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigRefused):
        read_budget(tmp_path / "b.json")


def test_a_bill_has_the_three_figures():
    (bill,) = bills([TEN], [TEN], [TEN], PATIENT)
    counted = [epsilon([GaussianRelease("patient", 3.0, count)], "patient", 1e-5) for count in (10, 20, 30)]
    assert [bill.spent.epsilon, bill.reserved.epsilon, bill.planned.epsilon] == counted
    assert not bill.fits
    assert bills([TEN], [TEN], [], PATIENT)[0].fits


def test_over_budget_is_refused_with_the_figures():
    with pytest.raises(ReleaseRefused) as refused:
        require_within([TEN], [TEN], [TEN], PATIENT)
    assert refused.value.found == (
        "epsilon per patient at delta 1e-05: spent 4.653 (mu 1.054), with what is reserved 6.999 (mu 1.491), "
        "with this job 8.94 (mu 1.826)"
    )
    assert refused.value.expected == "at most 8 (mu 1.666), by wardround_budget.json"
    require_within([TEN], [], [TEN], PATIENT)


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (SampledGaussianRelease("image", 5.0, 0.01, 1), "releases per image promise nothing for a whole patient"),
        (UnknownRelease("a filter of somebody else"), "infinite because of a filter of somebody else"),
    ],
)
def test_what_promises_nothing_never_fits(release, words):
    for where in range(3):
        lists = [[], [], []]
        lists[where] = [release]
        with pytest.raises(ReleaseRefused) as refused:
            require_within(*lists, PATIENT)
        assert words in refused.value.found
        assert "inf" in refused.value.found


def test_a_hospital_level_release_is_paid_by_every_limit():
    budget = Budget((Limit("patient", 8.0, 1e-5), Limit("hospital", 0.5, 1e-5)))
    release = GaussianRelease("hospital", 3.0, 1)
    found = bills([], [], [release], budget)
    assert [bill.fits for bill in found] == [True, False]
    assert found[0].planned.mu == pytest.approx(2 * found[1].planned.mu)
    with pytest.raises(ReleaseRefused, match="per hospital"):
        require_within([], [], [release], budget)


def test_one_limit_for_a_unit_and_at_least_one():
    for limits in ((), (Limit("patient", 8.0, 1e-5), Limit("patient", 4.0, 1e-5))):
        with pytest.raises(ConfigRefused):
            Budget(limits)
    with pytest.raises(ConfigRefused):
        Limit("patient", math.inf, 1e-5)
