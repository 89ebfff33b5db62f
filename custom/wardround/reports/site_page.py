"""The page of one hospital: its own patients, one row each. It is written at the site and stays there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from wardround.core.validate import COUNT, FLAG, NUMBER, TEXT, Each, Json, Maybe, check, finite
from wardround.messages.names import CANDIDATES
from wardround.reports import cards
from wardround.reports.background import glossary
from wardround.reports.markup import DASH, Markup, join, number, page, save, say, table, tag, text
from wardround.reports.pictures import gallery
from wardround.reports.schema import FINAL, SITE
from wardround.reports.verdict import BALANCED, Verdict, judge, score_of

_CAPTION = "Candidates, on the test patients of this site"
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
}


def write_site_report(site_run: Json, per_patient: Sequence[Json], overlays: Sequence[Path], out_dir: Path) -> Path:
    """Write site_report.html into out_dir (made if absent) and return its path.

    site_run: SITE_RUN, `about` and `final` as one site's entries in a run's `sites` and `final`
    per_patient: one mapping per row (a patient, or a patient and a model); their keys become the columns
    no row, no final, no picture: said so or left out | a value that is None or absent: a dash
    unknown keys or wrong types in site_run: ConfigRefused
    """
    run = finite(site_run)
    check(run, SITE_RUN, "site run")
    final = run.get("final") or {}
    found = final.get("candidates") or {}
    candidates = {name: found[name] for name in CANDIDATES if found.get(name) is not None}
    chosen = final.get("deploy")
    verdict = judge(candidates, chosen, final.get("usable"), run.get("floors"))
    words = [run["job"], run.get("finished"), "phantoms" if run["phantoms"] else "patient data"]
    label = (run.get("about") or {}).get("label")
    name = f"{label} ({run['site']})" if label and label != run["site"] else run["site"]
    head = [say("h1", name), say("p", " · ".join(str(word) for word in words if word), class_="soft"), _stays()]
    if run["phantoms"]:
        head.append(cards.synthetic_banner())
    plain = [say("p", run["summary"])] if run.get("summary") else []
    body = [
        say("p", verdict.advice, class_="verdict"),
        *plain,
        say("p", cards.facts(run.get("about") or {}), class_="facts"),
    ]
    if candidates:
        body.append(cards.candidate_table(candidates, chosen, _CAPTION, cards.mark_of(verdict)))
    if run.get("model_file"):
        body.append(_next(run["model_file"], verdict, classes=score_of(candidates) == BALANCED))
    sections = [tag("header", *head), tag("article", *body, class_=f"card {verdict.kind}")]
    sections.append(tag("section", say("h2", "Patients"), _patients([finite(row) for row in per_patient])))
    if run.get("masks"):
        sections.append(tag("section", say("h2", "Personal blocks"), _masks(run["masks"])))
    if overlays:
        sections.append(tag("section", say("h2", "Overlays"), gallery(overlays)))
    sections.append(tag("section", say("h2", "Words"), glossary()))
    return save(Path(out_dir) / "site_report.html", page(f"{name}: site report", *sections))


def _next(file: str, verdict: Verdict, *, classes: bool) -> Markup:
    """Return where the chosen model lies and the command that uses it."""
    if verdict.kind == "unusable":
        return say("p", f"The best of them lies in {file}, for a look at what it does. It is not for use.")
    what, out = ("FOLDER", "classes.csv") if classes else ("CASE_FOLDER", "mask.nii.gz")
    command = f"wardround predict {what} --model {shlex.quote(file)} --out {out}"
    words = f"The model to use: {file}. The next command, for cases that nobody has looked at:"
    return join([say("p", words), tag("p", say("code", command))])


def _stays() -> Markup:
    words = " This page holds scores and pictures of single patients. It was written here and was sent to nobody."
    return tag("div", say("strong", "STAYS AT THIS SITE."), text(words), class_="banner bad")


def _masks(masks: Json) -> Markup:
    rounds = sorted(masks, key=int)
    rows_of = [masks[round_] for round_ in rounds]
    blocks = list(dict.fromkeys(b for row in rows_of for b in (*row["attention"], *row["personal"])))
    count, rows = max(1, len(blocks)), []
    for block in blocks:
        cells = [text(block)]
        for row in rows_of:
            share = row["attention"].get(block)
            mark = "● " if block in row["personal"] else ""
            cells.append(text(mark + (f"{share * count:.2f}" if share is not None else "")))
        rows.append(cells)
    caption = (
        "After each round: how much a block's own version changes the predictions, beside an equal share (1.00); a dot: the "
        "block is this hospital's own and does not leave it."
    )
    return table(caption, ["Block", *(f"Round {int(round_) + 1}" for round_ in rounds)], rows)


def _patients(rows: Sequence[Json]) -> Markup:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return say("p", "No patient was scored.", class_="soft")
    heads = [
        column if " " in column else column.replace("_", " ") for column in columns
    ]  # names of classes as they are
    return table(
        f"{len(rows)} rows, the worst patients first.",
        heads,
        [[_cell(row.get(column)) for column in columns] for row in rows],
    )


def _cell(value: object) -> Markup:
    return number(value) if isinstance(value, float) else text(DASH if value is None else value)
