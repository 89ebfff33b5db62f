from typing import Any

import pytest

from wardround.reports.background import costs, glossary, settings, slowest, what_left


def test_costs_are_summed(run: dict[str, Any]) -> None:
    found = costs(run)
    assert [row.partition("</th>")[0] for row in found.split('<th scope="row">')[1:]] == ["1", "2", "all"]
    assert '<th scope="row">all</th><td>25.0</td><td>2.0 MB</td><td>4.0 MB</td>' in found
    assert "<td>2</td><td>2</td><td>2</td><td>–</td><td>0.400</td>" in found


def test_repeated_attempts_are_counted(run: dict[str, Any]) -> None:
    run["rounds"][0].update(attempts=2, recovered=["site-2"])
    assert "<td>2</td><td>2</td><td>2</td><td>2</td>" in costs(run)


@pytest.mark.parametrize(
    ("masks", "encryption", "words"),
    [
        (None, None, "The server could read the change of each single hospital."),
        (False, False, "The server could read the change of each single hospital."),
        (True, False, "the server and the hospitals could read only the sum"),
        (False, True, "All hospitals hold the same key"),
        (True, True, "masked and encrypted"),
    ],
)
def test_who_could_read_a_change_is_said(
    run: dict[str, Any], masks: bool | None, encryption: bool | None, words: str
) -> None:
    run["settings"] |= {"protection.masks": masks, "protection.encryption": encryption}
    assert words in what_left(run)


def test_hidden_counts_are_not_claimed_to_have_left(run: dict[str, Any]) -> None:
    assert "patient counts per split" in what_left(run)
    run["settings"]["protection.weights"] = "patients_hidden"
    assert "patient counts per split" not in what_left(run)
    assert "only inside the sum" in what_left(run)
    assert "case counts" not in what_left(run)


def test_a_lost_site_shows_in_the_counts(run: dict[str, Any]) -> None:
    run["rounds"][0].update(trained=["site-1"], aggregated=[], bytes_up=None)
    assert "<td>–</td><td>2</td><td>1</td><td>0</td>" in costs(run)
    run["rounds"] = []
    assert "No round was finished" in costs(run)


def test_slowest_site_first(run: dict[str, Any]) -> None:
    run["rounds"][0]["sites"]["site-2"]["seconds"] = 100.0
    assert "slowest first: south (site-2) 1 min 43 s; north (site-1) 6.5 s." in slowest(run)
    for r in run["rounds"]:
        r["sites"] = None
    assert slowest(run) == ""


def test_what_left_names_the_size_and_the_danger(run: dict[str, Any]) -> None:
    assert "143,685 numbers" in what_left(run)
    assert "unless a privacy mechanism" in what_left(run)
    del run["model"]
    assert "numbers per model" not in what_left(run)


def test_settings_list_everything_given(run: dict[str, Any]) -> None:
    found = settings(run)
    for words in (
        "ab12cd34",
        "<dt>lr</dt><dd>0.05</dd>",
        "<dt>work</dt><dd>40</dd>",
        "round 2, mean validation Dice 0.400",
    ):
        assert words in found
    run.update(settings=None, model=None, best=None)
    assert "best global model" not in settings(run)


def test_glossary_explains_the_words_of_the_tables() -> None:
    for word in ("Dice", "HD95", "ET, TC, WT", "Fine-tuning", "95 % interval"):
        assert f"<dt>{word}</dt>" in glossary()
