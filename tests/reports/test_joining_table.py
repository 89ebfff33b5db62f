import copy
from typing import Any

import pytest

from wardround.reports.choice import RULES
from wardround.reports.html import PARTS, Cell
from wardround.reports.joining import joined
from wardround.reports.joining_table import joining_table, why_deployed
from wardround.reports.page import render
from wardround.reports.schema import build


def test_one_row_for_each_hospital(run: dict[str, Any]) -> None:
    table = joining_table(run, joined(run))
    assert table is not None
    first, second = table.rows
    assert first == [
        "north (site-1)",
        4,
        Cell("0.500", "[0.400, 0.600]"),
        "personalised",
        Cell("0.600", "[0.500, 0.700]"),
        Cell("0.100", "[0.080, 0.120]"),
    ]
    assert second[3:] == ["local", Cell("0.810", "[0.710, 0.910]"), "keeps its own"]


def test_a_model_that_is_not_usable_is_called_so(run: dict[str, Any]) -> None:
    run["final"]["site-2"]["usable"] = False
    table = joining_table(run, joined(run))
    assert table is not None
    assert list(table.rows[1][3:]) == ["local, not usable yet", Cell("0.810", "[0.710, 0.910]"), "–"]


def test_without_a_score_there_is_no_table(run: dict[str, Any]) -> None:
    run["final"] = {"site-1": {"candidates": {"local": {}, "fedavg": {}}, "deploy": "fedavg"}, "site-2": None}
    assert joining_table(run, joined(run)) is None
    assert why_deployed(run) == ["", ""]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_of_choice_has_its_words(run: dict[str, Any], rule: str) -> None:
    run["settings"]["model_selection.rule"] = rule
    found = joining_table(run, joined(run))
    assert found is not None
    assert "chooses the " in found.caption


def test_the_page_begins_with_the_sentence_then_why_then_the_table(run: dict[str, Any]) -> None:
    one, two = joined(run)
    why = why_deployed(run)[0]
    assert why.startswith("Deployed is the personalised model")
    page = render(build(copy.deepcopy(run)))
    texts = [
        str(PARTS.soft(words)).removeprefix('<p class="soft">').removesuffix("</p>") for words in (one.sentence, why)
    ]
    places = [page.index(words) for words in (*texts, two.sentence[:22], "<table")]
    assert places == sorted(places)
