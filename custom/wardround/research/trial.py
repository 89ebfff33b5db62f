"""Does a new algorithm train? A first look on four synthetic hospitals.

It runs in this process, before the algorithm becomes a job. What a site does is what it
does in a job (`research.sweep_run.one_run`); nothing is hidden, noised or charged here.
The patients are invented, so the scores say that a method trains, and no more.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from wardround.algorithms.base import Algorithm
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean, ServerOptimizer
from wardround.algorithms.sharing import EVERYTHING, Sharing
from wardround.models.nets import UNet3d
from wardround.research.sweep_run import Setup, one_run
from wardround.research.sweep_sites import Cell, MaskedPhantoms
from wardround.training.evaluation import ModelSelection
from wardround.training.opening import Phantoms
from wardround.training.segmentation import Sampling

# Small, so that a first look takes little time on a CPU.
SITES = 4
PATIENTS = 10
SHAPE = (24, 24, 24)
PATCH = (16, 16, 16)
CHANNELS = (4, 8, 16)


def four_hospitals(
    algorithm: Algorithm,
    num_rounds: int = 3,
    work: int = 20,
    lr: float = 0.1,
    seed: int = 0,
    sharing: Sharing = EVERYTHING,
    server_optimizer: ServerOptimizer | None = None,
) -> dict[str, dict[str, float]]:
    """Return the mean Dice on each site's test patients, by site and model.

    The models are "local" (the hospital alone, with the same amount of work as in the
    federation), "federated" (its model after the last round, as the federation leaves
    it) and "tuned" (that model after a few steps on its own patients; how many is
    chosen on validation).
    work: Gradient evaluations of a site in one round.
    server_optimizer: What the server does; by default it takes the mean.

    The sites have different scanners. The same arguments give the same numbers on one
    machine.
    """
    setup = Setup(
        algorithm,
        sharing,
        server_optimizer or Mean(1.0),
        Schedule(num_rounds, work, lr, 0.9, True, 0.0, 10.0, "cosine"),
        UNet3d(channels=CHANNELS),
        Sampling(PATCH, 2, tumour_probability=0.67, augment=True),
        ModelSelection((0, 5), lr=0.01),
    )
    source = MaskedPhantoms(Phantoms(SHAPE, 0), PATIENTS, seed)
    cell = Cell(SITES, alpha=None, missing=(), scanner=True)
    source.require(cell, seed)
    with TemporaryDirectory() as place:
        run = one_run(setup, source, cell, seed, Path(place), lambda text: None)
    return {
        site: {name: round(score["value"], 3) for name, score in found["test"].items()}
        for site, found in run["sites"].items()
    }
