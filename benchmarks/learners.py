"""What the comparisons train: one row for each method, and what becomes of its models.

A row is a name and a function from hospitals to models. Every federated method of methods.py is
a row by itself; a new one needs nothing here. Mixtures (mixtures.py) train nothing: they name
the rows whose models they mix.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common import say
from methods import methods
from wardround.algorithms.schedule import Schedule

NAMES = {
    "local": "local only",
    "central": "centralised, work of one hospital",
    "central_all": "centralised, work of all hospitals",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "scaffold": "SCAFFOLD",
    "fedopt": "FedOpt (Adam)",
    "fedbn": "FedBN",
    "fedrep": "FedRep",
    "ditto": "Ditto",
    "perfedavg_fo": "Per-FedAvg FO",
    "perfedavg_hf": "Per-FedAvg HF",
    "klmask": "KL masks",
    "klmask_random": "random blocks (control)",
    "klmask_norms": "norms stay (control)",
    "klmask_head": "head stays (control)",
    "ensemble": "mean of all local models' answers",
    "blend": "blend of own and shared",
    "interpolated": "weights between FedAvg and fine-tuned",
    "deployed": "deployed (the verdict's choice)",
}
ALONE = ("local", "central", "central_all")


@dataclass(frozen=True)
class Setting:
    """Hospitals, a schedule, and the weights that every method starts from."""

    sites: Mapping[str, Any]
    schedule: Schedule
    initial: Tensor


@dataclass(frozen=True)
class Trained:
    """What a method leaves.

    models: each hospital's own model before fine-tuning
    shared: the model that a hospital which took no part would be given; None where there is none
    """

    models: Mapping[str, Tensor]
    shared: Tensor | None


def local(setting: Setting) -> Trained:
    """Train one model at each hospital, alone, with the work that it has in a federation."""
    from wardround.algorithms.federation import local_only

    train = {name: site.objective("local") for name, site in setting.sites.items()}
    return Trained(
        {name: local_only(one, setting.schedule, setting.initial) for name, one in train.items()},
        None,
    )


def central(setting: Setting, times: int) -> Trained:
    """Train one model on all patients, with `times` the work of one hospital, in one schedule."""
    from dataclasses import replace

    from wardround.algorithms.federation import local_only
    from wardround.research.pooled_objective import PooledObjective

    objective = PooledObjective(list(setting.sites.values()), "central")
    schedule = replace(setting.schedule, num_rounds=times * setting.schedule.num_rounds)
    w = local_only(objective, schedule, setting.initial)
    return Trained(dict.fromkeys(setting.sites, w), w)


def federated(setting: Setting, method: str) -> Trained:
    """Train a row of methods.py."""
    from wardround.algorithms.federation import vectors
    from wardround.algorithms.sharing import EVERYTHING
    from wardround.research.in_process import InProcessFederation

    algorithm, sharing, server_optimizer = methods()[method]
    together = InProcessFederation(setting.sites, algorithm, server_optimizer, setting.schedule, sharing=sharing)
    result = together.run(setting.initial, lambda r, res: say(f"    {method}, round {r + 1}: {res.history[-1]}"))
    layout = next(iter(setting.sites.values())).layout
    # Where blocks stay at home, nobody outside has them: there is no model for another hospital.
    shared = vectors(algorithm, result.variables, layout)["model"] if sharing == EVERYTHING else None
    return Trained(together.models(result), shared)


def learners() -> dict[str, Callable[[Setting], Trained]]:
    """Return every row that trains."""
    rows: dict[str, Callable[[Setting], Trained]] = {
        "local": local,
        "central": lambda setting: central(setting, 1),
        "central_all": lambda setting: central(setting, len(setting.sites)),
    }
    return rows | {name: lambda setting, name=name: federated(setting, name) for name in methods()}


def title(label: str) -> str:
    """Return what a row of a table is called."""
    method, plus, _ = label.partition("+")
    method, _, rule = method.partition(":")
    return NAMES.get(method, method) + (f", rule {rule}" if rule else "") + (" + fine-tuning" if plus else "")


def network(start: str) -> Any:
    """Return the network of the brain tumour job: drawn from the seed, or from the public warm start."""
    from wardround.jobs.first_weights import promised
    from wardround.models.nets import UNet3d

    if start == "scratch":
        return UNet3d()
    return UNet3d(weights=promised("randomised_phantoms"))


@dataclass(frozen=True)
class Models:
    """Trained models in a folder outside the repository, so that a mixture need not train again what another part trained.

    A model is found again only under the same key and settings, and by the same code of the package.
    """

    folder: Path

    def trained(
        self,
        key: Mapping[str, Any],
        options: Mapping[str, Any],
        setting: Setting,
        method: str,
        *,
        keep: bool,
    ) -> Trained:
        """Return the models of a method; train them where they are not there.

        key: what they depend on beside the options
        keep: whether another part will need them
        """
        import torch

        code = _code()
        words = json.dumps([key, options, method, code], sort_keys=True, default=str)
        file = self.folder / f"{method}-{hashlib.sha256(words.encode()).hexdigest()[:20]}.pt"
        if code and file.is_file():
            found = torch.load(file, weights_only=True)
            return Trained(found["models"], found["shared"])
        made = learners()[method](setting)
        if code and keep:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Another process may make the same models: each writes a file of its own, and the last one stays, whole.
            partial = file.with_suffix(f".{os.getpid()}.partial")
            torch.save({"models": dict(made.models), "shared": made.shared}, partial)
            partial.replace(file)
        return made


def _code() -> str | None:
    """Return what git calls the content of the package and of these scripts; None where it is changed or unknown."""
    here = Path(__file__).resolve().parents[1]
    said = [
        subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        for words in (
            (
                "rev-parse",
                "HEAD:custom",
                "HEAD:benchmarks/methods.py",
                "HEAD:benchmarks/learners.py",
            ),
            ("status", "--porcelain", "custom", "benchmarks/methods.py", "benchmarks/learners.py"),
        )
    ]
    return said[0].stdout if said[0].returncode == 0 and not said[1].stdout.strip() else None


def by_patient(site: Any, cases: Sequence[str], scores: Sequence[float], names: Mapping[str, str]) -> dict[str, float]:
    """Return the mean score of each patient, by the number that stands for the patient."""
    found: dict[str, list[float]] = {}
    for case, score in zip(cases, scores, strict=True):
        found.setdefault(names[site.cohort.patients[case]], []).append(score)
    return {who: round(sum(values) / len(values), 6) for who, values in found.items()}
