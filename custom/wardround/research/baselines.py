"""What is a federation measured against? Each hospital alone, all of their models
together, and all patients in one place.

The network, first weights, patients, split, patches and schedule are those of the job.
The work per model is `num_rounds` x `work` gradient evaluations: what ONE site spends
in the federation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wardround.algorithms.base import Objective
from wardround.algorithms.federation import local_only
from wardround.algorithms.schedule import Schedule
from wardround.data.site_config import SiteConfig
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import Network
from wardround.models.specs import describe
from wardround.research.pooled_objective import PooledObjective
from wardround.training import origin
from wardround.training.mixture import Mixture
from wardround.training.opening import pick_device
from wardround.training.splitting import split_of
from wardround.training.task import TaskSampling, TaskSite

Say = Callable[[str], None]


def open_sites(
    configs: Mapping[str, SiteConfig],
    spec: Network,
    sampling: TaskSampling,
    seed: int,
    cache: Path,
    say: Say,
    *,
    patient_dp: bool,
) -> dict[str, TaskSite]:
    """Return every site, split as a job with this `patient_dp` splits it.

    Cases are decoded into the site's own cache, or into <cache>/<site>.
    """
    sites = {}
    for name, config in configs.items():
        say(f"{name}: {config.data}")
        cohort = sampling.cohort(config, config.cache or cache / name, say)
        split = split_of(cohort, patient_dp=patient_dp)
        sites[name] = sampling.open(name, cohort, split, spec, seed, pick_device(config.device))
    return sites


def train_local(
    sites: Mapping[str, TaskSite],
    schedule: Schedule,
    initial: Tensor,
    say: Say,
) -> dict[str, Tensor]:
    """Return one model per site, each trained on that site's patients alone.

    It is trained as the job's own local candidate is.
    """
    found = {}
    for name, site in sites.items():
        own = schedule.of_hospital(site.train_patients)
        told = _Telling(site.objective("local"), own, name, say)
        found[name] = local_only(told, own, initial.to(site.device))
    return found


def train_central(
    sites: Mapping[str, TaskSite],
    schedule: Schedule,
    initial: Tensor,
    say: Say,
) -> Tensor:
    """Return one model trained on the pooled training patients of all sites."""
    members = list(sites.values())
    objective = _Telling(PooledObjective(members, "central"), schedule, "central", say)
    return local_only(objective, schedule, initial.to(members[0].device))


def ensemble(models: Mapping[str, Tensor]) -> Mixture:
    """Return the mean of the probabilities of the sites' local models, all alike.

    It costs no training beside theirs and as many networks for every prediction. It
    exists in one process only: for it each hospital would have to give its own model,
    which no noise protects, to all others. Fewer than two models raise ConfigRefused.
    """
    return Mixture(tuple(models.values()), (1 / len(models),) * len(models) if models else ())


def score(site: TaskSite, model: Tensor | Mixture) -> dict[str, Any]:
    """Return the scores of a model at one site.

    "val" is the validation score, "cases" the number of test patients, and "test" holds
    each metric with its interval over them.
    """
    if isinstance(model, Mixture):
        model = Mixture(tuple(w.to(site.device) for w in model.members), model.shares)
    else:
        model = model.to(site.device)
    rows = site.rows_of({"": model}, site.split.test)[""]
    return {
        "val": site.validation_scores({"": model}, site.split.val)[""].value,
        "cases": len(rows),
        "test": site.summary(rows),
    }


def keep(
    path: Path,
    w: Tensor,
    spec: Network,
    sites: Sequence[TaskSite],
    about: Mapping[str, Any],
) -> Path:
    """Write the weights of a baseline for `wardround predict`; return the path."""
    about_model = sites[0].about_model()
    # The most detailed kind that any site has: the pooled model learns its regions.
    taught = {site.cohort.label_kind for site in sites}
    about_model["label_kind"] = next(kind for kind in sites[0].sampling.kinds if kind in taught)
    trained_on = origin.of_sites(origin.invented(site.cohort.patients) for site in sites)
    meta = {
        "model": describe(spec),
        **about_model,
        "settings": dict(about),
        "trained_on": trained_on,
    }
    checkpoint.save(
        path,
        sites[0].layout.unflatten(w.detach().cpu().numpy()),
        fingerprint(sites[0].model.module),
        meta,
    )
    return path


@dataclass
class _Telling:
    """An objective that reports progress.

    It prints one line per round's worth of gradient evaluations.
    """

    objective: Objective
    schedule: Schedule
    name: str
    say: Say
    done: int = 0
    total: float = 0.0

    def sample(self, count: int) -> tuple[Any, ...]:
        return self.objective.sample(count)

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        loss, gradient = self.objective.value_and_grad(w, batch)
        self.done, self.total = self.done + 1, self.total + loss
        if self.done % self.schedule.work == 0:
            mean, self.total = self.total / self.schedule.work, 0.0
            self.say(
                f"{self.name}: round {self.done // self.schedule.work}/{self.schedule.num_rounds}, loss {mean:.3f}",
            )
        return loss, gradient
