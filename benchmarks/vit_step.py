"""Seconds of a training step of the vision transformer against plain loops, and what a KL mask costs in a round.

Steps: timm's vit_tiny_patch16_224 at full depth, one image of 128 x 128, batch 8, three classes, one fixed batch. All loops read
the loss out after every step and take SGD steps with Nesterov momentum.

    ours    FlatModel.gradient + algorithms.base.descend, with its clipping and its checks, on ViTFusion
    same    the same network and weights: forward, cross-entropy, backward, torch.optim.SGD.step; no clipping
    clipped the same with torch.nn.utils.clip_grad_norm_ before the step: what ours does
    timm    timm.create_model with its own head instead: no fusion block, no marks of what is absent; the same plain loop

`ratio` is ours / same, `clipped_ratio` and `timm_ratio` likewise: medians over steps taken in turn, the rivals' order changes.
What ours does once a round (a copy of the weights, a check that all is finite) is not in a step.
`cpu_...`: the same of CPU seconds of this process, for a machine that others use as well.
Mask: the job tumour_type_klmask, read off app_configs (4 phantom hospitals, work 30, `every` 1, `batches` 1), in this process.
`mask_share` is the median over hospitals and rounds with a mask of (end of local training - end of its last gradient) /
(all of local training); serialising, sending and waiting, which make a round longer, are not in it.

    OMP_NUM_THREADS=1 python benchmarks/vit_step.py --json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common import arguments, finish, say
from methods import MEAN, sum_of
from overhead_data import median
from wardround.algorithms.base import LocalEnd, LocalStart, Steps, descend
from wardround.algorithms.federation import SiteSide, run
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.schedule import Schedule
from wardround.data.hospitals import hospital
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.hospital.classification import CaseSampling, ClassificationSite
from wardround.hospital.opening import TypePhantoms
from wardround.jobs.recipes import job
from wardround.models.flat import FlatModel
from wardround.models.torchvision_door import open_torchvision
from wardround.models.vit import ViTFusion

NAME, SIDE, BATCH, CLASSES = "vit_tiny_patch16_224", 128, 8, 3
WARM = 2
STEPS = Steps(1, 0.02, 0.9, nesterov=True, clip_norm=1.0)
LOOPS = {
    "ours": "our step",
    "same": "plain loop, same network",
    "clipped": "the same, clipped",
    "timm": "plain loop, timm's network",
}
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
        return model.gradient(w, inputs, lambda out: functional.cross_entropy(out, labels), dropout_seed=0)

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

    def __init__(self, oracle: Any) -> None:
        self._oracle, self.done = oracle, clocks()

    def gradient(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        found = self._oracle.gradient(w, batch)
        self.done = clocks()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._oracle, name)


class Timed:
    """KL masks that write down (of the mask, of local training) on both clocks, for every round with a mask."""

    def __init__(self, algorithm: KLMask) -> None:
        self.algorithm = algorithm
        self.name, self.banks, self.home_roles = algorithm.name, algorithm.banks, algorithm.home_roles
        self.found: list[tuple[Times, Times]] = []

    def train(self, start: LocalStart, oracle: Any, steps: Steps) -> LocalEnd:
        begun, clocked = clocks(), Clocked(oracle)
        end = self.algorithm.train(start, clocked, steps)
        if steps.round >= self.algorithm.warm_up:
            self.found.append((since(clocked.done), since(begun)))
        return end

    def personal(self, start: LocalStart) -> Tensor:
        return self.algorithm.personal(start)


def job_sites(task: Mapping[str, Any], folder: Path) -> dict[str, ClassificationSite]:
    """Return the job's four phantom hospitals with its network, sampling and number of patients."""
    sampling, network = CaseSampling(**task["sampling"]["args"]), ViTFusion(**task["model"]["args"])
    sites = {}
    for index in range(4):
        profile = hospital(index)
        TypePhantoms(**task["phantoms"]["args"]).write(folder / profile.name, profile, 0)
        config = SiteConfig(data=folder / profile.name)
        cohort = sampling.cohort(config, folder / "cache" / profile.name, lambda words: None)
        split = split_patients(cohort.patients)
        sites[profile.name] = sampling.open(profile.name, cohort, split, network, 0, "cpu")
    return sites


def measure_mask(changed: Mapping[str, int]) -> dict[str, float]:
    """Run rounds of the job, some settings changed, over its phantom hospitals; return the mask's part of local training."""
    made = job("tumour_type_klmask")
    algorithm = Timed(KLMask(**made.algorithm["site"]["args"]))
    schedule = Schedule(**made.federation["schedule"]["args"] | changed)
    with tempfile.TemporaryDirectory() as folder:
        sites = job_sites(made.task, Path(folder))
        sides = {
            name: SiteSide(lambda r, one=one: one.oracle("train", r), one.train_patients, one.layout, one.roles)
            for name, one in sites.items()
        }
        first = next(iter(sites.values()))
        blocks = first.layout.unflatten(first.model.vector.numpy().copy())
        run(sides, algorithm, MEAN, schedule, blocks, new_sum=sum_of(algorithm.algorithm))
    result: dict[str, float] = {"masks": len(algorithm.found)}
    for clock, word in enumerate(("", "cpu_")):
        result[f"{word}mask_share"] = median([mask[clock] / whole[clock] for mask, whole in algorithm.found])
        result[f"{word}mask_s"] = median([mask[clock] for mask, _ in algorithm.found])
        result[f"{word}round_s"] = median([whole[clock] for _, whole in algorithm.found])
    return result


def main() -> None:
    """Measure both, print the table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=20, help="steps of every loop, in turn")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of the job, the first without a mask")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    repeats, changed = (3, {"rounds": 2, "work": 4}) if args.quick else (args.repeats, {"rounds": args.rounds})
    found = measure_steps(2 if args.quick else 0, repeats)
    say(f"step: {found}")
    found |= measure_mask(changed)
    print("| | wall | CPU | bound |")
    print("|---|---|---|---|")
    for name, words in LOOPS.items():
        print(f"| {words}, ms | {found[f'{name}_ms']:.1f} | {found[f'cpu_{name}_ms']:.1f} | |")
    for key, words in RATIOS.items():
        print(f"| {words} | {found[key]:.3f} | {found['cpu_' + key]:.3f} | 1.05 |")
    print(f"| mask, s | {found['mask_s']:.2f} | {found['cpu_mask_s']:.2f} | |")
    print(f"| local training with its mask, s | {found['round_s']:.2f} | {found['cpu_round_s']:.2f} | |")
    print(f"| mask / local training | {found['mask_share']:.1%} | {found['cpu_mask_share']:.1%} | 5 % |")
    finish(found, as_json=args.json)


if __name__ == "__main__":
    main()
