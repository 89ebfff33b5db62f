"""How does a network learn from domain-randomised phantoms, before any hospital?

Step s trains on one batch of the patients s .. s + POOL - 1 of randomised.py: one new
patient is made in each step and the oldest leaves. Every step draws from a stream of its
own, so a run that was stopped and continued computes bit for bit what an unbroken one
computes (on the same machine and number of threads). Loss, patches and augmentation are
those of training at a hospital; the optimizer is Adam. Its rate rises in WARM_UP steps,
stays, and falls linearly to nothing over the last COOL_DOWN of all steps. Before it falls
nothing depends on the number of steps: a run can be continued to fewer or more of them.

Source: Billot et al. 2023, doi:10.1016/j.media.2023.102789 (SynthSeg); Kingma and Ba
2015, arXiv:1412.6980 (Adam); Haegele et al. 2024, arXiv:2405.18392 (the rate).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from wardround.core.errors import ConfigRefused
from wardround.core.rng import derive, stream
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.flat import FlatModel
from wardround.models.nets import Network
from wardround.synthetic.randomised import RandomisedPatient, patient
from wardround.tasks.augment import Augment
from wardround.tasks.brain_tumours import REGIONS
from wardround.tasks.inference import predict_regions
from wardround.tasks.inputs import network_input
from wardround.tasks.loss import dice_bce
from wardround.tasks.metrics import case_scores
from wardround.tasks.patches import sample_patch

# Cubes, and slabs as thick slices have them; every side is a multiple of 8.
PATCHES = ((24, 24, 24), (32, 32, 16), (32, 32, 32))
# Held-out patients are predicted in windows of this size, as a job predicts.
WINDOW = (32, 32, 32)
POOL = 64
FOREGROUND_SHARE = 0.85
BETAS = (0.9, 0.999)
EPSILON = 1e-8
WARM_UP = 100
COOL_DOWN = 0.15
# Held-out patients have a seed that no training run may have.
HELD_OUT_SEED = -1
SAVE_EVERY_S = 60.0
KIND = "brats"


@final
@dataclass(frozen=True)
class Plan:
    """What a run is; a run is continued only under the same plan.

    steps: The number of steps, at least 1.
    seed: The seed of patients, batches and first weights, 0 or more.
    batch: Patches in a step, 1 to POOL.
    lr: The highest learning rate, above 0.
    clip_norm: The largest norm of a gradient, above 0.

    ConfigRefused is raised for values outside these ranges.
    """

    steps: int = 2600
    seed: int = 1
    batch: int = 4
    lr: float = 3e-3
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if min(self.steps, self.seed + 1) < 1 or not 1 <= self.batch <= POOL or min(self.lr, self.clip_norm) <= 0:
            raise ConfigRefused(
                "the plan of a pretraining",
                found=", ".join(f"{name} {value}" for name, value in asdict(self).items()),
                expected=f"steps 1 or more, seed 0 or more, batch 1 to {POOL}, lr and clip_norm above 0",
                fix="give --steps and --seed within these ranges",
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rising = (step + 1) / WARM_UP
        falling = (self.steps - step) / (COOL_DOWN * self.steps)
        return self.lr * min(1.0, rising, falling)

    def continues(self, other: Plan, done: int) -> bool:
        """Return whether `done` steps of another plan are the first steps of this one."""
        same = replace(other, steps=self.steps) == self
        return same and (other == self or done <= (1 - COOL_DOWN) * min(self.steps, other.steps))


@final
@dataclass
class Progress:
    """Where a run is: weights, Adam's two moments, finished steps, mean losses.

    losses: The mean loss of every 100 finished steps, in order.
    pending: The losses of the steps since then.
    seconds: Time spent so far.
    """

    w: Tensor
    first: Tensor
    second: Tensor
    done: int
    losses: list[float]
    pending: list[float]
    seconds: float


def begin(spec: Network, plan: Plan) -> Progress:
    """Return the state before step 0."""
    w = FlatModel(spec.build(plan.seed)).vector
    return Progress(w, torch.zeros_like(w), torch.zeros_like(w), 0, [], [], 0.0)


def train(
    spec: Network,
    plan: Plan,
    progress: Progress,
    state: Path,
    say: Callable[[str], None],
    minutes: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Train until the plan is done or the minutes are over; return whether it is done.

    progress: Changed in place.
    state: The file from which `resume` continues. It is written once a minute and at
        the end.
    """
    model = FlatModel(spec.build(plan.seed))
    model.load(progress.w)
    progress.w = model.vector
    patients: deque[RandomisedPatient] = deque(maxlen=POOL)
    begun, saved, before = clock(), clock(), progress.seconds
    while progress.done < plan.steps:
        step = progress.done
        # The pool is a function of the step alone: a continued run fills it again.
        missing = range(step, step + POOL) if not patients else range(step + POOL - 1, step + POOL)
        patients.extend(patient(plan.seed, index) for index in missing)
        progress.pending.append(_step(model, plan, progress, list(patients)))
        progress.done += 1
        progress.seconds = before + clock() - begun
        if len(progress.pending) == 100:
            progress.losses.append(sum(progress.pending) / 100)
            progress.pending.clear()
            say(f"step {progress.done} of {plan.steps}: loss {progress.losses[-1]:.3f}, {progress.seconds:.0f} s")
        over = minutes is not None and clock() - begun >= 60 * minutes
        if over or clock() - saved >= SAVE_EVERY_S:
            save(state, spec, plan, progress)
            saved = clock()
        if over:
            return progress.done >= plan.steps
    save(state, spec, plan, progress)
    return True


def save(path: Path, spec: Network, plan: Plan, progress: Progress) -> None:
    """Write the state of a run whole or not at all."""
    arrays = {name: getattr(progress, name).numpy() for name in ("w", "first", "second")}
    meta = {"plan": asdict(plan)}
    meta |= {name: getattr(progress, name) for name in ("done", "losses", "pending", "seconds")}
    checkpoint.save(path, arrays, fingerprint(spec), meta)


def resume(path: Path, spec: Network, plan: Plan) -> Progress:
    """Return the state that `save` wrote.

    ModelRefused is raised for a damaged file and another network, ConfigRefused for
    a plan that begins otherwise.
    """
    arrays, meta = checkpoint.load(path, fingerprint(spec))
    if not plan.continues(Plan(**meta["plan"]), meta["done"]):
        raise ConfigRefused(
            f"the pretraining in {path}",
            found=", ".join(f"{name} {value}" for name, value in meta["plan"].items()) + f", done {meta['done']}",
            expected=", ".join(f"{name} {value}" for name, value in asdict(plan).items()),
            fix="give the seed and steps with which it was begun (other steps only before its rate falls), or another --out",
        )
    w, first, second = (torch.from_numpy(arrays[name].copy()) for name in ("w", "first", "second"))
    return Progress(w, first, second, meta["done"], meta["losses"], meta["pending"], meta["seconds"])


def held_out(spec: Network, w: Tensor, patients: int) -> dict[str, float]:
    """Return the mean Dice on held-out randomised phantoms, over all and by region.

    They are the patients 0 .. patients - 1 of HELD_OUT_SEED, each predicted whole.
    """
    model = FlatModel(spec.build(0))
    model.load(w)
    rows = []
    for index in range(patients):
        one = patient(HELD_OUT_SEED, index)
        predicted = predict_regions(model.module, one.image, one.present, WINDOW, "cpu", REGIONS)
        truth = REGIONS.targets(one.labels, KIND).astype(bool)
        rows.append(case_scores(predicted, truth, REGIONS.known(KIND), one.spacing_mm, REGIONS.names, with_hd95=False))
    keys = ("dice_mean", *(f"dice_{name}" for name in REGIONS.names))
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in keys}


def adam(w: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, rate: float) -> None:
    """Take step number `step` (from 0) of Adam in place, as torch.optim.Adam does."""
    a, b = BETAS
    first.mul_(a).add_(gradient, alpha=1 - a)
    second.mul_(b).addcmul_(gradient, gradient, value=1 - b)
    scale = (second / (1 - b ** (step + 1))).sqrt_().add_(EPSILON)
    w.addcdiv_(first, scale, value=-rate / (1 - a ** (step + 1)))


def _step(model: FlatModel, plan: Plan, progress: Progress, patients: list[RandomisedPatient]) -> float:
    """Take one step and return its loss."""
    step = progress.done
    images, targets = _batch(plan, step, patients)
    known = torch.ones(targets.shape[:2], dtype=torch.bool)
    loss, gradient = model.value_and_grad(model.vector, images, lambda logits: dice_bce(logits, targets, known))
    norm = float(gradient.norm())
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise ConfigRefused(
            f"step {step} of the pretraining",
            found=f"loss {loss}, gradient of norm {norm}",
            expected="finite numbers",
            fix="start again with another --seed",
        )
    if norm > plan.clip_norm:
        gradient.mul_(plan.clip_norm / norm)
    adam(model.vector, gradient, progress.first, progress.second, step, plan.rate(step))
    return loss


def _batch(plan: Plan, step: int, patients: list[RandomisedPatient]) -> tuple[Tensor, Tensor]:
    """Return (network input, targets uint8) of one step."""
    rng = stream(plan.seed, "pretraining batch", step)
    size = PATCHES[int(rng.integers(len(PATCHES)))]
    chosen = [patients[int(i)] for i in rng.choice(len(patients), plan.batch, replace=False)]
    cuts: list[Any] = [
        sample_patch(one.image, one.labels, np.argwhere(one.labels > 0), size, rng, FOREGROUND_SHARE) for one in chosen
    ]
    generator = torch.Generator().manual_seed(derive(plan.seed, "pretraining augmentation", step))
    images, present, targets = Augment()(
        torch.from_numpy(np.stack([image for image, _ in cuts])),
        torch.from_numpy(np.stack([one.present for one in chosen])),
        torch.from_numpy(np.stack([REGIONS.targets(labels, KIND) for _, labels in cuts])),
        generator,
    )
    return network_input(images, present), targets
