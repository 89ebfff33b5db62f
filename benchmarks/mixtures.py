"""Models that cost no training: means of probabilities, chosen on validation patients.

    ensemble  at each hospital the mean of all hospitals' local models (the hospitals would have to exchange them)
    blend     p = a p_own + (1 - a) p_shared, of the local model and the better of FedAvg and FedAvg with fine-tuning
    deployed  what the verdict chooses among local, FedAvg, FedAvg with fine-tuning, personalised and blend

Every network runs once on each patient; mixtures are made from the kept probabilities.
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
    "blend": ("local", "fedavg"),
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
    from wardround.tasks.inference import predict_logits

    site.model.load(w)
    found = {}
    for case in cases:
        volume = site.volume(case)
        logits = predict_logits(
            site.model.module,
            np.asarray(volume.image, np.float32),
            volume.present,
            site.sampling.size,
            site.device,
            len(site.task.outputs.names),
            record=site.record(site.cohort.patients[case]),
        )
        found[case] = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return Answers(site, names, found)


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
    method: str, name: str, site: Any, names: Mapping[str, str], trained: Mapping[str, Any], ks: Sequence[int]
) -> dict[str, Any]:
    """Return {"val", "test"} of one mixture at one hospital, and how it was chosen.

    trained: the Trained of every row in NEEDS
    """
    cases = (*site.split.val, *site.split.test)
    own = answers(site, names, trained["local"].models[name], cases)
    if method == "ensemble":
        found, words = mean_of([answers(site, names, w, cases) for w in trained["local"].models.values()]), {}
    else:
        candidates = {"local": own} | shared_candidates(site, name, names, trained, ks, cases)
        found, words = blend(site, own, {n: one for n, one in candidates.items() if n.startswith("fedavg")})
        if method == "deployed":
            found, words = deployed(site, candidates | {"blend": found}, words)
    return {"val": found.dice(site.split.val), "test": found.dice(site.split.test), "how": words}


def shared_candidates(
    site: Any, name: str, names: Mapping[str, str], trained: Mapping[str, Any], ks: Sequence[int], cases: Sequence[str]
) -> dict[str, Answers]:
    """Return FedAvg, FedAvg after the best k > 0, and personalised after the best k, as a job's candidates are."""
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
    return made


def tuned(site: Any, w: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    """Return the weights after each number of fine-tuning steps; every method is offered the same."""
    from wardround.algorithms.base import Steps
    from wardround.algorithms.finetune import fine_tune

    return fine_tune(w, site.objective("fine-tune"), tuple(ks), Steps(work=max(ks), lr=0.01))


def deployed(site: Any, candidates: Mapping[str, Answers], words: Mapping[str, Any]) -> tuple[Answers, dict[str, Any]]:
    """Return the verdict's choice on validation, and its name.

    The blend is a candidate after the verdict knows it; until then it is no choice.
    """
    from wardround.messages.allowed_names import CANDIDATES
    from wardround.reports.verdict import choose

    val = {name: value(one.dice(site.split.val)) for name, one in candidates.items() if name in CANDIDATES}
    chosen = choose(val, len({site.cohort.patients[case] for case in site.split.val}))
    return candidates[chosen], {"deploy": chosen, "val": val} | (dict(words) if chosen == "blend" else {})
