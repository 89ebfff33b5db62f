"""The methods of the segmentation table, with the settings each was given after tuning on validation patients."""

from __future__ import annotations

from typing import Any

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Algorithm
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.server_optimizers import FedAdam, Mean, ServerOptimizer
from wardround.algorithms.sharing import EVERYTHING, Roles, Sharing

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


def methods() -> dict[str, tuple[Algorithm, Sharing, ServerOptimizer]]:
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
    }
