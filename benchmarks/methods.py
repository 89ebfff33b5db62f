"""The methods of the segmentation table, with the settings each was given after tuning on validation patients."""

from __future__ import annotations

from typing import Any

from wardround.algorithms.base import Algorithm
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.fedbn import FedBN
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.fedrep import FedRep
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.rules import FedAdam, Mean, Rule
from wardround.algorithms.scaffold import Scaffold

MEAN = Mean(server_lr=1.0)
MASKS: dict[str, Any] = {
    "share": "all",
    "every": 1,
    "warm_up": 1,
    "rho": 0.8,
    "enter": 1.5,
    "leave": 0.75,
    "most": 0.3,
    "batches": 1,
}


def methods() -> dict[str, tuple[Algorithm, Rule]]:
    """Return every federated method with its server rule."""
    return {
        "fedavg": (FedAvg(), MEAN),
        "fedprox": (FedProx(mu=0.01), MEAN),
        "scaffold": (Scaffold(), MEAN),
        "fedopt": (FedAvg(), FedAdam(lr=0.01, beta1=0.9, beta2=0.99, tau=0.001)),
        "fedbn": (FedBN(), MEAN),
        "fedrep": (FedRep(head_share=0.5), MEAN),
        "ditto": (Ditto(lam=0.1), MEAN),
        "perfedavg_fo": (PerFedAvg(alpha=0.01, hessian="FO", delta=0.001), MEAN),
        "perfedavg_hf": (PerFedAvg(alpha=0.01, hessian="HF", delta=0.001), MEAN),
        "klmask": (KLMask(choose="kl", **MASKS), MEAN),
        "klmask_random": (KLMask(choose="random", **MASKS), MEAN),
        "klmask_norms": (KLMask(choose="norms", **MASKS), MEAN),
        "klmask_head": (KLMask(choose="head", **MASKS), MEAN),
    }
