"""Models that cost no training: means of probabilities, chosen on validation patients.

    ensemble  at each hospital the mean of all hospitals' local models (the hospitals would have to exchange them)
    blend     p = a p_own + (1 - a) p_shared, of the local model and the better of FedAvg and FedAvg with fine-tuning
    deployed  what the verdict chooses among local, FedAvg, FedAvg with fine-tuning, personalised, interpolated weights and blend

Every network runs once on each patient; mixtures are made from the kept probabilities. The part
of `deployed` keeps the scores of all candidates: `blend` and `interpolated` are rows of their
own, and another rule of choice needs no model again (joining_tables.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from learners import by_patient

SHARES = (0.25, 0.5, 0.75)
PERSONALISED = "perfedavg_fo"
NEEDS = {
    "ensemble": ("local",),
    "deployed": ("local", "fedavg", PERSONALISED),
}


@dataclass(frozen=True)
class Answers:
    """The probabilities of one model on the patients of one hospital, by case."""

    site: Any
    names: Mapping[str, str]
    by_case: Mapping[str, Any]

    def mixed(self, other: Answers, share: float) -> Answers:
        """Return share * own + (1 - share) * other."""
        found = {case: share * mine + (1 - share) * other.by_case[case] for case, mine in self.by_case.items()}
        return Answers(self.site, self.names, found)

    def dice(self, cases: Sequence[str]) -> dict[str, float]:
        """Return the mean Dice over the known regions of each patient."""
        from wardround.tasks.metrics import case_scores

        site = self.site
        regions, kind = site.task.outputs, site.cohort.label_kind
        scores = []
        for case in cases:
            volume = site.volume(case)
            truth = regions.targets(np.asarray(site.labels(case)), kind).astype(bool)
            told = regions.nested(self.by_case[case] > 0.5)
            row = case_scores(told, truth, regions.known(kind), volume.spacing_mm, regions.names, with_hd95=False)
            scores.append(row["dice_mean"])
        return by_patient(site, cases, scores, self.names)


def answers(site: Any, names: Mapping[str, str], w: Tensor, cases: Sequence[str]) -> Answers:
    """Return what a model says about these cases."""
    site.model.load(w)
    found = {case: 1 / (1 + np.exp(-logits_of(site, w, case).astype(np.float64))) for case in cases}
    return Answers(site, names, found)


def logits_of(site: Any, w: Tensor, case: str) -> Any:
    """Return the logits of a case as the site itself makes them; the weights are loaded."""
    # A site that can be asked answers with everything that its task says about inference, mirror images too.
    return site.logits(w, case)


def mean_of(members: Sequence[Answers]) -> Answers:
    """Return the mean of several models' probabilities."""
    first = members[0]
    cases = {case: sum(one.by_case[case] for one in members) / len(members) for case in first.by_case}
    return Answers(first.site, first.names, cases)


def value(dice: Mapping[str, float]) -> float:
    """Return the mean over patients."""
    return float(np.mean(list(dice.values())))


def blend(site: Any, own: Answers, shared: Mapping[str, Answers]) -> tuple[Answers, dict[str, Any]]:
    """Return the blend that is best on validation, and how it was made; of equally good ones the first share.

    shared: the models of which the best on validation is mixed with the own one
    """
    best = max(shared, key=lambda name: value(shared[name].dice(site.split.val)))
    made = {share: own.mixed(shared[best], share) for share in SHARES}
    share = max(made, key=lambda one: value(made[one].dice(site.split.val)))
    return made[share], {"share": share, "of": best}


def mixture(
    method: str,
    name: str,
    site: Any,
    names: Mapping[str, str],
    trained: Mapping[str, Any],
    ks: Sequence[int],
) -> dict[str, Any]:
    """Return {"val", "test"} of one mixture at one hospital, and how it was chosen.

    trained: the Trained of every row in NEEDS
    """
    cases = (*site.split.val, *site.split.test)
    own = answers(site, names, trained["local"].models[name], cases)
    if method == "ensemble":
        members = [answers(site, names, w, cases) for w in trained["local"].models.values()]
        return scores_of(mean_of(members), site)
    candidates = {"local": own} | shared_candidates(site, name, names, trained, ks, cases)
    mixed, how = blend(site, own, {n: one for n, one in candidates.items() if n.startswith("fedavg")})
    return deployed(site, candidates | {"blend": mixed}, how)


def scores_of(found: Answers, site: Any) -> dict[str, Any]:
    """Return the scores of validation and test patients."""
    return {"val": found.dice(site.split.val), "test": found.dice(site.split.test)}


def shared_candidates(
    site: Any,
    name: str,
    names: Mapping[str, str],
    trained: Mapping[str, Any],
    ks: Sequence[int],
    cases: Sequence[str],
) -> dict[str, Answers]:
    """Return the candidates of a job but the local model and the blend.

    FedAvg, FedAvg after the best k > 0, weights between these two, and the personalised model after the best k.
    """
    made = {}
    for method, candidate in (("fedavg", "fedavg_finetuned"), (PERSONALISED, "personalised")):
        if method not in trained:
            continue
        options = tuned(site, trained[method].models[name], ks)
        if method == "fedavg":
            made["fedavg"] = answers(site, names, options.pop(0), cases)
        each = {k: answers(site, names, w, site.split.val) for k, w in options.items()}
        best = max(each, key=lambda k: value(each[k].dice(site.split.val)))
        made[candidate] = answers(site, names, options[best], cases)
        if method == "fedavg":
            start, end = trained[method].models[name], options[best]
            between = {share: (1 - share) * start + share * end for share in SHARES}
            dice = {a: value(answers(site, names, w, site.split.val).dice(site.split.val)) for a, w in between.items()}
            made["interpolated"] = answers(site, names, between[max(dice, key=lambda a: dice[a])], cases)
    return made


def tuned(site: Any, w: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    """Return the weights after each number of fine-tuning steps; every method is offered the same."""
    from wardround.algorithms.base import Steps
    from wardround.algorithms.finetune import fine_tune

    return fine_tune(w, site.objective("fine-tune"), tuple(ks), Steps(work=max(ks), lr=0.01))


def deployed(site: Any, candidates: Mapping[str, Answers], how: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of the verdict's choice on validation, its name, and the scores of every candidate.

    how: how the blend was made
    A candidate that the verdict does not know is no choice; its scores are kept all the same.
    """
    from wardround.messages.allowed_names import CANDIDATES
    from wardround.reports.verdict import choose

    val = {name: one.dice(site.split.val) for name, one in candidates.items()}
    known = {name: value(dice) for name, dice in val.items() if name in CANDIDATES}
    chosen = choose(known, len(next(iter(val.values()))))
    test = {name: one.dice(site.split.test) for name, one in candidates.items()}
    scores = {name: {"val": val[name], "test": test[name]} for name in candidates}
    return scores[chosen] | {"how": {"deploy": chosen, "blend": dict(how)}, "candidates": scores}
