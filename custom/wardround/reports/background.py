"""The part of the report that reviewers read: costs, what left each hospital, settings."""

from __future__ import annotations

from collections.abc import Mapping

from wardround.core.validate import Json
from wardround.reports.html import DASH, Cell, Table, duration, number, size
from wardround.reports.setting_names import value_words, words_of
from wardround.reports.summary import (
    privacy_claim,
    score_name,
    silent,
    site_name,
)

_EVERYTHING = "wardround.algorithms.sharing.Everything"


def costs(run: Json) -> Table | str:
    """Return a table of the seconds, bytes and sites of every round, with their sum; a
    sentence where no round was finished.
    """
    if not run["rounds"]:
        return "No round was finished."
    heads = (
        "Round",
        "Seconds",
        "Sent to hospitals",
        "Sent by hospitals",
        "Asked to train",
        "Trained",
        "In the sum",
        "Attempts",
        f"Mean validation {score_name(run)}",
    )
    rows = []
    for r in run["rounds"]:
        counts = [DASH if r.get(key) is None else len(r[key]) for key in ("configured", "trained", "aggregated")]
        dice = [s["val_score"] for s in (r.get("sites") or {}).values() if s and s.get("val_score") is not None]
        traffic = [size(r.get(key)) for key in ("bytes_down", "bytes_up")]
        rows.append(
            [
                r["round"] + 1,
                number(r.get("seconds"), 1),
                *traffic,
                *counts,
                DASH if r.get("attempts") is None else r["attempts"],
                number(sum(dice) / len(dice) if dice else None),
            ],
        )
    down, up = (sum(r.get(key) or 0 for r in run["rounds"]) for key in ("bytes_down", "bytes_up"))
    seconds = sum(r.get("seconds") or 0.0 for r in run["rounds"])
    rows.append(["all", number(seconds, 1), size(down), size(up), *[""] * 5])
    return Table(
        "Each round: time, traffic of all hospitals together, and how many hospitals took part.",
        heads,
        rows,
        len(rows) - 1,
    )


def attendance(run: Json) -> Table | None:
    """Return who was missing in which round, or was flagged by the aggregation, and
    why; None where nobody was.
    """
    anybody = any(r.get("flagged") for r in run["rounds"])
    rows = []
    for r in run["rounds"]:
        missing, flagged = r.get("missing") or {}, r.get("flagged") or {}
        if missing or flagged:
            inside = ", ".join(r.get("aggregated") or [])
            row = [r["round"] + 1, inside or DASH, _reasons(run, missing)]
            rows.append([*row, _reasons(run, flagged)] if anybody else row)
    heads = (
        "Round",
        "In the sum",
        "Not in the sum, and why",
        *(["Flagged, and why"] if anybody else []),
    )
    words = "Rounds that did not have every hospital (the first round is 1; the reason in full is at that hospital)."
    if anybody:
        words += " A flagged change lies far from those of the other hospitals: a remark, not a proof."
    return Table(words, heads, rows) if rows else None


def _reasons(run: Json, why: Mapping[str, str]) -> str:
    return "; ".join(f"{site_name(run, site)}: {reason}" for site, reason in why.items()) or DASH


def what_left(run: Json) -> list[str]:
    """Return the kinds of numbers that every hospital sent."""
    parameters, said = (
        (run.get("model") or {}).get("parameters"),
        run.get("settings") or {},
    )
    weights = f" (up to {parameters:,} numbers per model)" if parameters else ""
    private, hidden = (
        said.get("dp.epsilon") is not None,
        said.get("secagg.weights") == "patients_in_sum",
    )
    counts = "the number of training patients only inside the sum" if hidden else "number of training patients"
    hidden = hidden or private
    facts = "which sequences exist" if hidden else "patient counts per split, scan counts per sequence"
    told = "kind of labels, device" if silent(run) else f"{facts}, kind of labels, device"
    kept = "" if said.get("sharing_class") == _EVERYTHING else "; layers that stay at the hospital are not in it"
    secure = said.get("secagg.masks") or said.get("secagg.encryption")
    return [
        f"each round: the change of the shared weights{weights}{kept}",
        *(
            ["each round: one-time keys and signed statements of the secure sum, without patient data"]
            if secure
            else []
        ),
        "each round: no other number: no score, no loss, no seconds"
        if silent(run)
        else f"each round: validation {score_name(run)}"
        if private
        else f"each round: mean training loss and validation {score_name(run)}, {'' if hidden else 'seconds, '}{counts}",
        f"with every change: the name that the hospital gave itself, {told}, whether its patients are synthetic, the version of "
        "wardround and the fingerprint of the network",
        "at the end: nothing but a digest of the shared model"
        if silent(run)
        else f"at the end, {'for the shared model alone: ' if private else 'for every model compared: fine-tuning steps, '}"
        f"validation {score_name(run)}, test means with 95 % intervals"
        + ("" if hidden else " and the number of test patients")
        + ("" if private else "; which model was chosen, and whether it is usable"),
        "if it failed: the kind of the failure, without its text",
    ]


def who_reads(settings: Json) -> str:
    """Return who could read a single hospital's change of the weights, according to the
    job's secure aggregation.
    """
    masks, encryption = settings.get("secagg.masks"), settings.get("secagg.encryption")
    if masks and settings.get("dp.unit") == "patient":
        hidden = "masked and encrypted" if encryption else "masked"
        honest, lying, other = (
            _epsilon(settings, when) for when in ("all_honest", "one_without_noise", "patient_replaced")
        )
        return (
            "What each hospital sent was clipped for every single patient, carried a share of the noise and was "
            f"{hidden}: only the sum of all could be read, and the noise in it bounds what it tells of any one training "
            f"patient: {privacy_claim({'settings': settings})}. It rests on the other hospitals: epsilon is {honest} if all "
            f"of them were honest, and {lying} if one (beside {settings.get('dp.colluders', 0)} that tell their noise) added "
            f"none. Where one patient is replaced by another it is {other}; for a patient with images at k hospitals mu is "
            "k times as large."
        )
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
    return "The server could read the change of each single hospital: no mask, no encryption and no noise hid it."


def _epsilon(settings: Json, when: str) -> str:
    """Return an epsilon that holds under another trust than the job's own."""
    value = settings.get(f"dp.epsilon_{when}")
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def settings(run: Json) -> Table:
    """Return every setting of the job with its exact name, the model with its
    fingerprint, and the best round.
    """
    model, best = run.get("model") or {}, run.get("best") or {}
    parameters = None if model.get("parameters") is None else f"{model['parameters']:,}"
    rows: list[tuple[str, str | None, str]] = [
        ("method", run.get("algorithm"), "algorithm"),
        ("version of wardround", run.get("version"), "version"),
        ("network", model.get("name"), ""),
        ("parameters of the network", parameters, ""),
        ("fingerprint of the network", model.get("fingerprint"), ""),
    ]
    said = (run.get("settings") or {}).items()
    rows += [(words_of(name), value_words(name, value), name) for name, value in said if value is not None]
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
        rows.append(("best shared model", f"{which}{dice}", ""))
    if model.get("sha256"):
        rows.append(("SHA-256 of the final shared model", f"{model['sha256']} (equal at every hospital)", ""))
    rows += [("started", run.get("started"), ""), ("finished", run.get("finished"), "")]
    return Table(
        "What the job was set to. The name is that of report.json and, for most, of --set.",
        ("Setting", "Value", "Name"),
        [[words, Cell("", value, "words"), name] for words, value, name in rows if value is not None],
        texts=True,
    )


def slowest(run: Json) -> str:
    """Return for whom the rounds waited, the slowest site first; "" where no site
    reported its seconds.
    """
    spent: dict[str, float] = {}
    for r in run["rounds"]:
        for site, numbers in (r.get("sites") or {}).items():
            if numbers and numbers.get("seconds") is not None:
                spent[site] = spent.get(site, 0.0) + float(numbers["seconds"])
    by_time = sorted(spent.items(), key=lambda item: -item[1])
    return "; ".join(f"{site_name(run, site)} {duration(seconds)}" for site, seconds in by_time)
