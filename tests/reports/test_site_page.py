from pathlib import Path
from typing import Any

import pytest

from wardround.core.errors import ConfigRefused
from wardround.reports.site_page import write_site_report

EVIL = "<script>alert(1)</script>"


def site_run(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": "j",
        "site": "site-1",
        "phantoms": False,
        "about": run["sites"]["site-1"],
        "final": run["final"]["site-1"],
    }


def test_patients_are_listed_and_the_page_says_that_it_stays(run: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"patient": "p1", "dice_mean": 0.75}, {"patient": "p2", "dice_mean": None, "hd95_mm_WT": float("nan")}]
    path = write_site_report(site_run(run), rows, [], tmp_path / "out")
    found = path.read_text(encoding="utf-8")
    assert path == tmp_path / "out" / "site_report.html"
    assert "STAYS AT THIS SITE" in found
    assert "SYNTHETIC" not in found
    assert '<th scope="row">p1</th><td>0.750</td><td>–</td>' in found
    assert '<th scope="row">p2</th><td>–</td><td>–</td>' in found
    assert '<th scope="col">hd95 mm WT</th>' in found
    assert "Deploy the personalised model" in found
    assert "Every model that was compared, on the 4 test patients of this hospital" in found
    assert found.index("Joining helped.") < found.index("Deploy the personalised model") < found.index("Deployed is")


def test_holes(tmp_path: Path) -> None:
    for about, final in ((None, None), ({}, {"candidates": None}), ({"label": "x"}, {"candidates": {"local": None}})):
        run = {"job": "j", "site": "s", "phantoms": True, "about": about, "final": final}
        found = write_site_report(run, [], [], tmp_path).read_text(encoding="utf-8")
        assert "No patient was scored" in found
        assert "No model can be recommended" in found
        assert "SYNTHETIC DATA" in found


def test_names_are_escaped(run: dict[str, Any], tmp_path: Path) -> None:
    evil = {**site_run(run), "job": EVIL, "site": EVIL, "finished": EVIL}
    found = write_site_report(evil, [{EVIL: EVIL}], [tmp_path / "x<script>.png"], tmp_path).read_text(encoding="utf-8")
    assert "<script" not in found


def test_unknown_keys_are_refused(run: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="patients"):
        write_site_report({**site_run(run), "patients": []}, [], [], tmp_path)


def test_the_page_says_which_file_to_use_how_and_what_the_words_mean(run: dict[str, Any], tmp_path: Path) -> None:
    given = site_run(run) | {"model_file": "/a b/deploy_model.npz", "summary": "On 4 cases ..."}
    found = write_site_report(given, [], [], tmp_path).read_text(encoding="utf-8")
    assert "wardround predict CASE_FOLDER --model &#39;/a b/deploy_model.npz&#39; --out mask.nii.gz" in found
    assert "On 4 cases ..." in found
    assert "<dt>HD95</dt>" in found
    given["final"]["usable"] = False
    low = write_site_report(given, [], [], tmp_path).read_text(encoding="utf-8")
    assert "No model here is usable yet" in low
    assert "wardround predict" not in low
    assert "It is not for use" in low
