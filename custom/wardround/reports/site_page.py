"""The page of one hospital: its own patients, one row each. It is written at the site
and stays there.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from wardround.core import files
from wardround.core.terminal import counted
from wardround.core.validate import (
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    Each,
    Json,
    Maybe,
    check,
    finite,
)
from wardround.messages.allowed_names import CANDIDATES
from wardround.reports import cards
from wardround.reports.glossary import with_glossary
from wardround.reports.html import DASH, Table, number
from wardround.reports.joining import joined_of
from wardround.reports.joining_figures import gain_picture
from wardround.reports.pictures import gallery
from wardround.reports.reasons import reason
from wardround.reports.schema import FINAL, SITE
from wardround.reports.summary import main_metric, site_name
from wardround.reports.verdict import BALANCED, Verdict, judge, score_of

SITE_RUN = {
    "job": TEXT,
    "site": TEXT,
    "phantoms": FLAG,
    "finished?": Maybe(TEXT),
    "round?": Maybe(COUNT),
    "about?": Maybe(SITE),
    "final?": Maybe(FINAL),
    "model_file?": Maybe(TEXT),
    "summary?": Maybe(TEXT),
    "floors?": Maybe(Each(NUMBER)),
    "masks?": Maybe(Each({"personal": [TEXT], "attention": Each(NUMBER)})),
    "mixed?": Maybe({"share": NUMBER, "of": TEXT, "k": COUNT}),
}


def write_site_report(
    site_run: Json,
    per_patient: Sequence[Json],
    overlays: Sequence[Path],
    out_dir: Path,
) -> Path:
    """Write site_report.html into out_dir, which is made if absent, and return its
    path.

    site_run: as SITE_RUN, with `about` and `final` as one site's entries in a run's
      `sites` and `final`. Unknown keys and wrong types are refused with ConfigRefused.
    per_patient: one mapping per row (a patient, or a patient and a model). Their keys
      become the columns; a value that is None or absent is a dash.
    overlays: PNG files.

    A page without rows, final result or pictures says so, or leaves the part out.
    """
    run = finite(site_run)
    check(run, SITE_RUN, "site run")
    final = run.get("final") or {}
    found = final.get("candidates") or {}
    candidates = {name: found[name] for name in CANDIDATES if found.get(name) is not None}
    chosen = final.get("deploy")
    verdict = judge(candidates, chosen, final.get("usable"), run.get("floors"))
    words = [
        run["job"],
        run.get("finished"),
        "synthetic patients" if run["phantoms"] else "patient data",
    ]
    table = None
    if candidates:
        table = cards.candidate_table(
            candidates,
            chosen,
            f"Every model that was compared, on {_tested(candidates)} of this hospital",
            cards.mark_of(verdict),
        )
    name = site_name({"sites": {run["site"]: run.get("about")}}, run["site"])
    score = score_of(candidates)
    gave = joined_of(name, candidates, chosen if chosen in candidates else None, verdict, score)
    picture = gain_picture([gave], score)
    shown = {
        "run": run,
        "name": name,
        "gave": gave.sentence,
        "picture": None if isinstance(picture, str) else picture,
        "what": " · ".join(str(word) for word in words if word),
        "verdict": verdict,
        "reason": _reason(run, candidates, verdict),
        "facts": cards.facts(run.get("about") or {}),
        "candidates": table,
        "summary": run.get("summary"),
        "model_file": run.get("model_file"),
        "command": _command(
            run.get("model_file") or "",
            classes=score == BALANCED,
        ),
        "patients": _patients([finite(row) for row in per_patient]),
        "masks": _masks(run.get("masks") or {}),
        "pictures": gallery(overlays),
    }
    return files.write(
        Path(out_dir) / "site_report.html",
        with_glossary("site_report.html", shown),
    )


def _tested(candidates: Json) -> str:
    """Return "the 12 test patients"; without the number where it is not the same for all."""
    counts = {found.get("cases") for one in candidates.values() if (found := main_metric(one or {}))}
    count = counts.pop() if len(counts) == 1 else None
    return "the test patients" if count is None else f"the {counted(count, 'test patient')}"


def _reason(run: Json, candidates: Json, verdict: Verdict) -> str:
    """Return what is deployed and why; "" where nothing is."""
    patients = ((run.get("about") or {}).get("cases") or {}).get("val")
    return reason(candidates, verdict.deploy, patients, run.get("mixed"))


def _command(file: str, *, classes: bool) -> str:
    """Return the command that uses the chosen model."""
    what, out = ("FOLDER", "classes.csv") if classes else ("CASE_FOLDER", "mask.nii.gz")
    return f"wardround predict {what} --model {shlex.quote(file)} --out {out}"


def _masks(masks: Json) -> Table | None:
    if not masks:
        return None
    rounds = sorted(masks, key=int)
    rows_of = [masks[round_] for round_ in rounds]
    blocks = list(
        dict.fromkeys(b for row in rows_of for b in (*row["attention"], *row["personal"])),
    )
    count, rows = max(1, len(blocks)), []
    for block in blocks:
        cells = [block]
        for row in rows_of:
            share = row["attention"].get(block)
            mark = "● " if block in row["personal"] else ""
            cells.append(mark + (f"{share * count:.2f}" if share is not None else ""))
        rows.append(cells)
    caption = (
        "After each round: how much a block's own version changes the predictions, beside an equal share (1.00); a dot: the "
        "block is this hospital's own and does not leave it."
    )
    return Table(
        caption,
        ["Block", *(f"Round {int(round_) + 1}" for round_ in rounds)],
        rows,
    )


def _patients(rows: Sequence[Json]) -> Table | str:
    """Return the rows as they are, or a sentence where no patient was scored."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return "No patient was scored."
    # A column with spaces has been put in words already; names of classes stay as they
    # are.
    heads = [column if " " in column else column.replace("_", " ") for column in columns]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return Table(f"{len(rows)} rows, the worst patients first.", heads, cells)


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else DASH if value is None else str(value)
