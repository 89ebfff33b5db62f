"""The methods of the segmentation table, with the settings each was given after tuning on validation patients.

`work` of a schedule is gradient evaluations, whatever the method: Per-FedAvg takes half (FO) or a quarter (HF) of the steps.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import yaml

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Algorithm
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.mr_mtl import MRMTL
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.server_optimizers import FedAdam, FedAvgM, FedYogi, Mean, MeanOfModels, ServerOptimizer
from wardround.algorithms.sharing import EVERYTHING, Roles, Sharing
from wardround.core.errors import ConfigRefused

MEAN = Mean(server_lr=1.0)
MASKS: dict[str, Any] = {
    "home": (),
    "every": 1,
    "warm_up": 1,
    "rho": 0.8,
    "enter": 1.5,
    "leave": 0.75,
    "most": 0.3,
    "batches": 1,
}

# The parts that a job under hospital-level privacy may share alone; all other roles stay at home.
PARTS: dict[str, Sharing] = {
    "head": Roles(("norm", "body", "adapter")),
    "norms": Roles(("head", "body", "adapter")),
    "adapters": Roles(("head", "norm", "body")),
    "all": EVERYTHING,
}

Method = tuple[Algorithm, Sharing, ServerOptimizer]


def methods() -> dict[str, Method]:
    """Return every federated method: its algorithm, what it shares, and its server optimizer."""
    return {
        "fedavg": (FedAvg(), EVERYTHING, MEAN),
        "fedprox": (FedProx(mu=0.01), EVERYTHING, MEAN),
        "scaffold": (Scaffold(), EVERYTHING, MEAN),
        "fedopt": (FedAvg(), EVERYTHING, FedAdam(lr=0.01, beta1=0.9, beta2=0.99, tau=0.001)),
        "fedbn": (FedAvg(), Roles(("norm",)), MEAN),
        "fedrep": (Alternating(home_share=0.5), Roles(("head",)), MEAN),
        "ditto": (Ditto(lam=0.1), EVERYTHING, MEAN),
        "perfedavg_fo": (PerFedAvg(alpha=0.01, hessian="FO", delta=0.001), EVERYTHING, MEAN),
        "perfedavg_hf": (PerFedAvg(alpha=0.01, hessian="HF", delta=0.001), EVERYTHING, MEAN),
        "klmask": (FedAvg(), KLMask(choose="kl", **MASKS), MEAN),
        "klmask_random": (FedAvg(), KLMask(choose="random", **MASKS), MEAN),
        "klmask_norms": (FedAvg(), KLMask(choose="norms", **MASKS), MEAN),
        "klmask_head": (FedAvg(), KLMask(choose="head", **MASKS), MEAN),
        "fedavgm": (FedAvg(), EVERYTHING, FedAvgM(lr=1.0, momentum=0.5)),
        "fedyogi": (FedAvg(), EVERYTHING, FedYogi(lr=0.01, beta1=0.9, beta2=0.99, tau=0.001)),
        "mrmtl": (MRMTL(lam=0.1), EVERYTHING, MeanOfModels()),
    }


def method(label: str) -> Method:
    """Return a method with settings other than its own: "perfedavg_hf alpha=0.03", "klmask enter=2 most=0.5".

    A setting is a field of the algorithm, of the sharing or of the server optimizer. An unknown name, a setting that none
    or several of them have, and a value out of its range are refused with ConfigRefused.
    """
    name, *given = label.split()
    if name not in methods():
        raise _refused(label, f"no method {name}", f"one of {', '.join(methods())}")
    parts: list[Any] = list(methods()[name])
    for setting in given:
        key, equals, text = setting.partition("=")
        owners = [index for index, part in enumerate(parts) if key in {one.name for one in fields(part)}]
        if not equals or len(owners) != 1:
            known = sorted(one.name for part in parts for one in fields(part))
            raise _refused(label, f"{setting}", f"NAME=VALUE with one of {', '.join(known) or 'none'}")
        parts[owners[0]] = replace(parts[owners[0]], **{key: yaml.safe_load(text)})
    algorithm, sharing, server_optimizer = parts
    return algorithm, sharing, server_optimizer


def _refused(label: str, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the method {label!r}", found=found, expected=expected, fix="write it as in 'perfedavg_hf alpha=0.03'"
    )
