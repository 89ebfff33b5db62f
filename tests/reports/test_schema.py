import copy
import json
from typing import Any

import pytest

from wardround.core.errors import ConfigRefused
from wardround.reports.schema import VERSION, build, run_of, validate


def test_a_report_is_the_run_and_what_follows_from_it(run: dict[str, Any]) -> None:
    before = copy.deepcopy(run)
    report = build(run)
    assert run == before
    assert report["schema"] == VERSION
    assert {key: report[key] for key in run} == run
    assert report["verdicts"]["site-1"]["deploy"] == "personalised"
    assert report["verdicts"]["site-1"]["kind"] == "helped"
    assert report["verdicts"]["site-2"]["kind"] == "not_helped"
    assert report["verdicts"]["site-2"]["sentence"].startswith("south (site-2): Deploy your own local model")
    json.dumps(report, allow_nan=False)


def test_a_report_can_be_rebuilt_from_itself(run: dict[str, Any]) -> None:
    del run["final"]["site-2"]
    report = json.loads(json.dumps(build(run)))
    assert build(run_of(report)) == report


def test_nan_becomes_null(run: dict[str, Any]) -> None:
    run["rounds"][0]["sites"]["site-1"]["loss"] = float("nan")
    assert build(run)["rounds"][0]["sites"]["site-1"]["loss"] is None


@pytest.mark.parametrize("loss", ["final", "aggregated", "problem", "outcome"])
def test_a_run_that_lost_something_is_never_complete(run: dict[str, Any], loss: str) -> None:
    if loss == "final":
        del run["final"]["site-2"]
    elif loss == "aggregated":
        run["rounds"][1]["aggregated"] = ["site-1"]
    elif loss == "problem":
        run["problems"] = ["the disk is full"]
    else:
        run["outcome"] = "incomplete"
    report = build(run)
    assert report["outcome"] == "incomplete"
    assert len(report["problems"]) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("job",), None),
        (("patients",), ["Smith"]),
        (("outcome",), "success"),
        (("simulator",), 1),
        (("sites", "site-1", "cases", "train"), -1),
        (("sites", "site-1", "postcode"), "SE1"),
        (("final", "site-1", "deploy"), "fedprox"),
        (("final", "site-1", "candidates", "fedprox"), None),
        (("final", "site-1", "candidates", "local", "test", "dice_NCR"), None),
        (("final", "site-1", "candidates", "local", "test", "dice_mean"), 0.5),
        (("settings", "nested"), {"a": 1}),
        (("problems",), "one text"),
    ],
)
def test_what_is_refused(run: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    place = run
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigRefused):
        build(run)


def test_a_report_of_another_version_is_refused(run: dict[str, Any]) -> None:
    report = build(run)
    validate(report)
    with pytest.raises(ConfigRefused, match="schema"):
        validate({**report, "schema": VERSION + 1})
    with pytest.raises(ConfigRefused, match="missing"):
        validate(run)
