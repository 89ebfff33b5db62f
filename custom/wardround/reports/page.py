"""report.json and report.html: one self-contained page for the physician first and the reviewer after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wardround.core.validate import Json
from wardround.reports import background, cards, figures
from wardround.reports.markup import Markup, bullets, join, page, save, say, tag
from wardround.reports.pictures import gallery
from wardround.reports.schema import build
from wardround.reports.summary import score_name, short_run, silent

REPORT = "report.html"
_STAY = "These pictures stay on this machine: they show patients and must not be passed on."
_STAY_PHANTOMS = "These pictures stay on this machine. They show phantoms; pictures of patients never leave a hospital."

_SILENT = (
    "Under hospital-level privacy no score leaves a hospital: a mean over its patients is a number from its patients. "
    "Each hospital's own report has its scores, and compares the model of this run with the one that it trained alone."
)


def write_report(run: Json, out_dir: Path, overlays: Sequence[Path] = ()) -> Path:
    """Write report.json and report.html into out_dir (made if absent) and return the path of report.html.

    Guarantees: no script, no external resource; every text escaped; both files replaced in one step.
    absent candidates, sites, rounds, regions, intervals: dashes | NaN or inf: null | unknown keys or wrong types:
    ConfigRefused
    """
    report = build(run)
    drawn = render(report, overlays)
    save(Path(out_dir) / "report.json", json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return save(Path(out_dir) / REPORT, drawn)


def write_plain_report(run: Json, out_dir: Path) -> Path:
    """Write a page without figures for a run whose report cannot be drawn: job, outcome, problems, who was in which round."""
    rounds = [f"round {one['round'] + 1}: {', '.join(one['aggregated'])}" for one in run["rounds"]]
    outcome = say("p", f"Outcome: {run['outcome']}. The numbers of this run are in run.json beside this page.")
    body = [say("h1", run["job"]), outcome, say("h2", "Problems"), bullets(run["problems"])]
    body += [say("h2", "Hospitals in each round"), bullets(rounds)]
    return save(Path(out_dir) / REPORT, page(f"{run['job']}: report", *body))


def render(report: Json, overlays: Sequence[Path] = ()) -> str:
    """Return the page of a validated report."""
    sections = [cards.title(report), cards.outcome(report)]
    short = [say("p", why, class_="soft")] if (why := short_run(report)) else []
    sections.append(_section("Hospitals", *short, cards.hospital_cards(report)))
    if silent(report):
        sections.append(_section("Results", say("p", _SILENT)))
    else:
        sections += [_section("Overview", cards.overview_table(report)), _section("Figures", *_figures(report))]
    if overlays:
        words = _STAY_PHANTOMS if report["phantoms"] else _STAY
        sections.append(_section("Overlays", say("p", words, class_="soft"), gallery(overlays)))
    sections += [
        *([_section("Who was missing", missing)] if (missing := background.attendance(report)) else []),
        _section("Costs", background.costs(report), background.slowest(report)),
        _section("What left each hospital", background.what_left(report)),
        _section("Settings", background.settings(report)),
        _section("Words", background.glossary()),
    ]
    foot = "Written by wardround. For research: no medical device; no verdict here replaces a local acceptance test."
    return page(f"{report['job']}: report", *sections, tag("footer", say("p", foot, class_="soft")))


def _figures(report: Json) -> list[Markup]:
    score = score_name(report)
    best = "; dotted line: the round of the best model" if (report.get("best") or {}).get("round") is not None else ""
    return [
        say("h4", f"Test {score} of every candidate"),
        figures.legend("Dot: mean over test patients; bar: 95 % interval; filled: the model to deploy."),
        figures.candidate_panels(report),
        say("h4", f"Validation {score} of the shared model, over rounds"),
        figures.legend(f"The model as each hospital received it in that round. Dashed: mean over hospitals{best}."),
        figures.curve_panels(report, "val_score", f"validation {score}"),
        say("h4", "Training loss, over rounds"),
        figures.legend("Mean over the hospital's local steps. Dashed: mean over hospitals."),
        figures.curve_panels(report, "loss", "training loss"),
    ]


def _section(heading: str, *body: Markup) -> Markup:
    return tag("section", say("h2", heading), join(body))
