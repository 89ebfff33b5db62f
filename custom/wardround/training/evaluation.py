"""How does one hospital evaluate and select among the models it could deploy?

The candidates are local, FedAvg, FedAvg with fine-tuning, and personalised. Every
choice is made on validation patients (the number of fine-tuning steps, the model to
deploy); the test patients are scored once, at the end. Only means, intervals and counts
may leave (`Evaluation.numbers`). Rows per patient stay at the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wardround.algorithms.base import Steps
from wardround.algorithms.federation import local_only
from wardround.algorithms.finetune import fine_tune
from wardround.algorithms.schedule import Schedule
from wardround.core.errors import ConfigRefused
from wardround.reports.verdict import LEAST_DICE, choose, floors, is_usable, score_of
from wardround.training.task import Rows, TaskSite


@dataclass(frozen=True)
class ModelSelection:
    """Fine-tuning that is offered to every model alike, and the least useful Dice.

    steps: The numbers of SGD steps to choose from on validation; 0 must be among them.
    lr: The learning rate of these steps.
    least_dice: A model is usable only if the lower end of its test interval is above
        this. For classes, chance is used instead.

    Values outside their ranges raise ConfigRefused.
    """

    steps: Sequence[int]
    lr: float
    least_dice: float = LEAST_DICE

    def __post_init__(self) -> None:
        steps_fit = 0 in self.steps and len(self.steps) >= 2 and min(self.steps) >= 0
        if not (steps_fit and 0 < self.lr < 10 and 0 <= self.least_dice < 1):
            raise ConfigRefused(
                "the fine-tuning choices",
                found=f"steps {list(self.steps)}, lr {self.lr}, least_dice {self.least_dice}",
                expected="0 and at least one positive number of steps, 0 < lr < 10, least_dice from 0 to below 1",
                fix="set `model_selection` in the job, for example steps [0, 1, 5, 20]",
            )


@dataclass(frozen=True)
class Evaluation:
    """The result of one hospital's evaluation.

    numbers: Means, intervals and counts, which may leave the site.
    rows: The scores per patient and candidate, which stay.
    weights: The candidates' weights, which stay.
    floors: What the lower end of each test metric's interval must be above.
    """

    numbers: dict[str, Any]
    rows: Mapping[str, Rows]
    weights: Mapping[str, Tensor]
    floors: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    site: TaskSite,
    arms: Mapping[str, Tensor],
    initial: Tensor,
    schedule: Schedule,
    model_selection: ModelSelection,
) -> Evaluation:
    """Evaluate every candidate that `arms` allows.

    arms: The models by name. "fedavg" gives the candidates fedavg and fedavg_finetuned;
        "personalised" gives personalised.
    initial: Where the local baseline starts. It does the same work on the same schedule
        as the federation, alone.
    """
    validate, test = site.split.val, site.split.test
    picked: dict[str, tuple[int, float, Tensor]] = {}
    # The local baseline draws from a stream of its own, so that nothing in the
    # federation depends on it.
    local = local_only(site.objective("local"), schedule, initial)
    picked["local"] = (0, site.score(local, validate), local)
    for arm, w in arms.items():
        tuned = fine_tuned(site, w, model_selection)
        if arm == "fedavg":
            # tuned[0] is the model after 0 steps: ModelSelection requires a 0 among the
            # steps.
            picked["fedavg"] = tuned[0]
            picked["fedavg_finetuned"] = max(tuned[1:], key=lambda option: option[1])
        else:
            picked["personalised"] = max(tuned, key=lambda option: option[1])
    rows = {name: site.rows(w, test) for name, (_, _, w) in picked.items()}
    candidates = {
        name: {
            "k": k,
            "val": val,
            "test": site.summary(rows[name]),
            "gain": None if name == "local" else site.gain(rows[name], rows["local"]),
        }
        for name, (k, val, _) in picked.items()
    }
    patients = len({site.cohort.patients[case] for case in validate})
    deploy = choose(
        {name: val for name, (_, val, _) in picked.items()},
        patients,
        score_of(candidates),
    )
    # The test patients say whether the choice is good enough for anybody. They do not change the choice.
    least = floors(_classes(rows[deploy]), model_selection.least_dice)
    usable = is_usable(site.summary(rows[deploy]), least) is not False
    numbers = {"candidates": candidates, "deploy": deploy, "usable": usable}
    return Evaluation(numbers, rows, {name: w for name, (_, _, w) in picked.items()}, least)


def spoken(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation in a few words, for the site's log."""
    return (
        f"{'no model is usable yet, the best is' if numbers.get('usable') is False else 'deploy'} {numbers['deploy']}"
    )


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


def fine_tuned(
    site: TaskSite,
    w: Tensor,
    model_selection: ModelSelection,
) -> list[tuple[int, float, Tensor]]:
    """Return (k, validation score, weights after k steps) for every k, in rising order."""
    ks = sorted(model_selection.steps)
    steps = Steps(work=max(ks), lr=model_selection.lr)
    snapshots = fine_tune(w, site.objective("fine-tune"), ks, steps)
    return [(k, site.score(snapshots[k], site.split.val), snapshots[k]) for k in ks]
