import copy
from collections.abc import Callable
from typing import Any

import pytest

from wardround.messages.allowed_names import CANDIDATES
from wardround.reports.html import PARTS
from wardround.reports.joining import STAYS, UNKNOWN, joined
from wardround.reports.joining_figures import gain_picture, value_panels
from wardround.reports.schema import build
from wardround.reports.svg import Drawing
from wardround.reports.value import Point

Shown = Callable[[dict[str, Any], str], str]


def drawn(run: dict[str, Any]) -> str:
    found = gain_picture(joined(run), "Dice")
    assert isinstance(found, Drawing)
    return str(PARTS.drawing(found))


def gain(run: dict[str, Any], **changed: float | None) -> dict[str, Any]:
    """The run with another gain of site-1's chosen model."""
    run["final"]["site-1"]["candidates"]["personalised"]["gain"].update(changed)
    return run


def test_both_models_and_the_gain_of_a_hospital(run: dict[str, Any]) -> None:
    first, second = joined(run)
    assert (first.site, first.model, first.kind) == ("north (site-1)", "personalised", "helped")
    assert first.own is not None
    assert first.chosen is not None
    assert first.gain is not None
    assert (first.own["value"], first.chosen["value"], first.gain["value"]) == (0.50, 0.60, 0.10)
    assert first.sentence == (
        "Joining helped. On 4 patients that no model has seen, the personalised model agrees with the expert's drawing "
        "by 0.60 (Dice, 1 is identical), the model trained at this hospital alone by 0.50. The difference is larger than "
        "chance explains."
    )
    assert (second.model, second.gain) == ("local", None)
    assert second.sentence.startswith("Keep your own model")
    assert "by 0.81" in second.sentence


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"low": -0.02}, "Joining may have helped"),
        ({"low": None, "high": None}, "Joining may have helped"),
        ({"value": -0.01, "low": -0.03, "high": 0.01}, "Joining did not help"),
    ],
)
def test_a_sentence_never_says_more_than_the_interval(run: dict[str, Any], changed: dict[str, Any], words: str) -> None:
    assert joined(gain(run, **changed))[0].sentence.startswith(words)


def test_a_model_that_is_not_usable_is_not_praised(run: dict[str, Any]) -> None:
    run["final"]["site-1"]["usable"] = False
    assert joined(run)[0].sentence.startswith("No model is good enough to be used yet.")
    assert "personalised, not usable yet" in drawn(run)


def test_under_differential_privacy_the_comparison_stays(run: dict[str, Any], shown: Shown) -> None:
    run["settings"] |= {"dp.epsilon": 1.0, "dp.delta": 1e-5, "dp.mu": 0.3, "dp.unit": "patient"}
    for final in run["final"].values():
        del final["deploy"]
    assert {one.sentence for one in joined(run)} == {STAYS}
    assert "No gain was told" in shown(run, "joining")
    assert "Of 2 hospitals" not in shown(run, "joining")
    assert "No training loss leaves a hospital" in shown(run, "figures")
    assert "The shared model at north (site-1), on its 4 test patients; epsilon 1 per patient" in shown(
        run, "hospitals"
    )
    assert "<code>WORKSPACE/SITE/simulate_job/wardround/site_report.html</code>" in shown(run, "joining")


def test_numbers_that_were_not_told_are_not_made_up(run: dict[str, Any], shown: Shown) -> None:
    run["final"] = {"site-1": {"candidates": {"local": {}, "fedavg": {}}, "deploy": "fedavg"}, "site-2": None}
    assert {one.sentence for one in joined(run)} == {UNKNOWN}
    assert "No gain was told" in shown(run, "joining")


def test_nobody_gained_and_nothing_is_drawn(run: dict[str, Any], shown: Shown) -> None:
    run["final"]["site-1"] = copy.deepcopy(run["final"]["site-2"])
    assert "No hospital is advised to use a shared model" in shown(run, "joining")


def test_classes_are_told_as_shares(run: dict[str, Any]) -> None:
    run["settings"]["score"] = "balanced accuracy"
    for final in run["final"].values():
        for candidate in final["candidates"].values():
            candidate["test"] = {"balanced_accuracy": candidate["test"]["dice_mean"]}
    sentence = joined(run)[0].sentence
    assert "is right for 60% of them, with every class counting the same, the model" in sentence
    assert "alone for 50%." in sentence


def test_the_picture_has_a_filled_dot_only_above_zero(run: dict[str, Any]) -> None:
    """Gain 0.10 [0.08, 0.12]: the axis runs from -0.05 to 0.15, x = 190 to 470."""
    found = drawn(run)
    at = 190 + 0.15 / 0.20 * 280
    assert f'cx="{at:g}"' in found
    assert found.count('class="open deployed"') == 1
    assert "keeps its own model" in found
    assert 'aria-label="Gain in Dice over each hospital' in found
    assert 'class="open deployed"' not in drawn(gain(run, low=-0.02))


@pytest.mark.parametrize("model", [name for name in CANDIDATES if name != "local"])
def test_every_candidate_can_be_the_one_to_use(run: dict[str, Any], model: str) -> None:
    final = run["final"]["site-1"]
    final["candidates"] = {
        "local": final["candidates"]["local"],
        model: copy.deepcopy(final["candidates"]["personalised"]),
    }
    final["deploy"] = model
    report = build(run)
    assert joined(report)[0].model == model
    assert "Joining helped." in joined(report)[0].sentence


def test_one_panel_for_each_kind_of_data_and_a_line_for_each_number_of_hospitals() -> None:
    points = [
        Point(patients, hospitals, 0.1 / patients, 0.0, 0.2 / patients, 40, what)
        for what in ("hippocampus", "phantoms")
        for hospitals in (4, 8)
        for patients in (4, 8, 16)
    ]
    first, second = value_panels(points, {"site-1": 8, "site-2": 200})
    assert [one.caption for one in (first, second)] == ["hippocampus", "phantoms"]
    found = str(PARTS.drawing(first))
    assert found.count("<path") == 4  # two curves, two samples in the legend
    assert found.count("<circle") == 6
    assert found.count('class="here"') == 1  # 200 patients lie beyond the curve
    # 8 patients stand in the middle between 4 and 16: each step doubles.
    middle = (44 + 340 - 16) / 2
    assert f'x1="{middle:g}"' in found


def test_the_curve_or_no_section(run: dict[str, Any], shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.reports.page.read", lambda: ())
    assert not shown(run, "value").strip()
    points = (Point(4, 4, 0.06, 0.02, 0.1, 40, "phantoms"), Point(16, 4, 0.02, -0.01, 0.05, 40, "phantoms"))
    monkeypatch.setattr("wardround.reports.page.read", lambda: points)
    found = shown(run, "value")
    assert "<h2>When joining is worth it</h2>" in found
    assert "4 hospitals: 4 patients +0.060, 16 patients +0.020" in found
    assert "this run&#39;s hospitals (9, 9)" in found or "this run's hospitals (9, 9)" in found
