"""Seconds per optimisation step: the site's loop against a MONAI loop, alternating in one process on the same patients.

Both: the same U-Net (MONAI's, 8 -> 3 channels, instance norm), the same decoded phantoms in memory or page cache, the same
patch, batch, Dice + binary cross-entropy, SGD with Nesterov momentum, loss read out after every step, default threads.

    ours    SiteObjective.draw + gradient + algorithms.base.descend, with its gradient clipping and its checks
    MONAI   as in MONAI's tutorials: CacheDataset, dictionary transforms, DataLoader (num_workers 0), zero_grad, forward,
            backward, torch.optim.SGD.step; no clipping. The presence channels are added to the finished batch.

Rows (ours augments in full in the first two):
    matched    MONAI has crop (2/3 around tumour, places known beforehand), flips, scale, shift, bias field, noise (1 in 4)
    tutorial   MONAI has what its BraTS tutorial has: random crop, flips, scale, shift. It does less than ours
    crops      neither augments: only the patches are cut at random
    compute    neither draws: one fixed batch, so only network, loss and optimiser
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from overhead_data import PATCH, median, phantom_folder, phantom_site

ROWS = ("matched", "tutorial", "crops", "compute")
LR, MOMENTUM = 0.01, 0.9


def measure(
    folder: Path, *, patients: int, batches: tuple[int, ...], steps: int, repeats: int, rows: tuple[str, ...] = ROWS
) -> dict[str, dict[str, float]]:
    """Return "row, batch B" -> ours_s, monai_s (medians of seconds per step) and ratio (median of the paired ratios)."""
    data = phantom_folder(folder / "train", patients)
    table = {}
    for batch in batches:
        for row in rows:
            site = phantom_site(data, folder / "train_cache", batch, augment=row in ("matched", "tutorial"))
            ours, monai = our_loop(site, row), monai_loop(site, row, batch)
            table[f"{row}, batch {batch}"] = paired(ours, monai, steps, repeats)
    return table


def paired(ours: Callable[[int], None], monai: Callable[[int], None], steps: int, repeats: int) -> dict[str, float]:
    """Run both in turn, `repeats` times `steps` steps after two to warm up; who begins changes every time."""
    ours(2)
    monai(2)
    seconds: dict[str, list[float]] = {"ours": [], "monai": []}
    for repeat in range(repeats):
        order = [("ours", ours), ("monai", monai)]
        for name, loop in order if repeat % 2 == 0 else order[::-1]:
            begun = time.perf_counter()
            loop(steps)
            seconds[name].append((time.perf_counter() - begun) / steps)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["monai"], strict=True)]
    return {"ours_s": median(seconds["ours"]), "monai_s": median(seconds["monai"]), "ratio": median(ratios)}


def our_loop(site: Any, row: str) -> Callable[[int], None]:
    """Return a function that takes n steps as a site does in a round."""
    from wardround.algorithms.base import Steps, descend, plain

    objective, w = site.objective("overhead"), site.model.vector.clone()
    steps = Steps(work=1, lr=LR, momentum=MOMENTUM, nesterov=True, clip_norm=10.0)
    fixed = objective.sample(1)[0]
    direction = (lambda v: objective.value_and_grad(v, fixed)) if row == "compute" else plain(objective)

    def run(count: int) -> None:
        descend(w, direction, count, steps)

    return run


def monai_loop(site: Any, row: str, batch: int) -> Callable[[int], None]:
    """Return a function that takes n steps as MONAI's tutorials do, on the patients the site trains on."""
    import torch
    from monai.losses import DiceLoss
    from torch import nn

    network = monai_network()
    optimiser = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True)
    dice, cross_entropy = DiceLoss(sigmoid=True), nn.BCEWithLogitsLoss()
    batches = monai_batches(site, row, batch)
    fixed = next(batches)
    total = 0.0

    def run(count: int) -> None:
        nonlocal total
        network.train()
        for _ in range(count):
            images, targets = fixed if row == "compute" else next(batches)
            optimiser.zero_grad()
            logits = network(images)
            loss = dice(logits, targets) + cross_entropy(logits, targets)
            loss.backward()
            optimiser.step()
            total += loss.item()

    return run


def monai_network() -> Any:
    """Return MONAI's own U-Net with the settings of our default one."""
    from monai.networks.nets import UNet

    from wardround.models.nets import AFFINE_INSTANCE, UNet3d

    ours = UNet3d()
    return UNet(
        spatial_dims=3,
        in_channels=ours.in_channels,
        out_channels=ours.out_channels,
        channels=ours.channels,
        strides=(2,) * (len(ours.channels) - 1),
        num_res_units=ours.residual_units,
        norm=AFFINE_INSTANCE,
    )


def monai_batches(site: Any, row: str, batch: int) -> Iterator[tuple[Any, Any]]:
    """Yield (images [B, 8, H, W, D], targets [B, 3, H, W, D]) for ever, an epoch after the other."""
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import Compose
    from monai.utils import set_determinism

    set_determinism(0)
    cases = [monai_case(site, case) for case in site.split.train]
    dataset = CacheDataset(cases, Compose([*_decoded(), *_random(row)]), cache_rate=1.0, progress=False)
    loader = DataLoader(dataset, batch_size=min(batch, len(cases)), shuffle=True, num_workers=0, drop_last=True)
    while True:
        for drawn in loader:
            images = drawn["image"].as_tensor()
            present = drawn["present"].as_tensor().expand(-1, -1, *images.shape[2:])
            yield torch.cat([images, present], 1), drawn["label"].as_tensor()


def monai_case(site: Any, case: str) -> dict[str, Any]:
    """Return one decoded case in the form in which MONAI's transforms would have cached it."""
    from wardround.tasks.brain_tumours import REGIONS
    from wardround.training.patch_objective import labels_of

    volume = site.volume(case)
    regions = REGIONS.targets(labels_of(volume), site.cohort.label_kind)
    return {
        "image": np.asarray(volume.image, np.float32),
        "label": regions.astype(np.float32),
        "tumour": regions[2:].astype(np.float32),
        "present": volume.present.astype(np.float32)[:, None, None, None],
    }


def _decoded() -> list[Any]:
    """Return the deterministic transforms, which CacheDataset runs once."""
    from monai.transforms import EnsureTyped, FgBgToIndicesd

    return [EnsureTyped(("image", "label", "tumour", "present")), FgBgToIndicesd("tumour")]


def _random(row: str) -> list[Any]:
    """Return the random transforms of a row."""
    from monai import transforms as t

    both = ("image", "label")
    around = t.RandCropByPosNegLabeld(
        both,
        label_key="tumour",
        spatial_size=PATCH,
        pos=2,
        neg=1,
        num_samples=1,
        fg_indices_key="tumour_fg_indices",
        bg_indices_key="tumour_bg_indices",
    )
    # the indices differ in length between patients and are of no use in a batch
    kept = t.SelectItemsd(("image", "label", "present"))
    if row in ("crops", "compute"):
        return [around, kept]
    common = [
        *(t.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        t.RandScaleIntensityd("image", factors=0.1, prob=1.0, channel_wise=True),
        t.RandShiftIntensityd("image", offsets=0.1, prob=1.0, channel_wise=True),
    ]
    if row == "tutorial":
        return [t.RandSpatialCropd(both, roi_size=PATCH, random_size=False), kept, *common]
    bias = t.RandBiasFieldd("image", degree=2, coeff_range=(0.0, 0.1), prob=1.0)
    return [around, kept, *common, bias, t.RandGaussianNoised("image", prob=0.25, std=0.15)]
