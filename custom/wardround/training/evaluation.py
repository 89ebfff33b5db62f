"""How does one hospital evaluate and select among the models it could deploy?

The candidates are local, FedAvg, FedAvg with fine-tuning, and personalised; where the
job asks for them also two that cost no training:

    interpolated  one network with weights (1 - a) w_shared + a w_finetuned, of the arm
                  where that is best
    blend         two networks: p = a p_own + (1 - a) p_shared, of the local model and
                  the best of the candidates that were trained with others

Beside them, where private steps were taken from public weights, these weights as they
were: what nothing was released for. They are scored and never deployed.

Every choice is made on validation patients (the number of fine-tuning steps, a, the
model to deploy); the test patients are scored once, at the end. Only means, intervals
and counts may leave (`Evaluation.numbers`). Rows per patient, a, and which models were
mixed stay at the site.

Sources: Wortsman et al. 2022, arXiv:2109.01903 (weights between zero-shot and
fine-tuned ones); Deng et al. 2020, arXiv:2003.13461 (a mix of the local and the shared
model). Deviations: 1. The latter learns a during training and mixes weights; here a is
one of a few numbers, and probabilities are mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from wardround.algorithms.base import Steps
from wardround.algorithms.federation import local_only
from wardround.algorithms.finetune import fine_tune
from wardround.algorithms.schedule import Schedule
from wardround.core.errors import ConfigRefused
from wardround.reports.choice import choose_by, require_rule
from wardround.reports.verdict import LEAST_DICE, floors, is_usable, score_of
from wardround.training.mixture import Mixture, Model, ValidationScore
from wardround.training.task import Rows, TaskSite

# The arm, and the candidate, that is the public first weights as they were.
WARM_START = "warm_start"


@dataclass(frozen=True)
class ModelSelection:
    """Fine-tuning that is offered to every model alike, and the least useful Dice.

    steps: The numbers of SGD steps to choose from on validation; 0 must be among them.
    lr: The learning rate of these steps.
    least_dice: A model is usable only if the lower end of its test interval is above
        this. For classes, chance is used instead.
    blend: The shares of the local model to choose from, each above 0 and below 1; none
        means that there is no such candidate.
    interpolate: The same for the fine-tuned weights.
    rule: By which rule the model to deploy is chosen (reports/choice.py).
    largest_component: Whether a candidate keeps only the largest part of a region where
        that raises its Dice on validation (component_choice.py).
    least_volume: Whether a candidate drops a region below a limit that does no harm on
        validation (component_choice.py).

    Values outside their ranges raise ConfigRefused.
    """

    steps: Sequence[int]
    lr: float
    least_dice: float = LEAST_DICE
    blend: Sequence[float] = ()
    interpolate: Sequence[float] = ()
    rule: str = "one_standard_error"
    largest_component: bool = False
    least_volume: bool = False

    def __post_init__(self) -> None:
        steps_fit = 0 in self.steps and len(self.steps) >= 2 and min(self.steps) >= 0
        if not (steps_fit and 0 < self.lr < 10 and 0 <= self.least_dice < 1):
            raise ConfigRefused(
                "the fine-tuning choices",
                found=f"steps {list(self.steps)}, lr {self.lr}, least_dice {self.least_dice}",
                expected="0 and at least one positive number of steps, 0 < lr < 10, least_dice from 0 to below 1",
                fix="for example --set model_selection.steps=[0,1,5,20] --set model_selection.lr=0.01",
            )
        for name in ("blend", "interpolate"):
            shares = getattr(self, name)
            if isinstance(shares, str) or not all(_is_share(share) for share in shares):
                raise ConfigRefused(
                    f"the shares of model_selection.{name}",
                    found=str(list(shares)),
                    expected="numbers above 0 and below 1, or an empty list; 0 and 1 are candidates anyway",
                    fix=f"--set model_selection.{name}=[0.25,0.5,0.75]",
                )
        require_rule(self.rule)


@dataclass(frozen=True)
class Candidate:
    """One model that a hospital could deploy.

    k: The fine-tuning steps; of a blend, those of the shared model in it.
    score: Its score on validation.
    share: Of a blend the share of the local model, of interpolated weights that of the
        fine-tuned ones; None for any other model.
    of: The shared model in it: of a blend a candidate, of interpolated weights an arm.
    """

    k: int
    score: ValidationScore
    model: Model
    share: float | None = None
    of: str | None = None

    @property
    def val(self) -> float:
        return self.score.value


@dataclass(frozen=True)
class Evaluation:
    """The result of one hospital's evaluation.

    numbers: Means, intervals and counts, which may leave the site.
    rows: The scores per patient and candidate, which stay.
    weights: The candidates' weights, which stay.
    floors: What the lower end of each test metric's interval must be above.
    mixed: {"share", "of", "k"} of the blend and of the interpolated model, which stay.
    """

    numbers: dict[str, Any]
    rows: Mapping[str, Rows]
    weights: Mapping[str, Model]
    floors: Mapping[str, float] = field(default_factory=dict)
    mixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def evaluate(
    site: TaskSite,
    arms: Mapping[str, Tensor],
    initial: Tensor,
    schedule: Schedule,
    model_selection: ModelSelection,
) -> Evaluation:
    """Evaluate every candidate that `arms` allows.

    arms: The models by name. "fedavg" gives the candidates fedavg and fedavg_finetuned;
        "personalised" gives personalised. WARM_START is scored as it is, and is not
        among the models to deploy.
    initial: Where the local baseline starts. It does the same work on the same schedule
        as the federation, alone.
    """
    picked = candidates_on_validation(site, arms, initial, schedule, model_selection)
    rows = site.rows_of({name: one.model for name, one in picked.items()}, site.split.test)
    candidates = {
        name: {
            "k": one.k,
            "val": one.val,
            "test": site.summary(rows[name]),
            "gain": None if name == "local" else site.gain(rows[name], rows["local"]),
        }
        for name, one in picked.items()
    }
    deploy = choose_by(
        model_selection.rule,
        {name: one.score for name, one in picked.items() if name != WARM_START},
        score_of(candidates),
    )
    # The test patients say whether the choice is good enough for anybody. They do not change the choice.
    least = floors(_classes(rows[deploy]), model_selection.least_dice)
    usable = is_usable(site.summary(rows[deploy]), least) is not False
    return Evaluation(
        {"candidates": candidates, "deploy": deploy, "usable": usable},
        rows,
        {name: one.model for name, one in picked.items()},
        least,
        {name: {"share": one.share, "of": one.of, "k": one.k} for name, one in picked.items() if one.share is not None},
    )


def candidates_on_validation(
    site: TaskSite,
    arms: Mapping[str, Tensor],
    initial: Tensor,
    schedule: Schedule,
    model_selection: ModelSelection,
) -> dict[str, Candidate]:
    """Return every candidate, tuned and mixed on validation patients alone.

    The arguments are those of `evaluate`. No test patient is read here.
    """
    # The local baseline draws from a stream of its own, so that nothing in the
    # federation depends on it.
    local = local_only(site.objective("local"), schedule, initial)
    picked = {"local": Candidate(0, site.validation_scores({"": local}, site.split.val)[""], local)}
    tuned = {arm: fine_tuned(site, w, model_selection) for arm, w in arms.items() if arm != WARM_START}
    for arm, options in tuned.items():
        if arm == "fedavg":
            # The first is the model after 0 steps, which ModelSelection requires.
            picked["fedavg"] = options[0]
            picked["fedavg_finetuned"] = max(options[1:], key=lambda option: option.val)
        else:
            picked["personalised"] = max(options, key=lambda option: option.val)
    trained = {name: one for name, one in picked.items() if name != "local"}
    if model_selection.interpolate and tuned:
        found = [interpolated(site, arm, options, model_selection.interpolate) for arm, options in tuned.items()]
        picked["interpolated"] = max(found, key=lambda option: option.val)
    if model_selection.blend and trained:
        picked["blend"] = blended(site, picked["local"], trained, model_selection.blend)
    if (first := arms.get(WARM_START)) is not None:
        picked[WARM_START] = Candidate(0, site.validation_scores({"": first}, site.split.val)[""], first)
    filters = {"largest": model_selection.largest_component, "least_volume": model_selection.least_volume}
    if any(filters.values()):
        better = site.postprocessed({name: one.model for name, one in picked.items()}, site.split.val, **filters)
        picked |= {name: replace(picked[name], model=model, score=score) for name, (model, score) in better.items()}
    return picked


def interpolated(site: TaskSite, arm: str, options: Sequence[Candidate], shares: Sequence[float]) -> Candidate:
    """Return the best model on validation between the weights of an arm and its best
    fine-tuned weights; of equally good ones the first share.

    options: What `fine_tuned` returned for the arm, 0 steps first.
    shares: The shares of the fine-tuned weights to try.
    """
    start, end = options[0], max(options[1:], key=lambda option: option.val)
    models = {str(n): _between(start.model, end.model, share) for n, share in enumerate(shares)}
    scores = site.validation_scores(models, site.split.val)
    name = max(models, key=lambda one: scores[one].value)
    return Candidate(end.k, scores[name], models[name], shares[int(name)], arm)


def blended(site: TaskSite, local: Candidate, trained: Mapping[str, Candidate], shares: Sequence[float]) -> Candidate:
    """Return the best blend on validation of the local model and the best of the others;
    of equally good ones the first share.

    trained: The candidates that were trained with others.
    shares: The shares of the local model to try. All of them are scored with one pass
        of each of the two networks.
    """
    of = max(trained, key=lambda one: trained[one].val)
    pair = (_weights(local.model), _weights(trained[of].model))
    models = {str(n): Mixture(pair, (share, 1 - share)) for n, share in enumerate(shares)}
    scores = site.validation_scores(models, site.split.val)
    name = max(models, key=lambda one: scores[one].value)
    return Candidate(trained[of].k, scores[name], models[name], shares[int(name)], of)


def spoken(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation in a few words, for the site's log."""
    return (
        f"{'no model is usable yet, the best is' if numbers.get('usable') is False else 'deploy'} {numbers['deploy']}"
    )


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def _weights(model: Model) -> Tensor:
    """Return the weights of a model that is no mixture."""
    if not isinstance(model, Tensor):
        raise ConfigRefused(
            "a part of a mixture",
            found=f"a {type(model).__name__.lower()}",
            expected="the weights of one network",
            fix="mix the models that were trained",
        )
    return model


def _between(start: Model, end: Model, share: float) -> Tensor:
    """Return (1 - share) start + share end."""
    return (1 - share) * _weights(start) + share * _weights(end)


def _classes(rows: Rows) -> int | None:
    """Return how many classes the test patients have; None for segmentation."""
    return len({row["class"] for row in rows}) if "class" in rows[0] else None


def shared_only(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may leave under DP: the scores of the shared model.

    The shared model is private itself. Every other candidate was trained or tuned on
    this site's patients without noise; so were the reference it is compared with and
    the choice of the site. All of that stays in the site's own report.
    """
    shared = {name: {**one, "gain": None} for name, one in numbers["candidates"].items() if name == "fedavg"}
    told = {key: value for key, value in numbers.items() if key not in ("personal", "usable")}
    return {**told, "candidates": shared, "deploy": None}


def fine_tuned(site: TaskSite, w: Tensor, model_selection: ModelSelection) -> list[Candidate]:
    """Return the model after k steps for every k of the job, in rising order."""
    ks = sorted(model_selection.steps)
    steps = Steps(work=max(ks), lr=model_selection.lr)
    snapshots = fine_tune(w, site.objective("fine-tune"), ks, steps)
    scores = site.validation_scores({str(k): snapshots[k] for k in ks}, site.split.val)
    return [Candidate(k, scores[str(k)], snapshots[k]) for k in ks]
