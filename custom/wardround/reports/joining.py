"""What did joining give a hospital? Its own model, the model to use, and the difference.

One value per hospital, with one sentence for a clinician. The advice itself is that of
verdict.py, and nothing here changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wardround.core.validate import Json
from wardround.reports.summary import (
    by_name,
    candidates_of,
    deployed,
    main_metric,
    privacy_claim,
    score_name,
    silent,
    site_name,
    verdict_of,
)
from wardround.reports.verdict import BALANCED, DICE, SPOKEN, Verdict

OWN = "local"
STAYS = "The comparison stays at this hospital, because the run promises differential privacy: see its own report."
UNKNOWN = (
    "What joining gave cannot be said here: no comparison came back, or it is over too few patients to be told. The "
    "hospital's own report has what there is."
)


@dataclass(frozen=True)
class Joined:
    """One hospital before and after joining.

    site: Its name for people.
    kind: The kind of its verdict.
    model: The model that its validation patients chose; None where none is known.
    own, chosen: The test intervals of its own model and of the chosen one; None where
        they were not reported.
    gain: Chosen minus own on the same test patients, with its interval; None where it
        is not known or the chosen model is the own one.
    sentence: What a clinician should know.
    """

    site: str
    kind: str
    model: str | None
    own: Json | None
    chosen: Json | None
    gain: Json | None
    sentence: str


def joined(run: Json) -> list[Joined]:
    """Return what joining gave each hospital of a run, in the order of names."""
    score = score_name(run)
    stays = bool(privacy_claim(run)) or silent(run)
    return [
        joined_of(
            site_name(run, site),
            candidates_of(run, site),
            deployed(run, site),
            verdict_of(run, site),
            score,
            stays=stays,
        )
        for site in by_name(run["sites"] | run["final"])
    ]


def joined_of(
    site: str,
    candidates: Mapping[str, Any],
    model: str | None,
    verdict: Verdict,
    score: str,
    *,
    stays: bool = False,
) -> Joined:
    """Return what joining gave one hospital.

    model: The model that validation chose, usable or not.
    score: Dice or balanced accuracy.
    stays: Whether the comparison stays at the hospital, under differential privacy.
    """
    own = main_metric(candidates.get(OWN) or {})
    found = candidates.get(model or "") or {}
    chosen = main_metric(found)
    gain = found.get("gain") if model != OWN else None
    known = gain if gain and gain.get("value") is not None else None
    words = STAYS if stays else _sentence(verdict.kind, model, own, chosen, score)
    return Joined(site, verdict.kind, model, own, chosen, known, words)


def _sentence(kind: str, model: str | None, own: Json | None, chosen: Json | None, score: str) -> str:
    if model is None or own is None or chosen is None or kind not in (*_AROUND, "unusable"):
        return UNKNOWN
    name = SPOKEN.get(model, model)
    patients = chosen.get("cases")
    count = "patients" if not patients else "1 patient" if patients == 1 else f"{patients} patients"
    where = f"On {count} that no model has seen"
    agrees, amount, scale = _VERBS[score]
    shown = f"{agrees} {amount(chosen)}{scale}"
    if kind == "unusable":
        return f"No model is good enough to be used yet. {where}, the best of them {shown}."
    if model == OWN:
        kept = "Keep your own model: no shared model was clearly better on the validation patients."
        return f"{kept} {where}, it {shown}."
    before, after = _AROUND[kind]
    alone = f"the model trained at this hospital alone {amount(own)}"
    return f"{before} {where}, {name} {shown}, {alone}. {after}"


_AROUND = {
    "helped": ("Joining helped.", "The difference is larger than chance explains."),
    "chance": ("Joining may have helped.", "So few patients cannot rule out that the difference is chance."),
    "not_helped": ("Joining did not help.", "Compare both on recent patients before you use it."),
}
# What a model does, how much of it, and what the number means.
_VERBS: Mapping[str, tuple[str, Callable[[Json], str], str]] = {
    DICE: (
        "agrees with the expert's drawing",
        lambda at: f"by {at['value']:.2f}",
        " (Dice, 1 is identical)",
    ),
    BALANCED: (
        "is right",
        lambda at: f"for {at['value']:.0%}",
        " of them, with every class counting the same",
    ),
}
