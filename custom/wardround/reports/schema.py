"""report.json: everything that a report may hold, checked strictly. This file is the
list to review.

A report is the run as the server wrote it (RUN) and what follows from it (DERIVED):
verdicts and the overview.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround.core.validate import (
    COUNT,
    FLAG,
    NUMBER,
    SCALAR,
    TEXT,
    Each,
    Json,
    Maybe,
    OneOf,
    Some,
    check,
    finite,
)
from wardround.messages.allowed_names import CANDIDATES, SHIPPED, allowed
from wardround.reports.summary import (
    all_problems,
    by_name,
    overview,
    site_name,
    verdict_of,
)

VERSION = 1

INTERVAL = {
    "value": Maybe(NUMBER),
    "low?": Maybe(NUMBER),
    "high?": Maybe(NUMBER),
    "cases?": Maybe(COUNT),
}
CANDIDATE = {
    "k?": Maybe(COUNT),
    "val?": Maybe(NUMBER),
    "test?": Maybe(Each(Maybe(INTERVAL), SHIPPED.metrics)),
    "gain?": Maybe(INTERVAL),
}
SITE = {
    "label?": Maybe(TEXT),
    "cases?": Maybe(Each(Maybe(COUNT), ("train", "val", "test"))),
    "classes?": Maybe(Each(COUNT)),
    "modalities?": Maybe(Each(Maybe(COUNT))),
    "label_kind?": Maybe(TEXT),
    "device?": Maybe(TEXT),
}
ROUND = {
    "round": COUNT,
    "seconds?": Maybe(NUMBER),
    "configured?": Maybe([TEXT]),
    "trained?": Maybe([TEXT]),
    "aggregated?": Maybe([TEXT]),
    "attempts?": Maybe(COUNT),
    "recovered?": Maybe([TEXT]),
    "missing?": Maybe(Each(TEXT)),
    "flagged?": Maybe(Each(TEXT)),
    "bytes_down?": Maybe(COUNT),
    "bytes_up?": Maybe(COUNT),
    "sites?": Maybe(
        Each(
            Maybe(
                {
                    "loss?": Maybe(NUMBER),
                    "val_score?": Maybe(NUMBER),
                    "seconds?": Maybe(NUMBER),
                },
            ),
        ),
    ),
}
FINAL = {
    "candidates": Maybe(Each(Maybe(CANDIDATE), CANDIDATES)),
    "deploy?": Maybe(OneOf(CANDIDATES)),
    "usable?": Maybe(FLAG),
    "personal?": Maybe(Each(COUNT)),
}
RUN = {
    "job": TEXT,
    "version?": Maybe(TEXT),
    "algorithm?": Maybe(TEXT),
    "started?": Maybe(TEXT),
    "finished?": Maybe(TEXT),
    "simulator": FLAG,
    "phantoms": FLAG,
    "settings?": Maybe(Each(Maybe(Some(SCALAR)))),
    "model?": Maybe(
        {
            "name?": Maybe(TEXT),
            "parameters?": Maybe(COUNT),
            "fingerprint?": Maybe(TEXT),
            "sha256?": Maybe(TEXT),
        },
    ),
    "sites": Each(SITE),
    "rounds": [ROUND],
    "best?": Maybe({"round": Maybe(COUNT), "val_score": Maybe(NUMBER)}),
    "final": Each(Maybe(FINAL)),
    "outcome": OneOf(("complete", "incomplete")),
    "problems": [TEXT],
    "lost?": Maybe([TEXT]),
    "remarks?": Maybe([TEXT]),
}
DERIVED = {
    "schema": OneOf((VERSION,)),
    "verdicts": Each(
        {
            "deploy": Maybe(OneOf(CANDIDATES)),
            "kind": OneOf(("helped", "chance", "not_helped", "unusable", "unknown")),
            "sentence": TEXT,
        },
    ),
    "overview": Each(
        {
            "mean": NUMBER,
            "worst": NUMBER,
            "worst_site": TEXT,
            "gap": NUMBER,
            "sites": COUNT,
        },
        (*CANDIDATES, "deployed"),
    ),
}


def build(run: Json) -> dict[str, Any]:
    """Return the validated report of a run. The run is not changed.

    NaN and inf become null. A lost site, or any problem, makes the outcome
    `incomplete`, whatever the run says. A site that missed rounds for a stated reason,
    and was evaluated at the end, is a remark, and the outcome stays. A run with no
    site, no round or no result gives a report that says so. Keys or types that RUN does
    not know are refused with ConfigRefused.

    Guarantee: the report of a report's run is the same report.
    """
    clean: dict[str, Any] = finite(run)
    check(clean, _of_job(RUN, clean), "run")
    problems, lost = all_problems(clean)
    outcome = "incomplete" if problems else clean["outcome"]
    verdicts = {}
    for site in by_name(clean["sites"] | clean["final"]):
        verdict = verdict_of(clean, site)
        said = f"{site_name(clean, site)}: {verdict.advice}"
        verdicts[site] = {
            "deploy": verdict.deploy,
            "kind": verdict.kind,
            "sentence": said,
        }
    derived = {"schema": VERSION, "verdicts": verdicts, "overview": overview(clean)}
    report = {
        **clean,
        "outcome": outcome,
        "problems": problems,
        "lost": lost,
        **derived,
    }
    validate(report)
    return report


def validate(report: Json) -> None:
    """Raise ConfigRefused, naming the place, unless `report` is a report of this
    version.
    """
    check(report, _of_job({**RUN, **DERIVED}, report), "report")


def _of_job(shape: Json, run: Json) -> dict[str, Any]:
    """Return the shape with the scores that the run's job lists among its settings, as
    its sites and its server have them.
    """
    settings = run.get("settings") if isinstance(run, Mapping) else None
    names = settings.get("names") if isinstance(settings, Mapping) else None
    listed = [name for name in names if isinstance(name, str)] if isinstance(names, list) else None
    candidate = {
        **CANDIDATE,
        "test?": Maybe(Each(Maybe(INTERVAL), allowed(listed).metrics)),
    }
    return {
        **shape,
        "final": Each(
            Maybe({**FINAL, "candidates": Maybe(Each(Maybe(candidate), CANDIDATES))}),
        ),
    }


def run_of(report: Json) -> dict[str, Any]:
    """Return the run inside a validated report, so that a page can be rebuilt from
    report.json alone.
    """
    validate(report)
    return {key: value for key, value in report.items() if key not in DERIVED}
