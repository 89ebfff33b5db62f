import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from wardround.core.errors import ConfigRefused
from wardround.reports.page import render, write_report
from wardround.reports.schema import build, validate

VOID = {"meta", "img", "br"}
EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Checks that tags close in order and collects what a page may not have."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def with_hole(run: dict[str, Any], path: tuple[Any, ...], null: bool) -> dict[str, Any]:
    holed = copy.deepcopy(run)
    place = holed
    for key in path[:-1]:
        place = place[key]
    if null:
        place[path[-1]] = None
    else:
        del place[path[-1]]
    return holed


def test_both_files_are_written(run: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(run, tmp_path / "deep" / "out", [])
    assert page == tmp_path / "deep" / "out" / "report.html"
    report = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    validate(report)
    assert report == build(run)
    assert page.read_text(encoding="utf-8") == render(report)
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]


def test_sections_come_in_the_order_of_a_busy_reader(run: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(run, tmp_path, [tmp_path / "absent.png"]).read_text(encoding="utf-8")
    found = Reader(page)
    words = " ".join(found.words)
    headings = re.findall(r"<h[12]>([^<]*)</h[12]>", page)
    assert headings == [
        "brats_perfedavg",
        "What joining gave each hospital",
        "Hospitals",
        "Overview",
        "Figures",
        "Overlays",
        "Costs",
        "What left each hospital",
        "Settings",
        "Words",
    ]
    places = [page.index(words) for words in ("SYNTHETIC DATA", "<h2>What joining gave", "<table", "COMPLETE.")]
    assert places == sorted(places)
    assert "These pictures stay on this machine" in words


def test_what_went_wrong_stands_before_everything(run: dict[str, Any]) -> None:
    run["problems"] = ["site-2 was lost in round 1"]
    page = render(build(run))
    assert page.count("INCOMPLETE.") == 1
    assert page.index("INCOMPLETE.") < page.index("<h2>What joining gave")


def test_the_page_needs_nothing_and_is_accessible(run: dict[str, Any]) -> None:
    document = render(build(run))
    found = Reader(document)
    names = [name for name, _ in found.tags]
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(names)
    assert not re.search(r"https?://|url\(|@import|javascript:", document)
    assert not [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    assert all(a.get("scope") in ("col", "row") for name, a in found.tags if name == "th")
    assert all(a.get("aria-label") for name, a in found.tags if name == "svg")
    assert names.count("table") == names.count("caption")
    assert ("html", {"lang": "en"}) in found.tags
    assert "prefers-color-scheme:dark" in document
    assert "@media print" in document
    assert "default-src 'none'" in document


def test_texts_from_other_machines_are_never_markup(run: dict[str, Any], tmp_path: Path) -> None:
    run["sites"] = {
        EVIL: {**run["sites"]["site-1"], "label": EVIL, "device": EVIL, "label_kind": EVIL, "modalities": {EVIL: 1}}
    }
    run["final"] = {EVIL: run["final"]["site-1"], EVIL * 2: None}
    run.update(job=EVIL, algorithm=EVIL, version=EVIL, started=EVIL, problems=[EVIL], settings={EVIL: EVIL})
    run["model"] = {"name": EVIL, "fingerprint": EVIL}
    for r in run["rounds"]:
        r.update(configured=[EVIL], sites={EVIL: {"loss": 1.0, "val_score": 0.5, "seconds": 1.0}})
    document = write_report(run, tmp_path, [tmp_path / f"{EVIL.replace('/', '')}.png"]).read_text(encoding="utf-8")
    assert "<script" not in document
    assert "&lt;script&gt;" in document
    Reader(document)


def test_every_hole_is_either_refused_or_rendered(run: dict[str, Any]) -> None:
    """Each value of the run in turn becomes null or vanishes: a page, or a refusal that names the place."""
    rendered, refusals = 0, []
    for path in list(places(run)):
        for null in (True, False):
            try:
                report = build(with_hole(run, path, null))
            except ConfigRefused as refusal:
                refusals.append((path[-1], str(refusal)))
            else:
                rendered += 1
                Reader(render(report))
    assert rendered > 300
    assert len(refusals) < rendered / 4
    assert all(isinstance(key, int) or key in told for key, told in refusals)


@pytest.mark.parametrize("keep", ["sites", "rounds", "final", None])
def test_a_run_that_ended_at_once_is_rendered(run: dict[str, Any], keep: str | None) -> None:
    for key, nothing in (("sites", {}), ("rounds", []), ("final", {})):
        if key != keep:
            run[key] = nothing
    Reader(render(build(run)))
    bare = {
        key: run[key] for key in ("job", "simulator", "phantoms", "sites", "rounds", "final", "outcome", "problems")
    }
    Reader(render(build(bare)))


def test_64_hospitals_and_30_rounds_stay_below_a_megabyte(run: dict[str, Any]) -> None:
    site, final, numbers = run["sites"]["site-1"], run["final"]["site-1"], run["rounds"][0]["sites"]["site-1"]
    names = [f"site-{i}" for i in range(64)]
    run["sites"] = dict.fromkeys(names, site)
    run["final"] = dict.fromkeys(names, final)
    run["rounds"] = [
        {
            **run["rounds"][0],
            "round": r,
            "configured": names,
            "aggregated": names,
            "sites": dict.fromkeys(names, numbers),
        }
        for r in range(30)
    ]
    assert len(render(build(run)).encode()) < 1_000_000


def test_reports_are_light_to_import() -> None:
    code = (
        "import sys, wardround.reports.page, wardround.reports.site_page, wardround.reports.overlay\n"
        "import wardround.reports.intervals\n"
        "print([m for m in ('matplotlib', 'torch', 'nvflare', 'monai', 'nibabel', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
