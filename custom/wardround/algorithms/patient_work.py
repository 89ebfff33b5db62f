"""How does a hospital with more training patients do more local work?

With n training patients and a public reference n_0, a round of `work` gradient
evaluations becomes one of

    work_i = work * min(most, max(least, n / n_0))

A hospital that works longer moves further, so that the mean of the updates would weigh
it twice: by its patients and by its steps. Therefore each hospital shortens (or
lengthens) its own change of the model to what `work` would have made of it:

    D_i <- D_i * length(work) / length(work_i)

length(k) is the sum of the coefficients with which k steps of SGD with momentum r take
their gradients into the model: k without momentum; with heavy-ball momentum sum_{j=1..k}
(1 - r^j) / (1 - r), with Nesterov's r^(j+1) in the place of r^j. The shared model then
minimises sum_i p_i f_i, with p_i the shares of the patients, as with equal work.

Source: Wang et al. 2020, arXiv:2007.07481 (FedNova), eq. (6) and section 4.2.
Deviations: 1. The site scales its own update, so that no number of steps leaves it, and
the server's step has length `work` instead of the mean of the lengths. 2. Methods that
take several gradients in a step, or begin the velocity again, are counted as if they
took one in each. 3. SCAFFOLD and MR-MTL are not scaled: SCAFFOLD corrects what longer
work would pull apart, and in MR-MTL the shared model must be the mean of the models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from wardround.algorithms.base import Algorithm, Steps
from wardround.algorithms.mr_mtl import MRMTL
from wardround.algorithms.scaffold import Scaffold
from wardround.core.errors import ConfigRefused
from wardround.core.traits import PUBLIC_COUNT, UNPROMISED, Traits

# The dearest step of a shipped algorithm takes 4 gradient evaluations (Per-FedAvg HF).
DEAREST = 4
AS_THEY_ARE = (Scaffold, MRMTL)


@final
@dataclass(frozen=True)
class PatientWork:
    """Local work in proportion to the training patients, within two bounds.

    reference_patients: A hospital with so many training patients does the job's work;
        a public number, at least 1.
    least, most: The work is at least and at most so many times the job's, with
        0 < least <= 1 <= most <= 10.

    The number of steps depends on the patients. It does not leave, but the time that a
    round takes does, and the server sees when a reply arrives. So it is refused where
    the server must not learn the count: under differential privacy, and in a secure sum
    unless its weights are `patients_plaintext`.
    """

    reference_patients: int
    least: float
    most: float

    name: ClassVar[str] = "local work by patients"
    without: ClassVar[str] = "--set work_by_patients=none"
    traits: ClassVar[Traits] = Traits(
        needs=frozenset({UNPROMISED, PUBLIC_COUNT}),
        why={
            UNPROMISED: "no such promise: the time that a round takes would tell the number of patients, and no noise hides it",
            PUBLIC_COUNT: "numbers of patients that the server may know, because the time that a round takes would tell "
            "them; or --set secagg.weights=patients_plaintext",
        },
    )

    def __post_init__(self) -> None:
        numbers = (self.reference_patients, self.least, self.most)
        given = all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        if not (given and self.reference_patients >= 1 and 0 < self.least <= 1 <= self.most <= 10):
            raise ConfigRefused(
                "local work by patients",
                found=f"reference_patients {self.reference_patients}, least {self.least}, most {self.most}",
                expected="reference_patients >= 1 and 0 < least <= 1 <= most <= 10",
                fix="--set work_by_patients.reference_patients=16 --set work_by_patients.least=0.5 "
                "--set work_by_patients.most=2",
            )

    def work(self, work: int, patients: float) -> int:
        """Return the gradient evaluations of a round at a hospital with so many patients.

        work: The job's gradient evaluations of a round.

        They are a multiple of what `work` is a multiple of, as far as steps of shipped
        algorithms need it, so that any method that can spend `work` can spend them.
        """
        unit = math.gcd(work, DEAREST)
        share = min(self.most, max(self.least, patients / self.reference_patients))
        return unit * max(1, round(work * share / unit))


def length(steps: Steps) -> float:
    """Return by how many of its gradients, all alike, a round of steps moves the model.

    In units of the round's first learning rate; see above. Where the rate falls at every
    step, each step counts with its own.
    """
    r = steps.momentum
    if steps.rates:
        velocity, moved = 0.0, 0.0
        for rate in steps.rates:
            velocity = r * velocity + 1
            moved += rate * (1 + r * velocity if steps.nesterov else velocity)
        return moved / steps.rates[0]
    first = r * r if steps.nesterov else r
    return (steps.work - first * (1 - r**steps.work) / (1 - r)) / (1 - r)


def scale(algorithm: Algorithm, job: Steps, own: Steps) -> float:
    """Return what a hospital's change of the model is multiplied by before it leaves.

    job, own: The round as the job states it, and as this hospital worked.
    """
    if job.work == own.work or isinstance(algorithm, AS_THEY_ARE):
        return 1.0
    return length(job) / length(own)
