"""report.json and report.html: one self-contained page, for the physician first and for
the reviewer after.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wardround.core import files
from wardround.core.validate import Json
from wardround.reports import background, cards, figures
from wardround.reports.glossary import with_glossary
from wardround.reports.html import html
from wardround.reports.joining import joined
from wardround.reports.joining_figures import gain_picture, told_sizes, value_panels
from wardround.reports.joining_table import joining_table, why_deployed
from wardround.reports.pictures import gallery
from wardround.reports.schema import build
from wardround.reports.summary import own_pages, privacy_claim, score_name, short_run, silent
from wardround.reports.value import Point, read

REPORT = "report.html"


def write_report(run: Json, out_dir: Path, overlays: Sequence[Path] = ()) -> Path:
    """Write report.json and report.html into out_dir, which is made if absent, and
    return the path of report.html.

    Guarantees: the page has no script and no external resource; every text is escaped;
      both files are replaced in one step.

    Absent candidates, sites, rounds, regions and intervals are shown as dashes; NaN and
    inf are written as null. Unknown keys and wrong types are refused with
    ConfigRefused.
    """
    report = build(run)
    drawn = render(report, overlays)
    files.write(
        Path(out_dir) / "report.json",
        json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
    )
    return files.write(Path(out_dir) / REPORT, drawn)


def write_plain_report(run: Json, out_dir: Path) -> Path:
    """Write a page without figures for a run whose report cannot be drawn: the job, its
    outcome, its problems, and who was in which round.
    """
    rounds = [f"round {one['round'] + 1}: {', '.join(one['aggregated'])}" for one in run["rounds"]]
    return files.write(
        Path(out_dir) / REPORT,
        html("plain_report.html", {"run": run, "rounds": rounds}),
    )


def render(report: Json, overlays: Sequence[Path] = ()) -> str:
    """Return the page of a validated report."""
    return with_glossary("report.html", values(report, overlays))


def values(
    report: Json,
    overlays: Sequence[Path] = (),
    points: Sequence[Point] | None = None,
) -> dict[str, Any]:
    """Return what templates/report.html shows, by the names that it uses.

    points: What joining is worth elsewhere; None for what comes with the package.
    """
    points = read() if points is None else points
    score = score_name(report)
    gave, sizes = joined(report), told_sizes(report)
    return {
        "report": report,
        "when": cards.when(report),
        "remarks": report.get("remarks"),
        "tally": cards.tally(report),
        "claim": privacy_claim(report),
        "short": short_run(report),
        "cards": cards.hospital_cards(report),
        "joining": {
            "picture": gain_picture(gave, score),
            "sentences": [(one.site, one.sentence, why) for one, why in zip(gave, why_deployed(report), strict=True)],
            "table": joining_table(report, gave),
            "own_pages": own_pages(report),
        },
        "value": {
            "panels": value_panels(points, sizes),
            "sizes": ", ".join(str(size) for size in sorted(sizes.values())),
        },
        "silent": silent(report),
        "score": score,
        "overview": cards.overview_table(report),
        "best": (report.get("best") or {}).get("round") is not None,
        "candidate_panels": figures.candidate_panels(report),
        "score_panels": figures.curve_panels(
            report,
            "val_score",
            f"validation {score}",
        ),
        "loss_panels": figures.curve_panels(report, "loss", "training loss"),
        "pictures": gallery(overlays),
        "attendance": background.attendance(report),
        "costs": background.costs(report),
        "slowest": background.slowest(report),
        "sent": background.what_left(report),
        "readers": background.who_reads(report.get("settings") or {}),
        "settings": background.settings(report),
    }
