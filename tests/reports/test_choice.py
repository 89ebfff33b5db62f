"""Each rule by hand: which model few validation patients choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.reports.choice import PRIOR_PATIENTS, RULES, choose_by, paired_error
from wardround.reports.verdict import BALANCED, choose


@dataclass(frozen=True)
class Row:
    """One model's validation scores."""

    patients: tuple[float, ...]

    @property
    def value(self) -> float:
        return sum(self.patients) / len(self.patients)


def rows(**models: Sequence[float]) -> Mapping[str, Row]:
    return {name: Row(tuple(values)) for name, values in models.items()}


def test_the_rule_that_was_there_is_unchanged() -> None:
    for models in (
        rows(local=(0.6, 0.6), fedavg=(0.62, 0.63)),
        rows(local=(0.6, 0.6), fedavg=(0.7, 0.7), personalised=(0.71, 0.71)),
        rows(local=(0.9,), fedavg=(0.2,)),
    ):
        count = len(next(iter(models.values())).patients)
        means = {name: one.value for name, one in models.items()}
        assert choose_by("one_standard_error", models) == choose(means, count)


def test_paired_error_by_hand() -> None:
    """Differences .1, .3: mean .2, squares .02; moderated with four patients of spread .05."""
    (one, other) = rows(a=(0.5, 0.9), b=(0.4, 0.6)).values()
    variance = (PRIOR_PATIENTS * 0.05**2 + 0.02) / (PRIOR_PATIENTS + 1)
    assert paired_error(one, other, 0.05) == pytest.approx(math.sqrt(variance / 2))
    assert paired_error(one, one, 0.05) < 0.05
    (first, second) = rows(a=(0.5,), b=(0.4,)).values()
    assert paired_error(first, second, 0.05) == pytest.approx(0.05), "one patient shows no spread: the assumed one"


def test_best_takes_the_best_mean_and_the_simplest_of_equal_ones() -> None:
    assert choose_by("best", rows(local=(0.5, 0.5), fedavg=(0.5, 0.6), blend=(0.6, 0.6))) == "blend"
    assert choose_by("best", rows(blend=(0.6, 0.5), fedavg=(0.5, 0.6), local=(0.5, 0.5))) == "fedavg"


def test_paired_sees_a_small_gain_that_every_patient_has() -> None:
    """The same mean gain: on every patient alike it is believed, from a lucky and an unlucky patient it is not."""
    local = [0.3, 0.5, 0.7, 0.4, 0.6, 0.5, 0.2, 0.8] * 3
    alike = rows(local=local, fedavg=[one + 0.012 for one in local])
    lucky = rows(local=local, fedavg=[local[0] + 0.388, local[1] - 0.1, *local[2:]])
    for models in (alike, lucky):
        assert models["fedavg"].value - models["local"].value == pytest.approx(0.012)
    assert choose_by("paired", alike) == "fedavg"
    assert choose_by("paired", lucky) == "local"


def test_shrunk_prefers_the_surer_gain() -> None:
    """The blend gains a little less than the shared model, but alike on all patients."""
    models = rows(local=(0.5,) * 4, fedavg=(0.9, 0.3, 0.8, 0.25), blend=(0.55, 0.56, 0.55, 0.56))
    assert models["fedavg"].value > models["blend"].value
    assert choose_by("best", models) == "fedavg"
    assert choose_by("shrunk", models) == "blend"


def test_shrunk_takes_local_only_where_nothing_gains() -> None:
    assert choose_by("shrunk", rows(local=(0.5, 0.5), fedavg=(0.4, 0.5), blend=(0.5, 0.49))) == "local"
    assert choose_by("shrunk", rows(local=(0.5, 0.5), fedavg=(0.5, 0.5))) == "local"
    assert choose_by("shrunk", rows(fedavg=(0.4, 0.5), personalised=(0.5, 0.5))) == "personalised"


def test_cautious_wants_a_gain_beyond_half_its_error_and_trusts_a_sure_blend_sooner() -> None:
    """Four patients alike: the error is that of the assumed spread, sqrt(4 * .05^2 / 7 / 4) = .0189, half of it .0094."""
    for gain, chosen in ((0.009, "local"), (0.010, "fedavg")):
        assert choose_by("cautious", rows(local=(0.5,) * 4, fedavg=(0.5 + gain,) * 4)) == chosen
    unsure = rows(local=(0.5,) * 4, fedavg=(0.9, 0.3, 0.8, 0.24), blend=(0.55,) * 4)
    assert unsure["fedavg"].value > unsure["blend"].value
    assert choose_by("cautious", unsure) == "blend"
    assert choose_by("cautious", rows(fedavg=(0.4, 0.5), personalised=(0.5, 0.5))) == "personalised"


def test_hedged_takes_the_blend_where_the_others_are_within_chance() -> None:
    unsure = rows(local=(0.5, 0.6), fedavg=(0.52, 0.59), blend=(0.4, 0.4))
    assert choose_by("hedged", unsure) == "blend"
    assert choose_by("hedged", rows(local=(0.5, 0.6), fedavg=(0.7, 0.8), blend=(0.6, 0.7))) == "fedavg"
    assert choose_by("hedged", rows(local=(0.7, 0.8), fedavg=(0.5, 0.6), blend=(0.6, 0.7))) == "local"
    # The error of two patients alike is sqrt(4 * .05^2 / 5 / 2) = .0316: leaving the blend for another model takes two of them.
    for gain, chosen in ((0.06, "blend"), (0.065, "fedavg"), (-0.03, "blend"), (-0.035, "local")):
        other = (0.5 + gain,) * 2
        assert choose_by("hedged", rows(local=(0.5,) * 2, fedavg=other, blend=(0.5 + gain - 0.001,) * 2)) == chosen
    without = rows(local=(0.5, 0.6), fedavg=(0.52, 0.59))
    assert choose_by("hedged", without) == choose_by("shrunk", without)


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_depends_on_the_order_of_the_models(rule: str) -> None:
    models = rows(local=(0.5, 0.4, 0.6), fedavg=(0.6, 0.5, 0.6), personalised=(0.7, 0.4, 0.6), blend=(0.6, 0.5, 0.6))
    assert choose_by(rule, models) == choose_by(rule, dict(reversed(models.items())))
    assert choose_by(rule, models, BALANCED) in models


@pytest.mark.parametrize(
    "models",
    [{}, rows(local=()), rows(local=(0.5,), fedavg=(0.5, 0.6)), rows(local=(math.nan,)), rows(local=(math.inf, 0.0))],
)
@pytest.mark.parametrize("rule", RULES)
def test_scores_that_do_not_fit_together_are_refused(rule: str, models: Mapping[str, Row]) -> None:
    if models and not next(iter(models.values())).patients:
        models = {"local": Empty()}  # type: ignore[dict-item]
    with pytest.raises(DataRefused, match="a choice between models"):
        choose_by(rule, models)


class Empty:
    value = 0.5
    patients: tuple[float, ...] = ()


def test_other_models_and_rules_are_refused() -> None:
    with pytest.raises(ConfigRefused, match="unknown models fedprox"):
        choose_by("best", rows(local=(0.5,), fedprox=(0.6,)))
    with pytest.raises(ConfigRefused, match="the rule by which"):
        choose_by("worst", rows(local=(0.5,)))
