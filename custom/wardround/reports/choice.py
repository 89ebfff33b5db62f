"""Which of the models that a hospital compared does it choose, and by which rule?

A rule sees one number per validation patient for each model, and never a test patient.
The site has these rows; the server has means only, and chooses by verdict.choose where
a site did not say.

| rule | the choice |
|---|---|
| one_standard_error | the simplest model within an ASSUMED standard error of the best |
| best | the model with the best mean |
| paired | the simplest model within a standard error of the best, which the |
|        | differences between the two models on the same patients give |
| shrunk | the model with the best mean gain over local, after each gain was shrunk |
|        | towards 0 by how unsure it is |
| cautious | the model whose gain over local is best after CAUTION paired standard |
|        | errors were taken from it |
| hedged | the blend, unless another model is better than local by more than BOLD |
|        | paired standard errors, or local better than all others by more than one |

The paired standard error is that of the mean difference of two models. With few patients
the spread of the differences is itself a guess, so it is moderated by the assumed one
(SPREAD of verdict.py), as if PRIOR_PATIENTS patients had shown that:

    s^2 = (PRIOR_PATIENTS s0^2 + sum (d - mean d)^2) / (PRIOR_PATIENTS + n - 1)

Sources: Breiman et al. 1984, section 3.4.3 (one standard error); Smyth 2004,
doi:10.2202/1544-6115.1027 (moderated variances); Morris 1983,
doi:10.1080/01621459.1983.10477920 (shrinking a mean by how unsure it is).
Deviations: 1. PRIOR_PATIENTS and PRIOR_GAIN are constants and not estimated, because a
hospital has one set of patients. Which rule loses least is measured in
benchmarks/verdict_rule.py. 2. Balanced accuracy is a mean over classes; its standard
error is computed as if the patients' parts were one sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.messages.allowed_names import CANDIDATES
from wardround.reports.verdict import DICE, LEAST_MARGIN, SPREAD, choose

PRIOR_PATIENTS = 4
# The spread of true gains between models, in units of the assumed spread on a patient:
# gains of .05 Dice are usual, of .15 are not.
PRIOR_GAIN = 1.0
CAUTION = 0.5
# A blend of half and half keeps half of what another model loses, so leaving it for
# another model asks for more evidence than going back to the own one.
BOLD = 2.0
LOCAL, BLEND = "local", "blend"


class Scored(Protocol):
    """The score of a model on validation.

    value: The mean.
    patients: One number per patient, whose mean is the value; the same patients in the
        same order for every model.
    """

    @property
    def value(self) -> float: ...

    @property
    def patients(self) -> Sequence[float]: ...


Rule = Callable[[Mapping[str, Scored], str], str]


def one_standard_error(models: Mapping[str, Scored], score: str) -> str:
    """Return the choice of verdict.choose."""
    return choose({name: one.value for name, one in models.items()}, _count(models), score)


def best(models: Mapping[str, Scored], score: str) -> str:
    """Return the model with the best mean; of equal ones the simplest."""
    return max(_in_order(models), key=lambda name: models[name].value)


def paired(models: Mapping[str, Scored], score: str) -> str:
    """Return the simplest model whose mean is within one paired standard error of the
    best model's, or within LEAST_MARGIN.
    """
    first = best(models, score)
    for name in _in_order(models):
        loss = models[first].value - models[name].value
        if loss <= max(LEAST_MARGIN, paired_error(models[first], models[name], SPREAD[score])):
            return name
    return first


def shrunk(models: Mapping[str, Scored], score: str) -> str:
    """Return the model whose gain over local is best after shrinking; local where no
    gain is above 0, or where no local model was scored: then it is `best`.
    """
    if LOCAL not in models:
        return best(models, score)
    local, spread = models[LOCAL], SPREAD[score]

    def gain(name: str) -> float:
        error = paired_error(models[name], local, spread)
        return (models[name].value - local.value) / (1 + (error / (PRIOR_GAIN * spread)) ** 2)

    return max(_in_order(models), key=gain)


def cautious(models: Mapping[str, Scored], score: str) -> str:
    """Return the model with the best lower bound of its gain over local, CAUTION paired
    standard errors below the mean; the bound of local is 0.

    Where no local model was scored it is `best`. A blend that follows the local model
    closely has a small error, so it is trusted sooner than another model.
    """
    if LOCAL not in models:
        return best(models, score)
    local = models[LOCAL]

    def bound(name: str) -> float:
        if name == LOCAL:
            return 0.0
        return models[name].value - local.value - CAUTION * paired_error(models[name], local, SPREAD[score])

    return max(_in_order(models), key=bound)


def hedged(models: Mapping[str, Scored], score: str) -> str:
    """Return the blend, unless the best other model is better than local by more than BOLD
    paired standard errors, or local is better than it by more than one.

    Where no local model or no blend was scored, it is `shrunk`.
    """
    if LOCAL not in models or BLEND not in models:
        return shrunk(models, score)
    local = models[LOCAL]
    others = {name: one for name, one in models.items() if name != LOCAL}
    other = best(others, score)
    gain = others[other].value - local.value
    error = paired_error(others[other], local, SPREAD[score])
    if gain > BOLD * error:
        return other
    return LOCAL if gain < -error else BLEND


RULES: Mapping[str, Rule] = {
    rule.__name__: rule for rule in (one_standard_error, best, paired, shrunk, cautious, hedged)
}


def choose_by(rule: str, models: Mapping[str, Scored], score: str = DICE) -> str:
    """Return the model that a rule chooses.

    rule: One of RULES, otherwise ConfigRefused is raised.
    models: What was scored on validation, by candidate.

    DataRefused is raised where there is no model or no patient, where a number is not
    finite, and where the models were scored on different numbers of patients.
    ConfigRefused is raised for a model that is no candidate.
    """
    require_rule(rule)
    counts = {len(one.patients) for one in models.values()}
    finite = all(math.isfinite(number) for one in models.values() for number in (one.value, *one.patients))
    if len(counts) != 1 or 0 in counts or not finite:
        raise DataRefused(
            "a choice between models",
            found=f"{len(models)} models, scored on {' and '.join(map(str, sorted(counts))) or 'no'} patients"
            + ("" if finite else ", with numbers that are not finite"),
            expected="finite scores of the same validation patients for every model",
            fix="score all models on the validation patients of this site",
        )
    if unknown := sorted(set(models) - set(CANDIDATES)):
        raise ConfigRefused(
            "a choice between models",
            found=f"unknown models {', '.join(unknown)}",
            expected=f"among {', '.join(CANDIDATES)}",
            fix="use the names of the candidates",
        )
    return RULES[rule](models, score)


def require_rule(rule: object) -> None:
    """Raise ConfigRefused unless this is the name of a rule."""
    if rule not in RULES:
        raise ConfigRefused(
            "the rule by which a model is chosen",
            found=repr(rule),
            expected=f"one of {', '.join(RULES)}",
            fix="--set model_selection.rule=cautious",
        )


def paired_error(one: Scored, other: Scored, spread: float) -> float:
    """Return the standard error of the mean difference of two models on the same
    patients, moderated as the docstring of this file says.

    spread: The assumed spread of the differences on one patient.
    """
    differences = [a - b for a, b in zip(one.patients, other.patients, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    squares = sum((each - mean) ** 2 for each in differences)
    variance = (PRIOR_PATIENTS * spread**2 + squares) / (PRIOR_PATIENTS + count - 1)
    return math.sqrt(variance / count)


def _in_order(models: Mapping[str, Scored]) -> list[str]:
    """Return the names of the models, the simplest first."""
    return [name for name in CANDIDATES if name in models]


def _count(models: Mapping[str, Scored]) -> int:
    return len(next(iter(models.values())).patients)
