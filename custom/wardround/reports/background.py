"""The part that reviewers read: costs, what left each hospital, settings, glossary."""

from __future__ import annotations

from collections.abc import Iterable

from wardround.reports.checks import Json
from wardround.reports.markup import DASH, Markup, duration, join, number, say, size, table, tag, text
from wardround.reports.summary import privacy_claim, score_name, silent, site_name

GLOSSARY = {
    "Balanced accuracy": "The mean, over the classes that are present, of the share of their patients that is recognised.",
    "AUROC": "How often a patient of a class gets a higher probability of it than one of another class: 0.5 is chance.",
    "Calibration error": "How far stated probabilities are from what happens, on average: 0 is honest.",
    "Dice": "Overlap of the drawn tumour with the expert's: 0 is none, 1 is identical. Both empty counts as 1.",
    "HD95": "95 % of the two surfaces lie this close, in mm; smaller is better. Where a side is empty there is no distance: "
    "missed (the expert drew one) or invented (the expert did not). The BraTS mean hd95_mm of report.json counts 374 mm for it.",
    "Not usable yet": "No model here is clearly better than chance (classes), or than the least Dice that the job calls usable.",
    "n < 5: not told": "A score over few patients is about single ones. It stays in the hospital's own report.",
    "ET, TC, WT": "Enhancing tumour; tumour core (enhancing and necrotic); whole tumour (core and oedema).",
    "Local": "Trained on this hospital's patients alone, with the same model and the same work.",
    "FedAvg": "One shared model: every hospital trains it on its own patients, a server averages the weights.",
    "Fine-tuning": "A few more steps on the hospital's own training patients; validation patients choose how many.",
    "Personalised": "The model of this job's algorithm, after the same kind of fine-tuning.",
    "Training, validation, test": "Patients are split once: some teach, some choose the model, some only score it.",
    "95 % interval": "How far the mean could move with other such patients. With few patients it is too narrow.",
    "Gain": "The difference on the same patients, averaged. An interval that includes 0 could be chance.",
    "Attempts": "How often the sum of a round was tried: again without the sites that were lost, when masks demand it.",
    "Gap": "Best hospital minus worst hospital: small means the model serves all hospitals alike.",
}


def costs(run: Json) -> Markup:
    """Return a table of seconds, bytes and sites per round, with the sum."""
    if not run["rounds"]:
        return say("p", "No round was finished.", class_="soft")
    heads = (
        "Round",
        "Seconds",
        "Sent to hospitals",
        "Sent by hospitals",
        "Asked to train",
        "Trained",
        "Aggregated",
        "Attempts",
        f"Mean validation {score_name(run)}",
    )
    rows = []
    for r in run["rounds"]:
        counts = [text(DASH if r.get(key) is None else len(r[key])) for key in ("configured", "trained", "aggregated")]
        dice = [s["val_score"] for s in (r.get("sites") or {}).values() if s and s.get("val_score") is not None]
        traffic = [text(size(r.get(key))) for key in ("bytes_down", "bytes_up")]
        rows.append(
            [
                text(r["round"] + 1),
                number(r.get("seconds"), 1),
                *traffic,
                *counts,
                text(DASH if r.get("attempts") is None else r["attempts"]),
                number(sum(dice) / len(dice) if dice else None),
            ]
        )
    down, up = (sum(r.get(key) or 0 for r in run["rounds"]) for key in ("bytes_down", "bytes_up"))
    seconds = sum(r.get("seconds") or 0.0 for r in run["rounds"])
    rows.append([text("all"), number(seconds, 1), text(size(down)), text(size(up)), *[Markup("")] * 5])
    return table(
        "Each round: time, traffic of all hospitals together, and how many hospitals took part.",
        heads,
        rows,
        len(rows) - 1,
    )


def attendance(run: Json) -> Markup:
    """Return who was missing in which round and why; nobody: an empty text."""
    rows = []
    for r in run["rounds"]:
        if missing := r.get("missing") or {}:
            why = "; ".join(f"{site_name(run, site)}: {reason}" for site, reason in missing.items())
            inside = ", ".join(r.get("aggregated") or [])
            rows.append([text(r["round"] + 1), text(inside or DASH), text(why)])
    heads = ("Round", "In the sum", "Not in the sum, and why")
    words = "Rounds that did not have every hospital (the first round is 1; the reason in full is at that hospital)."
    return table(words, heads, rows) if rows else Markup("")


def what_left(run: Json) -> Markup:
    """Return the kinds of numbers that every hospital sent, who could read them, and what stayed."""
    parameters, said = (run.get("model") or {}).get("parameters"), run.get("settings") or {}
    weights = f" (up to {parameters:,} numbers per model)" if parameters else ""
    private, hidden = said.get("dp.epsilon") is not None, said.get("protection.weights") == "patients_hidden"
    counts = "the number of training patients only inside the sum" if hidden else "number of training patients"
    hidden = hidden or private
    once = "which sequences exist" if hidden else "patient counts per split, scan counts per sequence"
    told = "kind of labels, device" if silent(run) else f"{once}, kind of labels, device"
    sent = (
        f"each round: the change of the shared weights{weights}; layers that the algorithm keeps at home are not in it",
        "each round: no other number: no score, no loss, no seconds"
        if silent(run)
        else f"each round: validation {score_name(run)}, seconds"
        if private
        else f"each round: mean training loss and validation {score_name(run)}, seconds, {counts}",
        f"once: {told}",
        "at the end: nothing but a digest of the shared model"
        if silent(run)
        else f"at the end, per candidate: fine-tuning steps, validation {score_name(run)}, test means with 95 % intervals"
        + ("" if hidden else " and case counts"),
        "if it failed: the kind of the failure, without its text",
    )
    caution = (
        "Images, masks, patient names, file names and tables of single patients stayed at the hospital. "
        "A change of weights is computed from patient data and can reveal something about it unless a privacy "
        "mechanism hides it. Scores, losses and counts over few patients (n < 5, or the hospital's own number) were not told; "
        "those over more were rounded to two digits. Synthetic patients are exempt."
    )
    return join([tag("ul", *(say("li", item) for item in sent)), say("p", who_reads(said)), say("p", caution)])


def who_reads(settings: Json) -> str:
    """Return who could read a single hospital's change of the weights, from the job's protection."""
    masks, encryption = settings.get("protection.masks"), settings.get("protection.encryption")
    if encryption and masks and settings.get("dp.unit") != "hospital":
        return (
            "The changes were masked and encrypted: the server could read nothing of them, the hospitals only the sum of all. "
            "A single change could be read only if all other hospitals of that sum had joined against one."
        )
    if encryption and settings.get("dp.unit") != "hospital":
        return (
            "The changes were encrypted: the server could read nothing of them, the hospitals only the sum of all. "
            "All hospitals hold the same key: one that got hold of another's message could have read it."
        )
    if masks and settings.get("dp.unit") == "hospital":
        return (
            "The changes were clipped, noised and masked: the server and the hospitals could read only the sum of all, and the "
            f"noise in it bounds what it tells of any one hospital's data: {privacy_claim({'settings': settings})}. "
            "A hospital that read the sum knows its own share of the noise; that is counted."
        )
    if settings.get("dp.unit") == "hospital":
        return (
            "The server could read the change of each single hospital; each was clipped and carried the whole noise itself, which "
            f"bounds what it tells of that hospital's data: {privacy_claim({'settings': settings})}."
        )
    if masks:
        return (
            "The changes were masked: the server and the hospitals could read only the sum of all. "
            "A single change could be read only if all other hospitals of that sum had joined against one."
        )
    if settings.get("dp.unit") == "patient":
        return (
            "The server could read the change of each single hospital; noise in every training step bounds what it tells of any "
            f"one training patient: {privacy_claim({'settings': settings})}. Validation and test patients are not covered."
        )
    return "The server could read the change of each single hospital."


def settings(run: Json) -> Markup:
    """Return every setting of the job, the model with its fingerprint, the best round."""
    model, best = run.get("model") or {}, run.get("best") or {}
    pairs: list[tuple[str, object]] = [("algorithm", run.get("algorithm")), ("wardround", run.get("version"))]
    pairs += [
        ("model", model.get("name")),
        ("parameters", f"{model['parameters']:,}" if model.get("parameters") is not None else None),
    ]
    pairs += [("fingerprint", model.get("fingerprint")), *(run.get("settings") or {}).items()]
    if best.get("round") is not None:
        dice = (
            f", mean validation {score_name(run)} {best['val_score']:.3f}" if best.get("val_score") is not None else ""
        )
        done = len(run["rounds"])
        which = (
            f"the final one, after round {done}"
            if best["round"] >= done
            else f"as evaluated in round {best['round'] + 1}"
        )
        pairs.append(("best global model", f"{which}{dice}"))
    if model.get("sha256"):
        pairs.append(("final global model, SHA-256", f"{model['sha256']} (equal at every site)"))
    pairs += [("started", run.get("started")), ("finished", run.get("finished"))]
    return _definitions((name, value) for name, value in pairs if value is not None)


def glossary() -> Markup:
    """Return the words of this report in plain language."""
    return _definitions(GLOSSARY.items())


def slowest(run: Json) -> Markup:
    """Return who the rounds waited for, when the sites told their seconds."""
    spent: dict[str, float] = {}
    for r in run["rounds"]:
        for site, numbers in (r.get("sites") or {}).items():
            if numbers and numbers.get("seconds") is not None:
                spent[site] = spent.get(site, 0.0) + float(numbers["seconds"])
    if not spent:
        return Markup("")
    words = "; ".join(
        f"{site_name(run, site)} {duration(seconds)}"
        for site, seconds in sorted(spent.items(), key=lambda item: -item[1])
    )
    return say("p", f"Time at the hospitals, all rounds, slowest first: {words}.", class_="soft")


def _definitions(pairs: Iterable[tuple[str, object]]) -> Markup:
    return tag("dl", *(join([say("dt", name), say("dd", value)]) for name, value in pairs))
