"""The part of the report that a busy physician reads: the title, what became of the
run, one card per hospital, the overview.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from wardround.core.terminal import counted
from wardround.core.validate import Json
from wardround.messages.allowed_names import CANDIDATES, CLASSIFICATION, regions_in
from wardround.reports.distances import in_words
from wardround.reports.html import DASH, Cell, Table, duration, interval, number
from wardround.reports.summary import (
    by_name,
    candidates_of,
    deployed,
    main_metric,
    metric,
    nothing_told,
    privacy_claim,
    score_name,
    site_name,
    verdict_of,
)
from wardround.reports.verdict import NAMES, Verdict

KINDS = {
    "helped": "joining helped",
    "chance": "could be chance",
    "not_helped": "joining did not help",
    "unusable": "not usable yet",
    "unknown": "no comparison",
}
# The same, of several hospitals: "joining helped at 2".
_TALLIED = {
    "helped": "joining helped at {}",
    "chance": "joining may have helped at {}",
    "not_helped": "joining did not help at {}",
    "unusable": "no model is usable yet at {}",
    "unknown": "nothing could be compared here at {}",
}
# With fewer test patients an interval is too narrow to be relied on (see intervals.py);
# the card says so.
FEW_CASES = 20


def when(run: Json) -> str:
    """Return one line: the algorithm, when the run was, how long it took, and on which
    kind of sites and patients.
    """
    start, end = _moment(run.get("started")), _moment(run.get("finished"))
    took = None
    if start and end and (start.tzinfo is None) == (end.tzinfo is None):
        took = f"took {duration((end - start).total_seconds())}"
    words = [
        run.get("algorithm"),
        start.strftime("%d %B %Y, %H:%M") if start else str(run.get("started") or "date unknown"),
        took,
        "simulator" if run["simulator"] else "real sites",
        "synthetic patients" if run["phantoms"] else "patient data",
    ]
    return " · ".join(word for word in words if word)


def tally(report: Json) -> str:
    """Return how many hospitals there are, and how many of them gained."""
    kinds = [verdict["kind"] for verdict in report["verdicts"].values()]
    told = "; ".join(words.format(kinds.count(kind)) for kind, words in _TALLIED.items() if kind in kinds)
    return f"Of {counted(len(kinds), 'hospital')}: {told}." if told else "No hospital is known to this run."


def hospital_cards(run: Json) -> list[dict[str, Any]]:
    """Return what stands on the card of each hospital, in the order of names.

    A card's `personal` maps a block to the round, counted from 1, since which it is not
    shared. Its `candidates` are a table or a sentence.
    """
    return [_card(run, site) for site in by_name(run["sites"] | run["final"])]


def overview_table(report: Json) -> Table | str:
    """Return the test scores of every model over hospitals: unweighted mean, worst
    hospital, best minus worst.

    Where no hospital sent a score, the result is a sentence that says why.
    """
    rows = []
    for name in (*CANDIDATES, "deployed"):
        if found := report["overview"].get(name):
            worst = Cell(number(found["worst"]), site_name(report, found["worst_site"]))
            label = NAMES.get(name, "the model that each hospital uses")
            shown = (label, number(found["mean"]), worst, number(found["gap"]))
            rows.append((*shown, f"{found['sites']} of {len(report['sites'])}"))
    if not rows:
        return nothing_told(report, "test result")
    return Table(
        f"Test {score_name(report)} over hospitals; every hospital counts the same, however many patients it has.",
        (
            "Model",
            "Mean over hospitals",
            "Worst hospital",
            "Gap, best minus worst",
            "Hospitals",
        ),
        rows,
        len(rows) - 1 if "deployed" in report["overview"] else None,
    )


def candidate_table(
    candidates: Mapping[str, Any],
    chosen: str | None,
    caption: str,
    mark: str = "✓ deploy",
) -> Table | str:
    """Return the candidates of one hospital with the chosen row marked. Columns that
    nobody knows are left out.

    Of candidates over few patients only the names are shown, in a sentence.
    """
    if not any(candidates.values()):
        listed = ", ".join(NAMES[name] + (f" ({mark})" if name == chosen else "") for name in candidates)
        return f"{caption}: {listed}. n < 5: not reported."
    regions = (
        "mean",
        *regions_in(key for one in candidates.values() for key in one.get("test") or {}),
    )
    dice = [region for region in regions if any(metric(c, f"dice_{region}") for c in candidates.values())]
    said = {name: {r: in_words(c.get("test") or {}, r) for r in regions} for name, c in candidates.items()}
    apart = [region for region in regions if any(words[region] for words in said.values())]
    hd95 = [r for r in regions if r not in apart and any(metric(c, f"hd95_mm_{r}") for c in candidates.values())]
    kinds = [key for key in CLASSIFICATION if any(metric(c, key) for c in candidates.values())]
    heads = [
        "Model",
        *("Dice [95 % CI]" if region == "mean" else f"Dice {region}" for region in dice),
    ]
    heads += [f"{key.replace('_', ' ').replace('auroc', 'AUROC')} [95 % CI]" for key in kinds]
    heads += [f"HD95 {region}, mm" for region in hd95] + [f"Outline of {region} within (HD95)" for region in apart]
    counts = [_cases(candidate) for candidate in candidates.values()]
    heads += ["Test patients"] * (len(set(counts)) > 1)
    rows = []
    for name, candidate in candidates.items():
        label = NAMES[name] + _steps(name, candidate)
        cells: list[str | Cell] = [Cell(label, mark, "chosen") if name == chosen else label]
        for region in dice:
            found = metric(candidate, f"dice_{region}")
            cells.append(interval(found) if region == "mean" else _value(found))
        cells += [interval(metric(candidate, key)) for key in kinds]
        cells += [_value(metric(candidate, f"hd95_mm_{region}"), 1) for region in hd95]
        cells += [Cell("", said[name][region] or DASH, "words") for region in apart]
        rows.append([*cells, *([_cases(candidate)] * (len(set(counts)) > 1))])
    marked = next((i for i, name in enumerate(candidates) if name == chosen), None)
    return Table(caption, heads, rows, marked)


def _card(run: Json, site: str) -> dict[str, Any]:
    candidates, verdict = candidates_of(run, site), verdict_of(run, site)
    claim = privacy_claim(run)
    table = None
    rough = ""
    if candidates:
        tested = [found.get("cases") for c in candidates.values() if (found := main_metric(c))]
        cases = max((n for n in tested if n is not None), default=None)
        on = "its test patients" if cases is None else f"its {counted(cases, 'test patient')}"
        # Under differential privacy the others, and which one was chosen, stay at the hospital.
        caption = (
            f"The shared model at {site_name(run, site)}, on {on}; {claim}"
            if claim
            else f"Every model that {site_name(run, site)} compared, on {on}"
        )
        table = candidate_table(
            candidates,
            deployed(run, site),
            caption,
            mark_of(verdict),
        )
        if cases is not None and cases < FEW_CASES:
            rough = (
                f"With {counted(cases, 'test patient')} these numbers are rough: the true uncertainty is larger than the "
                "intervals show."
            )
    since = (run["final"].get(site) or {}).get("personal") or {}
    return {
        "name": site_name(run, site),
        "verdict": verdict,
        "badge": KINDS[verdict.kind],
        "facts": facts(run["sites"].get(site) or {}),
        "personal": {block: round_ + 1 for block, round_ in since.items()},
        "candidates": table,
        "rough": rough,
    }


def mark_of(verdict: Verdict) -> str:
    """Return what stands beside the chosen model."""
    return "best on validation, not usable" if verdict.kind == "unusable" else "✓ deploy"


def facts(site: Json) -> str:
    """Return what a site sent about itself, in one line."""
    cases = site.get("cases") or {}
    told = any(cases.get(part) is not None for part in _PARTS)
    few = {part: "few" if part in cases and told else None for part in _PARTS}
    counts = {part: few[part] if cases.get(part) is None else cases[part] for part in _PARTS}
    split = ", ".join(f"{counts[part]} {word}" for part, word in _PARTS.items() if counts[part] is not None)
    found = site.get("modalities") or {}
    scans = "scans by sequence: " + ", ".join(f"{name} {count or 'none'}" for name, count in found.items())
    if not split and found:  # a job that hides the numbers of patients tells 1 for every sequence that exists
        there = ", ".join(name for name, count in found.items() if count)
        scans = f"Number of patients: not reported; sequences: {there}"
    support = ", ".join(f"{name} {count}" for name, count in (site.get("classes") or {}).items())
    labels = _LABELS.get(str(site.get("label_kind")), site.get("label_kind"))
    words = [f"Patients: {split}" if split else None, scans if found else None]
    words += [
        f"patients by class: {support}" if support else None,
        f"labels: {labels}" if labels else None,
        f"computed on {site['device']}" if site.get("device") else None,
    ]
    return "; ".join(word for word in words if word) or "This hospital told nothing about its data."


_PARTS = {"train": "training", "val": "validation", "test": "test"}
_LABELS = {
    "brats": "tumour regions ET, TC, WT",
    "whole_tumour": "whole tumour only",
    "classes": "one class per patient",
}


def _value(found: Json | None, digits: int = 3) -> str:
    return number(found["value"] if found else None, digits)


def _steps(name: str, candidate: Json) -> str:
    """Return how long a model was fine-tuned, where it was."""
    steps = candidate.get("k")
    return f", {counted(steps, 'more step')}" if steps and name not in ("local", "fedavg", "blend") else ""


def _cases(candidate: Json) -> str:
    found = main_metric(candidate) or metric(candidate, "dice_WT")
    return DASH if not found or found.get("cases") is None else str(found["cases"])


def _moment(iso: str | None) -> datetime | None:
    """Return the time in a text, or None where the text is no ISO time."""
    try:
        return datetime.fromisoformat((iso or "").replace("Z", "+00:00"))
    except ValueError:
        return None
