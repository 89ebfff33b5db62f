"""Seconds of a training step of the vision transformer against plain loops, and what KL masks cost (that and a U-Net).

Steps: timm's vit_tiny_patch16_224 at full depth, one image of 128 x 128, batch 8, three classes, one fixed batch. All loops read
the loss out after every step and take SGD steps with Nesterov momentum.

    ours    FlatModel.gradient + algorithms.base.descend, with its clipping and its checks, on ViTFusion
    same    the same network and weights: forward, cross-entropy, backward, torch.optim.SGD.step; no clipping
    clipped the same with torch.nn.utils.clip_grad_norm_ before the step: what ours does
    timm    timm.create_model with its own head instead: no fusion block, no marks of what is absent; the same plain loop

`ratio` is ours / same, `clipped_ratio` and `timm_ratio` likewise: medians over steps taken in turn, the rivals' order changes.
What ours does once a round (a copy of the weights, a check that all is finite) is not in a step.
`cpu_...`: the same of CPU seconds of this process, for a machine that others use as well.
Masks: the jobs tumour_type_klmask (ViT) and brats_klmask (U-Net), read off app_configs, on 4 phantom hospitals in this process.
`due` is the median over hospitals and rounds with a mask of (end of local training - end of its last gradient) / (all of
local training); `job` is the same of the sums over all rounds of the job, with a mask or without, and `job_2` that of a job
that makes masks in every second round only (`--set sharing.every=2`). Serialising, sending and waiting, which make a
round longer, are not in it.

    OMP_NUM_THREADS=1 python benchmarks/vit_step.py --json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common import Part, Parts, Table, arguments, command, finish, kept, known, show, table
from job_sites import job_sites
from methods import MEAN
from overhead_data import median
from wardround.algorithms.base import LocalEnd, LocalStart, Steps, descend
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.schedule import Schedule
from wardround.jobs.recipes import job
from wardround.models.flat import FlatModel
from wardround.models.torchvision_adapter import open_torchvision
from wardround.models.vit import ViTFusion
from wardround.research.in_process import InProcessFederation

QUICK = ("num_rounds=2", "work=4", "phantoms.patients=9")
NAME, SIDE, BATCH, CLASSES = "vit_tiny_patch16_224", 128, 8, 3
WARM = 2
STEPS = Steps(1, 0.02, 0.9, nesterov=True, clip_norm=1.0)
LOOPS = {
    "ours": "our step",
    "same": "plain loop, same network",
    "clipped": "the same, clipped",
    "timm": "plain loop, timm's network",
}
JOBS = ("tumour_type_klmask", "brats_klmask")
SHARES = {"due": "in a round with a mask", "job": "over the whole job", "job_2": "over a job with every=2"}
RATIOS = {"ratio": "ours / same", "clipped_ratio": "ours / clipped", "timm_ratio": "ours / timm's"}

Step = Callable[[], None]
Times = tuple[float, float]


def clocks() -> Times:
    """Return (wall, CPU of this process) seconds."""
    return time.perf_counter(), time.process_time()


def since(begun: Times) -> Times:
    """Return seconds since then on both clocks."""
    wall, cpu = clocks()
    return wall - begun[0], cpu - begun[1]


def plain_step(module: nn.Module, inputs: Tensor, labels: Tensor, clip: float = 0.0) -> Step:
    """Return a function that takes a step as a script without a framework does; clip 0: none."""
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=STEPS.lr, momentum=STEPS.momentum, nesterov=True)

    def step() -> None:
        optimiser.zero_grad()
        loss = functional.cross_entropy(module(inputs), labels)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimiser.step()
        loss.item()

    return step


def measure_steps(depth: int, repeats: int) -> dict[str, float]:
    """Walk one `descend` of ours with a step of every rival before each of its own; depth 0: as many blocks as timm has."""
    open_torchvision()
    import timm

    network = ViTFusion(NAME, 1, (SIDE, SIDE), 0, CLASSES, "shared", depth=depth)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 1, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    nothing = torch.zeros(BATCH, 0)
    inputs = network.case.pack(images, torch.ones(BATCH, 1), nothing, nothing)
    kept = {"depth": depth} if depth else {}
    theirs = timm.create_model(NAME, pretrained=False, img_size=SIDE, in_chans=1, num_classes=CLASSES, **kept)
    rivals = {
        "same": plain_step(network.build(0), inputs, labels),
        "clipped": plain_step(network.build(0), inputs, labels, STEPS.clip_norm),
        "timm": plain_step(theirs, images, labels),
    }
    model = FlatModel(network.build(0), "cpu", half=True)
    found: dict[str, list[Times]] = {name: [] for name in LOOPS}
    begun: list[Times] = []

    def direction(w: Tensor) -> tuple[float, Tensor]:
        if begun:
            found["ours"].append(since(begun[-1]))
        names = list(rivals)
        for name in names[len(begun) % len(names) :] + names[: len(begun) % len(names)]:
            start = clocks()
            rivals[name]()
            found[name].append(since(start))
        begun.append(clocks())
        return model.value_and_grad(w, inputs, lambda out: functional.cross_entropy(out, labels), dropout_seed=0)

    # the last step of ours has no next one to end at; its rivals have no pair
    descend(model.vector.clone(), direction, WARM + repeats + 1, STEPS)
    kept_times = {name: times[WARM : WARM + repeats] for name, times in found.items()}
    result: dict[str, float] = {}
    for clock, word in enumerate(("", "cpu_")):
        result |= {f"{word}{name}_ms": 1e3 * median([t[clock] for t in times]) for name, times in kept_times.items()}
        for rival, key in (("same", "ratio"), ("clipped", "clipped_ratio"), ("timm", "timm_ratio")):
            pairs = zip(kept_times["ours"], kept_times[rival], strict=True)
            result[word + key] = median([a[clock] / b[clock] for a, b in pairs])
    return result


class Clocked:
    """An oracle whose `done` is when its last gradient was ready."""

    def __init__(self, objective: Any) -> None:
        self._objective, self.done = objective, clocks()

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        found = self._objective.value_and_grad(w, batch)
        self.done = clocks()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


class Timed:
    """FedAvg with KL masks that write down (of the mask, of local training) on both clocks, for every round."""

    def __init__(self, masks: KLMask) -> None:
        self.masks = masks
        self.home_roles, self.traits = masks.home_roles, masks.traits
        self.title, self.stays = masks.title, masks.stays
        self.found: dict[int, list[tuple[Times, Times]]] = {}

    def train(self, start: LocalStart, objective: Any, steps: Steps) -> LocalEnd:
        """Train as FedAvg does, and remember when this began and when its last gradient was there."""
        self._begun, self._clocked = clocks(), Clocked(objective)
        return FedAvg().train(start, self._clocked, steps)

    def chosen(self, w: Tensor, start: LocalStart, objective: Any, steps: Steps) -> Mapping[str, Tensor]:
        """Choose as the masks do, and write down the times of this round."""
        found = self.masks.chosen(w, start, objective, steps)
        self.found.setdefault(steps.round, []).append((since(self._clocked.done), since(self._begun)))
        return found

    def due(self, every: int) -> list[int]:
        """Return the rounds with a mask, if one is made in every `every`-th from the warm-up on."""
        return [r for r in self.found if r >= self.masks.warm_up and (r - self.masks.warm_up) % every == 0]


class Trained:
    """The algorithm's half of Timed: a job takes its algorithm and its sharing from two values."""

    name, variables = FedAvg.name, FedAvg.variables

    def __init__(self, timed: Timed) -> None:
        self.train = timed.train


def measure_mask(name: str, changed: Sequence[str]) -> dict[str, float]:
    """Run a job, some settings changed, over its phantom hospitals; return the masks' part of local training."""
    made = job(name, changed)
    timed = Timed(KLMask(**made.sharing["args"]))
    schedule = Schedule(**made.schedule)
    with tempfile.TemporaryDirectory() as folder:
        sites = job_sites(made, 0, Path(folder))
        together = InProcessFederation(sites, Trained(timed), MEAN, schedule, sharing=timed)
        together.run(next(iter(sites.values())).model.vector.clone())
    result: dict[str, float] = {"masks": sum(len(timed.found[r]) for r in timed.due(1))}
    for clock, word in enumerate(("", "cpu_")):
        due = [pair for r in timed.due(1) for pair in timed.found[r]]
        result[f"{word}due"] = median([mask[clock] / whole[clock] for mask, whole in due])
        result[f"{word}mask_s"] = median([mask[clock] for mask, _ in due])
        result[f"{word}round_s"] = median([whole[clock] for _, whole in due])
        training = sum(whole[clock] - mask[clock] for pairs in timed.found.values() for mask, whole in pairs)
        for every, key in ((1, "job"), (2, "job_2")):
            masks = sum(mask[clock] for r in timed.due(every) for mask, _ in timed.found[r])
            result[word + key] = masks / (masks + training)
    return result


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return what a step costs, and what masks cost of local training."""
    known(parts, "what", ("step", *JOBS))
    found = {part.key["what"]: part.numbers for part in parts}
    made = {}
    if "step" in found:
        step = found["step"]
        rows = [[words, f"{step[f'{k}_ms']:.1f}", f"{step[f'cpu_{k}_ms']:.1f}", ""] for k, words in LOOPS.items()]
        rows += [[words, f"{step[k]:.3f}", f"{step['cpu_' + k]:.3f}", "1.05"] for k, words in RATIOS.items()]
        mine = [part for part in parts if part.key["what"] == "step"]
        made["step"] = table(["ms of a step, and ratios", "wall", "CPU", "goal"], rows, mine)
    jobs = [part for part in parts if part.key["what"] in JOBS]
    if jobs:
        rows = [
            [
                f"`{part.key['what']}`",
                *(f"{part.numbers[k]:.1%} / {part.numbers['cpu_' + k]:.1%}" for k in SHARES),
                f"{part.numbers['mask_s']:.2f} / {part.numbers['cpu_mask_s']:.2f}",
            ]
            for part in jobs
        ]
        heads = ["masks / local training, wall / CPU", *SHARES.values(), "s of a mask"]
        made["masks"] = table(heads, rows, jobs)
    return made


def main() -> None:
    """Measure what is missing, print the tables."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=20, help="steps of every loop, in turn; 0: masks only")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    with kept("vit_step", args) as parts:
        if not args.show:
            measure(args, parts)
        done = parts.read()
    show(tables(done))
    finish({part.name: part.numbers for part in done}, as_json=args.json)


def measure(args: Any, parts: Parts) -> None:
    """Measure the step, and the masks of both jobs, where they are not there yet."""
    torch.set_num_threads(args.threads)
    repeats, changed = (3, QUICK) if args.quick else (args.repeats, ())
    depth = 2 if args.quick else 0
    if repeats:
        about = {"repeats": repeats, "depth": depth, "threads": args.threads}
        parts.measure({"what": "step"}, about, partial(measure_steps, depth, repeats))
    for name in JOBS:
        about = {"changed": changed, "threads": args.threads}
        parts.measure({"what": name}, about, partial(measure_mask, name, changed))


if __name__ == "__main__":
    command(main)
