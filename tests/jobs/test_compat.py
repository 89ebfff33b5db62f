"""The compatibility table: what it says, that the page is its print-out, and that jobs are refused as it says."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from wardround.core.traits import require_fit
from wardround.errors import ConfigRefused
from wardround.jobs import compat, recipes
from wardround.jobs.building import parts_of, require_buildable
from wardround.jobs.cli import main

MASKS = {"same_masks": ["sharing=klmask", "sharing.choose=head"], "klmask": ["sharing=klmask"]}
SHARINGS = {"everything": [], "roles": ["sharing=norms_at_home"], **MASKS}


def oracle(cell: compat.Cell) -> bool:
    """What goes together, pair by pair, as somebody wrote it down who knows no traits."""
    secagg, dp, masks = cell["secagg"], cell["dp"], cell["sharing"] in MASKS
    hidden, chosen, beside = secagg != "plaintext", cell["sharing"] == "klmask", cell["beside"] == "beside"
    compressed, robust = cell["compression"] != "none", cell["aggregation"] != "mean"
    if hidden and (robust or compressed):
        return False  # rules and compressions read single updates
    if dp == "hospital" and secagg in ("plaintext", "weighted"):
        return False  # the number of patients would be told
    if dp != "no_dp" and beside:
        return False
    if dp == "patient" and chosen:
        return False  # masks read training patients
    if hidden and chosen and beside:
        return False  # the difference of two sums
    if masks and (compressed or cell["algorithm"] == "scaffold"):
        return False
    return not (robust and cell["compression"] == "top_k")


def test_every_cell_is_what_a_list_of_pairs_says():
    found = Counter((compat.why_not(cell) is None, oracle(cell)) for cell in compat.cells())
    assert set(found) == {(True, True), (False, False)}
    assert found[True, True] > 500


def test_the_conflicts_tell_every_refused_cell():
    """A cell is refused where its row is, or where one of the listed sets of options is in it."""
    closed = {row for row in compat.rows() if compat.row_misfit(row) is not None}
    for cell in compat.cells():
        told = (cell["secagg"], cell["dp"]) in closed or any(one.within(cell) for one in compat.conflicts())
        assert told == (compat.why_not(cell) is not None), cell


def test_the_page_is_what_the_command_prints(repository: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["jobs", "compat", "--markdown"]) == 0
    page = (repository / "docs" / "compatibility.md").read_text()
    assert page == capsys.readouterr().out, "print it again: wardround jobs compat --markdown > docs/compatibility.md"
    assert main(["jobs", "compat"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for axis in compat.options().values() for name in list(axis)[1:])


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (["masked", "klmask"], 0, "goes together"),
        (["krum", "top_k"], 1, "since top_k"),
        (["hospital"], 1, "without a number of patients"),
        (["masked", "median"], 1, "since a masked sum"),
    ],
)
def test_one_combination_is_answered_with_a_reason(names, code, words, capsys):
    assert main(["jobs", "compat", *names]) == code
    assert words in capsys.readouterr().out


def test_a_job_is_answered(capsys):
    assert main(["jobs", "compat", "--job", "brats_klmask"]) == 0
    assert main(["jobs", "compat", "--job", "brats_klmask", "--set", "privacy=masked"]) == 1
    assert "--set rival=false" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["krum", "--markdown"], ["--set", "rival=true"], ["kruum"]])
def test_a_question_that_is_none_is_refused(words, capsys):
    assert main(["jobs", "compat", *words]) == 2
    assert "to do:" in capsys.readouterr().err


@cache
def printed(name: str, *settings: str) -> recipes.Job:
    return recipes.job(name, settings)


def job_of(cell: compat.Cell) -> recipes.Job:
    """Return a job with the parts of a cell; a promise of privacy and a sum are put together by hand where no fragment does."""
    name = "brats_scaffold" if cell["algorithm"] == "scaffold" else "brats_fedavg"
    masked = {"plaintext": "in_the_clear", "fixed": "fixed_point", "he": "he", "ring": "ring"}
    privacy = f"privacy={masked.get(cell['secagg'], 'masked')}"
    made = printed(name, privacy, f"aggregation={cell['aggregation']}", *SHARINGS[cell["sharing"]])
    privacy = dict(made.privacy)
    if made.protection is not None:
        args = made.protection | {"weights": "equal"}
        args |= {"encryption": True} if cell["secagg"] == "he_masks" else {}
        args |= {"weights": "patients_hidden"} if cell["secagg"] == "weighted" else {}
        privacy["protection"] = made.privacy["protection"] | {"args": args}
    if cell["dp"] != "no_dp":
        source = "brats_dp_record" if cell["dp"] == "patient" else "brats_dp_adaptive"
        private = copy.deepcopy(printed(source).privacy)
        privacy |= {key: private[key] for key in ("mechanism", "dp", "scaling") if key in private}
    return replace(made, privacy=privacy, rival=cell["beside"] == "beside")


PRINTED = [
    cell
    for cell in compat.cells()
    if cell["aggregation"] == "mean"
    and cell["compression"] == "none"
    and cell["secagg"] in ("plaintext", "masked", "he")
]


def test_a_job_is_refused_for_the_reason_of_its_cell():
    for cell in PRINTED:
        wrong = compat.why_not(cell)
        if wrong is None:
            require_fit(parts_of(job_of(cell)))
            continue
        with pytest.raises(ConfigRefused) as caught:
            require_fit(parts_of(job_of(cell)))
        assert str(caught.value) == str(wrong.refusal()), cell


def test_a_job_that_does_not_fit_is_not_printed():
    """One for every smallest conflict: `require_buildable` is what every way to print or run a job asks."""
    for one in compat.conflicts():
        cell = compat.cell_of([*one.names, *one.rows[0]])
        if cell in PRINTED:
            with pytest.raises(ConfigRefused, match="wardround jobs compat"):
                require_buildable(job_of(cell))
