"""Two or more runs side by side: which settings differ, and by how much each hospital's
score differs, paired by hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.core.validate import Json
from wardround.reports.html import Table, html, interval, number
from wardround.reports.intervals import Interval, bootstrap_mean
from wardround.reports.setting_names import value_words
from wardround.reports.summary import (
    by_name,
    candidates_of,
    deployed,
    main_metric,
    score_name,
    site_name,
)
from wardround.reports.svg import Axis, Drawing, dots, label, line

SAME = ("algorithm", "version")
_WIDTH, _ROW = 640, 26
_CAUTION = (
    "Differences are of the model that each hospital chose, on its test patients, and paired by hospital. The interval is over "
    "hospitals, whose number is small: it says nothing about other hospitals. Runs with other patients cannot be compared."
)


def require_comparable(runs: Mapping[str, Json]) -> None:
    """Raise ConfigRefused unless there are two runs or more, with one kind of score and
    a hospital in common.
    """
    scores = {score_name(run) for run in runs.values()}
    common = set.intersection(*(set(run["final"]) for run in runs.values())) if runs else set()
    kinds = {bool(run["phantoms"]) for run in runs.values()}
    if len(runs) < 2 or len(scores) > 1 or not common or len(kinds) > 1:
        raise ConfigRefused(
            "runs to compare",
            found=f"{len(runs)} runs, scores {', '.join(sorted(scores)) or 'none'}, {len(common)} hospitals in all of them"
            + (", some on synthetic and some on other patients" if len(kinds) > 1 else ""),
            expected="two runs or more of one task, of the same hospitals, all on synthetic patients or none",
            fix="name two workspaces that judged their models: wardround compare RUN RUN",
        )


def differing(runs: Mapping[str, Json]) -> list[tuple[str, list[Any]]]:
    """Return the settings that are not the same in all runs, as (setting, its value in
    each run); None where a run has no such setting.
    """
    said = [{key: run.get(key) for key in SAME} | dict(run.get("settings") or {}) for run in runs.values()]
    names = list(dict.fromkeys(name for one in said for name in one))
    found = [(name, [one.get(name) for one in said]) for name in names]
    return [(name, values) for name, values in found if any(value != values[0] for value in values)]


def scores(run: Json) -> dict[str, float]:
    """Return the test score of the model that each hospital chose. Hospitals that sent
    none are left out.
    """
    found = {}
    for site in by_name(run["final"]):
        chosen = deployed(run, site)
        at = main_metric(candidates_of(run, site)[chosen]) if chosen else None
        if at:
            found[site] = float(at["value"])
    return found


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> Interval | None:
    """Return the mean over common hospitals of b - a, with its bootstrap interval over
    hospitals; None where no hospital is common.
    """
    both = [b[site] - a[site] for site in a if site in b]
    return bootstrap_mean(both, 0) if both else None


def rows(runs: Mapping[str, Json]) -> list[dict[str, Any]]:
    """Return one row per run: its name, the mean score over its hospitals, and the
    paired difference from the first run.
    """
    first = next(iter(runs.values()))
    made = []
    for name, run in runs.items():
        told = scores(run)
        minus = difference(scores(first), told) if run is not first else None
        mean = fmean(told.values()) if told else None
        made.append(
            {
                "run": name,
                "mean": mean,
                "sites": len(told),
                "minus_first": None if minus is None else vars(minus),
            },
        )
    return made


def write_comparison(runs: Mapping[str, Json], out: Path) -> Path:
    """Write one page with a table of settings, a table of scores and one picture, and
    return its path.
    """
    require_comparable(runs)
    score = score_name(next(iter(runs.values())))
    settings = lines(runs)
    found = [[row["run"], number(row["mean"]), interval(row["minus_first"]), row["sites"]] for row in rows(runs)]
    heads = (
        "Run",
        f"Mean test {score}",
        "Minus the first run [95 % over hospitals]",
        "Hospitals that tell",
    )
    shown = {
        "count": len(runs),
        "synthetic": any(run["phantoms"] for run in runs.values()),
        "settings": Table(
            "All other settings are the same.",
            ("Setting", *runs),
            settings,
        )
        if settings
        else None,
        "score": score,
        "scores": Table(_CAUTION, heads, found),
        "picture": picture(runs),
    }
    return files.write(out, html("comparison.html", shown))


def picture(runs: Mapping[str, Json]) -> Drawing:
    """Return a drawing with one line per hospital and one dot per run. The first run's
    dot is hollow, the last one's is filled.
    """
    told = {name: scores(run) for name, run in runs.items()}
    sites = by_name({site for one in told.values() for site in one})
    run = next(iter(runs.values()))
    x = Axis(0.0, 1.0, 170, _WIDTH - 20)
    bottom = 20.0 + _ROW * len(sites)
    shapes = [line(x.at(tick), 10, x.at(tick), bottom, "grid") for tick in x.ticks(5)]
    shapes += [label(x.at(tick), bottom + 14, f"{tick:g}", "middle") for tick in x.ticks(5)]
    spoken = []
    for place, site in enumerate(sites):
        y = 26.0 + _ROW * place
        values = [(name, one[site]) for name, one in told.items() if site in one]
        shapes.append(label(160, y + 4, site_name(run, site)[:28], "end", "ink"))
        shapes.append(line(x.at(values[0][1]), y, x.at(values[-1][1]), y, "span"))
        for number_, (_, value) in enumerate(values):
            shapes += dots(
                [(x.at(value), y)],
                "dot" if number_ == len(values) - 1 else "open",
                4.0,
            )
        spoken.append(
            f"{site}: " + ", ".join(f"{name} {value:.3f}" for name, value in values),
        )
    return Drawing(
        _WIDTH,
        int(bottom + 24),
        "Test scores by hospital. " + "; ".join(spoken),
        shapes,
    )


def lines(runs: Mapping[str, Json]) -> Sequence[Sequence[str]]:
    """Return the settings that differ, as rows of text."""
    return [
        [
            key,
            *("not set" if one is None else value_words(key, one) for one in values),
        ]
        for key, values in differing(runs)
    ]
