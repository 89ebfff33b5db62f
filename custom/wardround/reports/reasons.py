"""What is deployed at a hospital, and why? In one sentence, for people.

The reason is always the score on validation patients, which made the choice. What the
chosen model gains on test is the verdict's to say (verdict.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround.messages.allowed_names import CANDIDATES
from wardround.reports.verdict import SPOKEN, score_of

LOCAL = CANDIDATES[0]
_UNSURE = " (more, but so few patients do not show that it is better)"


def reason(
    candidates: Mapping[str, Any],
    chosen: str | None,
    patients: int | None,
    mixed: Mapping[str, Any] | None = None,
) -> str:
    """Return the sentence; "" where no candidate was chosen, or its validation score is
    not known.

    candidates: What the site reported of each one, with its validation score `val`.
    patients: The number of validation patients, None where it is withheld.
    mixed: At the site, {"share", "of"} of the chosen blend or interpolated model.
    """
    scored = {name: one["val"] for name, one in candidates.items() if one and one.get("val") is not None}
    if chosen not in scored:
        return ""
    score = score_of(candidates)
    count = "the" if patients is None else f"the {patients}" if patients != 1 else "the one"
    where = f"on {count} validation patient{'' if patients == 1 else 's'} of this hospital"
    # The model chosen and, beside it, the best of all others.
    rivals = sorted((name for name in scored if name != chosen), key=lambda name: -scored[name])
    others = [name for name in dict.fromkeys((LOCAL, _of(mixed), *rivals[:1])) if name in scored and name != chosen]
    compared = " and ".join(
        f"{_short(name)} scored {scored[name]:.3f}" + (_UNSURE if scored[name] > scored[chosen] else "")
        for name in others
    )
    words = f"Deployed is {_what(chosen, candidates[chosen], mixed)}, because {where} it scored {scored[chosen]:.3f} {score}"
    words += f"; {compared}" if compared else ", and nothing else was compared"
    return f"{words}."


def _what(name: str, candidate: Mapping[str, Any], mixed: Mapping[str, Any] | None) -> str:
    """Return what a model is, with what the site knows of how it was mixed."""
    steps = candidate.get("k")
    tuned = f", trained for {steps} more step{'s' * (steps != 1)} on this hospital's patients" if steps else ""
    share = (mixed or {}).get("share")
    if name == "blend":
        of = _short(_of(mixed)) if _of(mixed) else "a shared one"
        parts = "" if share is None else f" ({share:.0%} and {1 - share:.0%} of the probabilities)"
        return f"a mean of this hospital's own model and {of}{parts}"
    if name == "interpolated":
        parts = "" if share is None else f" ({1 - share:.0%} and {share:.0%})"
        return f"one model with weights between the shared ones and the fine-tuned ones{parts}"
    return _short(name) + (tuned if name != LOCAL else "")


def _of(mixed: Mapping[str, Any] | None) -> str | None:
    """Return the candidate that is in a blend; None where it is not known."""
    found = (mixed or {}).get("of")
    return found if found in CANDIDATES else None


def _short(name: str | None) -> str:
    words = SPOKEN.get(str(name), "another model")
    return words.partition(" (")[0].replace("your own", "this hospital's own")
