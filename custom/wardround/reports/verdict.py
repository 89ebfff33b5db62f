"""Which model should a hospital deploy, and did joining help it?

Models are chosen on VALIDATION; test numbers only report. The rule is the
one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees,
section 3.4.3): the simplest model within one standard error of the best. A job may name
another rule (choice.py), which the site applies to its own scores per patient.

Nothing is recommended below a floor. The lower end of the interval of the chosen model
on test must be above chance (balanced accuracy 1 / classes, AUROC 0.5), or above the
least Dice that the job calls usable. The floor chooses nothing: it only withholds, and
the site itself says one word of it, so that nothing about few test patients leaves with
it.

Deviation: sites send means, so the standard error takes an assumed spread between two
  models on a patient: 0.05 Dice; 0.35 for balanced accuracy (one patient in eight
  classified differently).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import counted
from wardround.messages.allowed_names import CANDIDATES
from wardround.reports.intervals import count_of_cases

NAMES = {
    "local": "local",
    "fedavg": "FedAvg",
    "fedavg_finetuned": "FedAvg + fine-tuning",
    "personalised": "personalised",
    "interpolated": "interpolated",
    "blend": "blend",
    "warm_start": "warm start, nothing private released",
}
SPOKEN = {
    "local": "your own local model",
    "fedavg": "the shared FedAvg model",
    "fedavg_finetuned": "the FedAvg model with fine-tuning",
    "personalised": "the personalised model",
    "interpolated": "the interpolated model (weights between the shared and the fine-tuned ones)",
    "blend": "the blend of your own local model and a shared one",
    "warm_start": "the first weights, of which nothing private was released",
}
DICE, BALANCED = "Dice", "balanced accuracy"
SPREAD = {DICE: 0.05, BALANCED: 0.35}
MAIN = {DICE: "dice_mean", BALANCED: "balanced_accuracy"}
LEAST_MARGIN = 0.005
LEAST_DICE = 0.3
CHANCE_AUROC = 0.5
FEW = "The scores are over few patients (n < 5, or the hospital's own number): not reported"
NOT_HELPED = "joining did not help you"


@dataclass(frozen=True)
class Verdict:
    """The advice to one hospital.

    deploy: the model to deploy, or None.
    kind: `helped` (interval above 0), `chance` (gain above 0, interval not),
      `not_helped`, `unusable` or `unknown`.
    advice: the verdict in one or two sentences.
    """

    deploy: str | None
    kind: str
    advice: str


def score_of(candidates: Mapping[str, Any]) -> str:
    """Return the score by which these candidates are compared: balanced accuracy where
    a test has it, else Dice.
    """
    tests = ((candidate or {}).get("test") or {} for candidate in candidates.values())
    return BALANCED if any(MAIN[BALANCED] in test for test in tests) else DICE


def margin(cases: int, score: str = DICE) -> float:
    """Return what a less simple model must gain on validation: max(0.005, spread /
    sqrt(cases)); without cases it is inf.
    """
    return max(LEAST_MARGIN, SPREAD[score] / math.sqrt(cases)) if cases > 0 else math.inf


def choose(val: Mapping[str, float | None], cases: int, score: str = DICE) -> str:
    """Return the first model, in the order of CANDIDATES, whose validation score is
    within margin(cases) of the best.

    val: the validation score of each model; None or NaN leaves a model out.
    cases: the number of validation cases; 0 gives the simplest model.

    No score at all, and an unknown model, are refused with ConfigRefused.
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
    "The hospital's own report (site_report.html) names the model to deploy: under differential privacy that choice does not "
    "leave the hospital.",
)


def floors(
    classes: int | None = None,
    least_dice: float = LEAST_DICE,
) -> dict[str, float]:
    """Return what the lower end of the interval of each test metric must exceed.

    classes: the number of classes, or None where it is not known.
    """
    return {MAIN[DICE]: least_dice, "auroc": CHANCE_AUROC} | ({MAIN[BALANCED]: 1 / classes} if classes else {})


def is_usable(test: Mapping[str, Any], least: Mapping[str, float]) -> bool | None:
    """Return whether every metric that has a floor is above it, or None where no such
    metric is known.

    Where the interval has no width, the metric's value counts instead.
    """
    found = {name: test.get(name) or {} for name in least}
    known = {name: at for name, at in found.items() if at.get("value") is not None}
    return all(_lower(at) > least[name] for name, at in known.items()) if known else None


def judge(
    candidates: Mapping[str, Any],
    chosen: str | None,
    usable: bool | None = None,
    least: Mapping[str, float] | None = None,
) -> Verdict:
    """Return the verdict for the chosen model.

    chosen: the model's name. None, or a name that is not among the candidates, gives
      `unknown`, and nothing is recommended.
    usable: what the site said about the floor; None uses its test numbers. A model that
      is not usable is not recommended.
    least: the floors, as `floors` gives them.

    The local model gives `not_helped`. For any other model the gain over local on test
    decides or, where it is missing, the difference of the two test means without an
    interval: `helped` for an interval above 0, `chance` for another gain above 0,
    `not_helped` otherwise, and `unknown` where neither is known.
    """
    candidate = candidates.get(chosen) if chosen is not None else None
    if chosen is None or candidate is None:
        return Verdict(
            None,
            "unknown",
            "No model can be recommended: no evaluated model came back from this hospital.",
        )
    least = floors() if least is None else least
    if usable is None:
        usable = is_usable(candidate.get("test") or {}, least)
    if usable is False:
        return Verdict(None, "unusable", _why_unusable(candidates, chosen, least))
    few = "" if candidate else f" {FEW}."
    if chosen == "local":
        return Verdict(
            chosen,
            "not_helped",
            f"Deploy {SPOKEN[chosen]}: {_why_local(candidates)}, so {NOT_HELPED}.{few}",
        )
    score, model = (
        score_of(candidates),
        SPOKEN[chosen] + _steps(chosen, candidate.get("k")),
    )
    if few:
        advice = f"Deploy {model}: the validation patients of this hospital chose it.{few} Its own report says what it gains."
        return Verdict(chosen, "unknown", advice)
    gain = candidate.get("gain") or _difference_of_means(candidates, chosen)
    if gain is None or gain.get("value") is None:
        advice = (
            f"Deploy {model}. It could not be compared with a local model on test: whether joining helped is unknown."
        )
        return Verdict(chosen, "unknown", advice)
    value, cases = float(gain["value"]), gain.get("cases")
    where = f"On {counted(cases, 'test patient')}" if cases else "On the test patients"
    if value > 0:
        helped = gain.get("low") is not None and gain["low"] > 0
        advice = f"Deploy {model}. {where} it gains {value:.3f} {score} over {SPOKEN['local']} ({_bounds(gain)})."
        return Verdict(chosen, "helped" if helped else "chance", advice)
    advice = (
        f"Validation chose {model}: deploy it only after comparing it with {SPOKEN['local']} on recent patients. "
        f"{where} it changes {score} by {value:+.3f} against {SPOKEN['local']} ({_bounds(gain)}): {NOT_HELPED}."
    )
    return Verdict(chosen, "not_helped", advice)


def _lower(at: Mapping[str, Any]) -> float:
    """Return the lower end of an interval, or the value where there is no interval, or
    one without width.
    """
    low, high = at.get("low"), at.get("high")
    return float(at["value"] if low is None or high is None or low == high else low)


def _why_unusable(
    candidates: Mapping[str, Any],
    chosen: str,
    least: Mapping[str, float],
) -> str:
    test = (candidates[chosen] or {}).get("test") or {}
    first = "No model here is usable yet: train longer, or with more patients."
    below = [name for name, floor in least.items() if (test.get(name) or {}).get("value") is not None]
    below = [name for name in below if _lower(test[name]) <= least[name]]
    few = "" if candidates[chosen] else f" {FEW}."
    if not below:
        return f"{first} The best of them on validation, {SPOKEN[chosen]}, is not above the floor on test.{few}"
    words = " and ".join(
        f"{_METRIC[name]} {test[name]['value']:.3f} ({_floor_words(test[name], least[name])})" for name in below
    )
    cases = test[below[0]].get("cases")
    where = f"On {counted(cases, 'test patient')}" if cases else "On the test patients"
    return f"{first} {where} the best of them, {SPOKEN[chosen]}, has {words}."


_METRIC = {MAIN[DICE]: "Dice", MAIN[BALANCED]: "balanced accuracy", "auroc": "AUROC"}


def _floor_words(at: Mapping[str, Any], floor: float) -> str:
    lower = _lower(at)
    what = "that" if lower == at["value"] else f"even the lower end of its interval, {lower:.3f},"
    return f"{what} would have to be above {floor:.3f}"


def _why_local(candidates: Mapping[str, Any]) -> str:
    others = [candidates.get(name) for name in CANDIDATES[1:]]
    if any(one == {} or (one and (one.get("val") is not None or one.get("test"))) for one in others):
        return "no shared model was better by a clear margin on your validation patients"
    return "no shared model was evaluated here"


def _steps(chosen: str, steps: int | None) -> str:
    if not steps or chosen in ("fedavg", "blend"):
        return ""
    return " (1 fine-tuning step)" if steps == 1 else f" ({steps} fine-tuning steps)"


def _bounds(gain: Mapping[str, Any]) -> str:
    """Return the interval in words, with the doubt that it leaves."""
    low = gain.get("low")
    high = gain.get("high")
    cases = gain.get("cases")
    if low is None or high is None or low == high:
        return (
            f"{count_of_cases(cases)}: no interval; this could be chance"
            if cases
            else "no interval; this could be chance"
        )
    words = f"95 % interval {low:+.3f} to {high:+.3f}"
    return f"{words}; the interval includes 0: this could be chance" if low <= 0 <= high else words


def _difference_of_means(
    candidates: Mapping[str, Any],
    chosen: str,
) -> dict[str, Any] | None:
    """Return chosen minus local on test, without interval, where both means are known
    for equally many cases.
    """
    key = MAIN[score_of(candidates)]
    tests = [((candidates.get(name) or {}).get("test") or {}).get(key) or {} for name in (chosen, "local")]
    mine, local = tests
    if mine.get("value") is None or local.get("value") is None or mine.get("cases") != local.get("cases"):
        return None
    return {
        "value": mine["value"] - local["value"],
        "low": None,
        "high": None,
        "cases": mine.get("cases"),
    }
