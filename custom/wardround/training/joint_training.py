"""What must hold before a job takes private steps under ONE noise of all hospitals?

The steps are algorithms/patient_steps.py, the promise is dp/joint_dp.py. Either without
the other is refused, when a job is printed and when a hospital loads it.
"""

from __future__ import annotations

from typing import Any

from wardround.algorithms.patient_steps import PatientSteps
from wardround.algorithms.sharing import Everything
from wardround.algorithms.train_only import TrainOnly
from wardround.core.errors import ConfigRefused
from wardround.dp.joint_release import JointRelease
from wardround.models.roles import shared_layout


def require_joint(algorithm: object, sharing: Any, model: Any, charged: object) -> None:
    """Raise ConfigRefused unless joint steps and one noise come together, from a public
    warm start, with something to train, and with sums that are exact.

    charged: the stage that the ledger charges, or None.
    """
    steps = isinstance(algorithm, PatientSteps)
    if not steps and not isinstance(charged, JointRelease):
        return
    if not isinstance(charged, JointRelease):
        raise ConfigRefused(
            "joint steps of all hospitals",
            found="a job whose sums of patients' gradients would be opened without the one noise that hides a patient",
            expected="a masked sum with one noise (privacy dp_joint)",
            fix="--set privacy=dp_joint, or a job of another algorithm (`wardround jobs list`)",
        )
    if not steps:
        raise ConfigRefused(
            "one noise of all hospitals",
            found=f"{getattr(algorithm, 'name', algorithm)}, which trains at the hospital before it sends anything",
            expected="joint steps: one gradient of every patient in every round",
            fix="start from the job brats_dp_joint, or --set privacy=dp_patient for noise in every local step",
        )
    if not isinstance(sharing, Everything | TrainOnly):
        # What a hospital keeps would move by its own patients' gradients, without noise, and the next sum would follow it.
        raise ConfigRefused(
            "what a job with joint steps shares",
            found=f"{type(sharing).__name__}, which keeps trained blocks at the hospital",
            expected="every block that is trained: TrainOnly, or Everything",
            fix="--set sharing=affine_alone, or leave --set sharing out",
        )
    if getattr(model, "weights", None) is None:
        raise ConfigRefused(
            "the first weights of a job with joint steps",
            found="weights that are drawn: nothing but scales, shifts and biases would ever be learnt",
            expected="a public warm start",
            fix="--set model.weights=randomised_phantoms, or a file that `wardround pretrain` wrote (docs/warm-start.md)",
        )
    layout = shared_layout(model.build(0), sharing.home_roles)
    if not layout.names:
        raise ConfigRefused(
            "what a job with joint steps trains",
            found="a network without any such block",
            expected="scales, shifts or biases, a head or adapters",
            fix="--set sharing.train=[head], or --set model.adapter_rank=4 --set sharing.train=[adapter]",
        )
    charged.require_exact(layout.total)
