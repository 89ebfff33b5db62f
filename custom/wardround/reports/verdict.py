"""Which model a hospital should deploy, and whether joining helped it.

Chosen on VALIDATION; test numbers only report. The rule is the one-standard-error rule (Breiman et al. 1984,
Classification and Regression Trees, section 3.4.3): the simplest model within one standard error of the best.
Deviation: sites send means, so the standard error takes an assumed spread between two models on a patient: 0.05 Dice; 0.35
for balanced accuracy (one patient in eight judged differently).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.errors import ConfigRefused
from wardround.reports.intervals import count_of_cases

CANDIDATES = ("local", "fedavg", "fedavg_finetuned", "personalised")
NAMES = {
    "local": "local",
    "fedavg": "FedAvg",
    "fedavg_finetuned": "FedAvg + fine-tuning",
    "personalised": "personalised",
}
_SPOKEN = {
    "local": "your own local model",
    "fedavg": "the shared FedAvg model",
    "fedavg_finetuned": "the FedAvg model with fine-tuning",
    "personalised": "the personalised model",
}
DICE, BALANCED = "Dice", "balanced accuracy"
SPREAD = {DICE: 0.05, BALANCED: 0.35}
MAIN = {DICE: "dice_mean", BALANCED: "balanced_accuracy"}
LEAST_MARGIN = 0.005
NOT_HELPED = "joining did not help you"


@dataclass(frozen=True)
class Verdict:
    """kind: `helped` (interval above 0), `chance` (gain above 0, interval not), `not_helped` or `unknown`."""

    deploy: str | None
    kind: str
    advice: str


def score_of(candidates: Mapping[str, Any]) -> str:
    """Return what these candidates are compared by: balanced accuracy where a test says it, else Dice."""
    tests = ((candidate or {}).get("test") or {} for candidate in candidates.values())
    return BALANCED if any(MAIN[BALANCED] in test for test in tests) else DICE


def margin(cases: int, score: str = DICE) -> float:
    """Return what a less simple model must gain on validation: max(0.005, spread / sqrt(cases)), no case: inf."""
    return max(LEAST_MARGIN, SPREAD[score] / math.sqrt(cases)) if cases > 0 else math.inf


def choose(val: Mapping[str, float | None], cases: int, score: str = DICE) -> str:
    """Return the first model, in the order of CANDIDATES, whose validation score is within margin(cases) of the best.

    None or NaN: that model is left out | cases == 0: the simplest model | no score, or an unknown model: ConfigRefused
    """
    unknown = sorted(set(val) - set(CANDIDATES))
    scores = {name: float(score) for name, score in val.items() if score is not None and math.isfinite(score)}
    if unknown or not scores:
        raise ConfigRefused(
            "a choice between models",
            found=f"unknown models {unknown}" if unknown else "no validation score",
            expected=f"a validation score of at least one of {', '.join(CANDIDATES)}",
            fix="evaluate the models on the validation patients of this site first",
        )
    enough = max(scores.values()) - margin(cases, score)
    return next(name for name in CANDIDATES if name in scores and scores[name] >= enough)


STAYS = Verdict(
    None,
    "unknown",
    "The hospital's own report names the model to deploy: under differential privacy that choice does not leave it.",
)


def sentence(site: str, candidates: Mapping[str, Any], chosen: str | None) -> str:
    """Return the verdict of one hospital in plain words; `candidates` as in report.json, final -> site."""
    return f"{site}: {judge(candidates, chosen).advice}"


def judge(candidates: Mapping[str, Any], chosen: str | None) -> Verdict:
    """Return the verdict for the chosen model.

    chosen None or not among the candidates: unknown, nothing is recommended | local: not_helped
    gain over local on test (or, where it is missing, the difference of the two test means, without interval):
    unknown: said so | <= 0: not_helped | > 0 and interval above 0: helped | > 0 otherwise: chance
    """
    candidate = candidates.get(chosen) if chosen is not None else None
    if chosen is None or candidate is None:
        return Verdict(None, "unknown", "No model can be recommended: no evaluated model came back from this hospital.")
    if chosen == "local":
        return Verdict(chosen, "not_helped", f"Deploy {_SPOKEN[chosen]}: {_why_local(candidates)}, so {NOT_HELPED}.")
    score, model = score_of(candidates), _SPOKEN[chosen] + _steps(chosen, candidate.get("k"))
    gain = candidate.get("gain") or _difference_of_means(candidates, chosen)
    if gain is None or gain.get("value") is None:
        advice = (
            f"Deploy {model}. It could not be compared with a local model on test: whether joining helped is unknown."
        )
        return Verdict(chosen, "unknown", advice)
    value, cases = float(gain["value"]), gain.get("cases")
    where = f"On {count_of_cases(cases)} of the test split" if cases else "On the test split"
    if value > 0:
        helped = gain.get("low") is not None and gain["low"] > 0
        advice = f"Deploy {model}. {where} it gains {value:.3f} {score} over {_SPOKEN['local']} ({_bounds(gain)})."
        return Verdict(chosen, "helped" if helped else "chance", advice)
    advice = (
        f"Validation chose {model}: deploy it only after comparing it with {_SPOKEN['local']} on recent cases. "
        f"{where} it changes {score} by {value:+.3f} against {_SPOKEN['local']} ({_bounds(gain)}): {NOT_HELPED}."
    )
    return Verdict(chosen, "not_helped", advice)


def _why_local(candidates: Mapping[str, Any]) -> str:
    if any((candidates.get(name) or {}).get("val") is not None for name in CANDIDATES[1:]):
        return "no shared model was better by a clear margin on your validation cases"
    return "no shared model was evaluated here"


def _steps(chosen: str, steps: int | None) -> str:
    if not steps or chosen == "fedavg":
        return ""
    return " (1 fine-tuning step)" if steps == 1 else f" ({steps} fine-tuning steps)"


def _bounds(gain: Mapping[str, Any]) -> str:
    """Return the interval in words, with the doubt that it leaves."""
    low, high, cases = gain.get("low"), gain.get("high"), gain.get("cases")
    if low is None or high is None:
        return (
            f"{count_of_cases(cases)}: no interval; this could be chance"
            if cases
            else "no interval; this could be chance"
        )
    words = f"95 % interval {low:+.3f} to {high:+.3f}"
    return f"{words}; the interval includes 0: this could be chance" if low <= 0 <= high else words


def _difference_of_means(candidates: Mapping[str, Any], chosen: str) -> dict[str, Any] | None:
    """Return chosen minus local on test, without interval, when both means are known for equally many cases."""
    key = MAIN[score_of(candidates)]
    tests = [((candidates.get(name) or {}).get("test") or {}).get(key) or {} for name in (chosen, "local")]
    mine, local = tests
    if mine.get("value") is None or local.get("value") is None or mine.get("cases") != local.get("cases"):
        return None
    return {"value": mine["value"] - local["value"], "low": None, "high": None, "cases": mine.get("cases")}
