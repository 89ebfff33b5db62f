"""What follows from a run: names, deployed models, problems that nobody listed, the
overview over hospitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wardround.core.validate import Json
from wardround.messages.allowed_names import CANDIDATES, CLASSIFICATION
from wardround.reports.verdict import (
    DICE,
    LEAST_DICE,
    STAYS,
    Verdict,
    choose,
    floors,
    judge,
    score_of,
)

# Where a party of the simulator keeps what it wrote, below its own folder.
_SIMULATED = ("simulate_job", "wardround")


def site_name(run: Json, site: str) -> str:
    """Return "label (site)", or the site alone where it has no label of its own."""
    label = (run["sites"].get(site) or {}).get("label")
    return f"{label} ({site})" if label and label != site else site


def candidates_of(run: Json, site: str) -> dict[str, Any]:
    """Return the evaluated candidates of a site in the order of CANDIDATES; {} where
    there are none.
    """
    found = (run["final"].get(site) or {}).get("candidates") or {}
    return {name: found[name] for name in CANDIDATES if found.get(name) is not None}


def metric(candidate: Json, name: str) -> Json | None:
    """Return the test interval of one metric where its value is known."""
    found = (candidate.get("test") or {}).get(name)
    return found if found and found.get("value") is not None else None


def nothing_told(run: Json, what: str) -> str:
    """Return why a run has no such number: hospitals with few patients keep theirs, or
    none came back.
    """
    kept = any(None in ((site or {}).get("cases") or {}).values() for site in run["sites"].values())
    if kept or any({} in ((final or {}).get("candidates") or {}).values() for final in run["final"].values()):
        return (
            f"No {what} was told: over few patients (n < 5, or the hospital's own number) it stays in each own report."
        )
    return f"No {what} came back."


def score_name(run: Json) -> str:
    """Return the name of this run's score: Dice, or balanced accuracy."""
    return str((run.get("settings") or {}).get("score") or DICE)


def main_metric(candidate: Json) -> Json | None:
    """Return the test interval of the score by which models are compared: mean Dice, or
    balanced accuracy.
    """
    return metric(candidate, "dice_mean") or metric(candidate, CLASSIFICATION[0])


def privacy_claim(run: Json) -> str:
    """Return what differential privacy promises in this run, or "" without it."""
    said = run.get("settings") or {}
    if said.get("dp.epsilon") is None:
        return ""
    unit, right = said.get("dp.unit"), said.get("dp.attack_accuracy", 1)
    guess = "a hospital's data are in it" if unit == "hospital" else f"one {unit} was there"
    return (
        f"epsilon {said['dp.epsilon']:.3g} per {unit} at delta {said.get('dp.delta'):g} (mu {said.get('dp.mu'):.2f}; "
        f"the best guess whether {guess} is right {right:.0%} of the time{_second(said)})"
    )


def _second(said: Json) -> str:
    """Return what the second accountant says, where one was asked and had an answer."""
    second = said.get("dp.epsilon_by_opacus")
    return "" if second is None else f"; a second accountant, Opacus PRV, says epsilon {second:.3g}"


def silent(run: Json) -> bool:
    """Return whether no score may leave a hospital in this run: under hospital-level
    privacy all scores come from its patients.
    """
    return (run.get("settings") or {}).get("dp.unit") == "hospital"


def deployed(run: Json, site: str) -> str | None:
    """Return the model to deploy: what the site said, else the choice on its validation
    scores, else None.

    Under differential privacy the result is None: the site's choice was made on its
    patients, and stays there.
    """
    if privacy_claim(run):
        return None
    candidates = candidates_of(run, site)
    said = (run["final"].get(site) or {}).get("deploy")
    if said in candidates:
        return str(said)
    scores = {name: candidate.get("val") for name, candidate in candidates.items()}
    if all(score is None for score in scores.values()):
        return None
    cases = ((run["sites"].get(site) or {}).get("cases") or {}).get("val") or 0
    return choose(scores, cases, score_of(candidates))


def floors_of(run: Json, site: str) -> dict[str, float]:
    """Return what the test numbers of a hospital must exceed, according to the job's
    settings and the hospital's classes.
    """
    settings = run.get("settings") or {}
    least = settings.get("model_selection.least_dice")
    classes = len(
        (run["sites"].get(site) or {}).get("classes") or settings.get("sampling.classes") or (),
    )
    return floors(
        classes if classes > 1 else None,
        LEAST_DICE if least is None else float(least),
    )


def verdict_of(run: Json, site: str) -> Verdict:
    """Return the verdict of one hospital. Under differential privacy it stays there."""
    if privacy_claim(run):
        return STAYS
    said = (run["final"].get(site) or {}).get("usable")
    return judge(
        candidates_of(run, site),
        deployed(run, site),
        said,
        floors_of(run, site),
    )


def short_run(report: Json) -> str:
    """Return why joining may not help in a demonstration that helped nobody; "" for any
    other report.
    """
    kinds = {verdict["kind"] for verdict in report["verdicts"].values()}
    if not report["phantoms"] or "helped" in kinds or not kinds & {"not_helped", "unusable", "chance"}:
        return ""
    said, done = report.get("settings") or {}, len(report["rounds"])
    work = f" of {said['work']} gradient evaluations" if said.get("work") else ""
    return (
        f"This demonstration is short ({done} round{'s' if done != 1 else ''}{work}): a model that a hospital trains alone for as "
        "long is hard to beat so early. To see what joining can do, run it longer, for example with --set num_rounds=20."
    )


def own_pages(report: Json, page: Path | None = None) -> str:
    """Return where each hospital finds the page about its own patients.

    page: The report of the server. Where it still lies in the simulator's workspace, the
      path is that of this workspace.
    """
    if not report["simulator"]:
        return "KIT/JOB_ID/wardround/site_report.html at the hospital, in the folder of its own startup kit"
    here = page is not None and page.parts[-4:-1] == ("server", *_SIMULATED)
    workspace = page.parents[3] if page is not None and here else Path("WORKSPACE")
    return str(workspace.joinpath("SITE", *_SIMULATED, "site_report.html"))


def ending(report: Json, page: Path) -> list[str]:
    """Return the last lines that a run prints: the verdict of every hospital, why it
    may be so, where each hospital's own page lies, and which page to open.
    """
    verdicts = [report["verdicts"][site]["sentence"] for site in by_name(report["verdicts"])]
    short = short_run(report)
    sites = ", ".join(by_name(report["sites"]))
    own = f"each hospital's own report: {own_pages(report, page)}"
    own += f" (SITE: {sites})" if report["simulator"] and sites else ""
    return [*verdicts, *([short] if short else []), own, f"open this: {page}"]


def by_name(sites: Iterable[str]) -> list[str]:
    """Return sites by name, with site-2 before site-10."""
    return sorted(
        sites,
        key=lambda site: [(not part.isdigit(), part.zfill(12)) for part in re.split(r"(\d+)", site)],
    )


def all_problems(run: Json) -> tuple[list[str], list[str]]:
    """Return all problems of the run, and all lost sites. A site that was lost without
    a word about it has a problem here.

    No final result, or an update that was not aggregated in a round that does not say
    why, is a problem, unless the run lists the site as lost: then it has its problem
    already. A round that says why gives a remark, not a problem.
    """
    problems: list[str] = list(run["problems"])
    lost: list[str] = list(run.get("lost") or ())
    for site in (site for site in run["sites"] if site not in lost):
        rounds = [
            r["round"] + 1
            for r in run["rounds"]
            if site in (r.get("configured") or [])
            and site not in (r.get("aggregated") or [])
            and site not in (r.get("missing") or {})
        ]
        if rounds or run["final"].get(site) is None:
            lost.append(site)
            missing = ", ".join(map(str, rounds))
            asked = f"{site} was asked to train but its update is missing in round {missing}"
            problems.append(asked if rounds else f"{site} returned no final result")
    if run["outcome"] == "incomplete" and not problems:
        problems.append("the run ended early; see the server's log")
    return problems, lost


def overview(run: Json) -> dict[str, dict[str, Any]]:
    """Return the test score of each model over hospitals: unweighted mean, worst site,
    gap (best minus worst), number of sites.

    The row `deployed` takes, at each hospital, the model that it deploys.
    """
    rows: dict[str, dict[str, float]] = {}
    for site in run["final"]:
        candidates = candidates_of(run, site)
        chosen = deployed(run, site)
        for row, name in [*((name, name) for name in candidates), ("deployed", chosen)]:
            found = main_metric(candidates[name]) if name else None
            if found:
                rows.setdefault(row, {})[site] = float(found["value"])
    table = {}
    for row in (*CANDIDATES, "deployed"):
        if scores := rows.get(row):
            worst = min(scores, key=lambda site: scores[site])
            table[row] = {
                "mean": sum(scores.values()) / len(scores),
                "worst": scores[worst],
                "worst_site": worst,
                "gap": max(scores.values()) - scores[worst],
                "sites": len(scores),
            }
    return table
