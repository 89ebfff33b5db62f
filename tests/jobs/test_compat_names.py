"""Names of app_configs/jobs.yaml in a question to `jobs compat`."""

from __future__ import annotations

import re

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.core.traits import misfit
from wardround.jobs import compat, compat_names, fragments, recipes
from wardround.jobs.building import parts_of, require_buildable

ROWS = [(kind, name) for kind, names in recipes.choices().items() if kind != "schedule" for name in names]


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_choice_of_set_is_answered_as_a_job_with_it_is(kind: str, name: str) -> None:
    """The job is printed by the other way, `--job` and `--set`; it states min_clients, which no trait reads."""
    chosen = compat_names.asked([f"{kind}={name}"])
    wrong = misfit(parts_of(recipes.job("brats_fedavg", [f"{kind}={name}"])))
    found = compat_names.why_not(chosen)
    assert (found is None) == (wrong is None)
    if found is not None and wrong is not None:
        assert str(found.refusal()) == str(wrong.refusal())
    assert compat_names.words(chosen).startswith(f"{kind}={name} (")


@pytest.mark.parametrize("name", list(fragments.table()["algorithms"]))
def test_every_algorithm_is_known_by_its_name(name: str) -> None:
    assert fragments.table()["algorithms"][name]["title"].partition(" ")[0] in compat_names.words(
        compat_names.asked([name])
    )


def test_every_option_of_the_table_means_itself() -> None:
    for cell in compat.cells():
        chosen = compat_names.asked([name for axis, name in cell.items() if name != compat.default()[axis]])
        assert str(compat_names.why_not(chosen)) == str(compat.why_not(cell)), cell
        if cell["dp"] != "no_dp":
            break


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (["norms_at_home", "fedprox", "secagg_masks"], 0, "norm at home"),
        (["ditto", "median", "secagg_he"], 1, "since an encrypted sum"),
        (["mixed_krum", "top_k"], 1, "since top_k"),
        (["mrmtl", "krum"], 1, "since MR-MTL"),
        (["fedadam", "klmask"], 1, "since KL masks"),
        (["own_patients", "dp_adaptive"], 1, "a promise of differential privacy"),
        (["dp_patient", "klmask"], 1, "masks are chosen by training patients"),
        (["krum", "aggregation=krum"], 0, "goes together"),
    ],
)
def test_a_question_in_the_names_of_set_is_answered(
    names: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", "compat", *names]) == code
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["krum", "median"], "aggregation"),
        (["top_k", "dp_adaptive", "masked", "he"], "secagg"),
        (["ditto", "fedprox"], "algo"),
    ],
)
def test_two_options_of_a_kind_are_refused_and_none_is_dropped(names: list[str], found: str) -> None:
    with pytest.raises(ConfigRefused, match=found) as caught:
        compat_names.asked(names)
    again = caught.value.fix.split("`")[1].removeprefix("wardround jobs compat ").split()
    assert len(again) < len(names)


def test_a_name_that_is_none_is_answered_with_those_of_its_kind() -> None:
    with pytest.raises(ConfigRefused, match="did you mean norms_at_home") as caught:
        compat_names.asked(["sharing=norms_at_hoem"])
    assert "krum" not in caught.value.expected
    with pytest.raises(ConfigRefused, match="did you mean fedprox"):
        compat_names.asked(["fedporx"])


def test_the_advice_for_low_rank_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["jobs", "compat", "--job", "brats_fedavg", "--set", "compression=low_rank"]
    assert main(words) == 1
    ways = re.findall(r"--set (\S+?)[),;]", capsys.readouterr().out)
    assert ways == ["compression=none", "privacy=secagg_masks"]
    for way in ways:
        require_buildable(recipes.job("brats_fedavg", ["compression=low_rank", way]))
