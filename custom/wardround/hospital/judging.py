"""How one hospital judges the models it could deploy: local, FedAvg, FedAvg + fine-tune, personalised.

Everything is chosen on validation patients (the number of fine-tuning steps, the model to deploy); the test patients are
scored once, at the end. Only means, intervals and counts are meant to leave (`Judgement.numbers`); rows stay at the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from wardround.algorithms.base import Steps
from wardround.algorithms.federation import local_only
from wardround.algorithms.finetune import fine_tune
from wardround.algorithms.schedule import Schedule
from wardround.errors import ConfigRefused
from wardround.hospital.segmentation import SegmentationSite
from wardround.reports.intervals import bootstrap_mean, paired_gain
from wardround.reports.verdict import choose

Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Judging:
    """Fine-tuning offered to every model alike: `steps` SGD steps (one is chosen on validation) at learning rate `lr`."""

    steps: Sequence[int]
    lr: float

    def __post_init__(self) -> None:
        if 0 not in self.steps or len(self.steps) < 2 or min(self.steps) < 0 or not 0 < self.lr < 10:
            raise ConfigRefused(
                "the fine-tuning choices",
                found=f"steps {list(self.steps)}, lr {self.lr}",
                expected="0 and at least one positive number of steps, 0 < lr < 10",
                fix="correct `judging` in the job, for example steps [0, 1, 5, 20]",
            )


@dataclass(frozen=True)
class Judgement:
    """numbers: may leave the site | rows: per patient, stay | weights: the models that were judged, stay."""

    numbers: dict[str, Any]
    rows: Mapping[str, Rows]
    weights: Mapping[str, Tensor]


def judge(
    site: SegmentationSite, arms: Mapping[str, Tensor], initial: Tensor, schedule: Schedule, judging: Judging
) -> Judgement:
    """Judge every candidate that `arms` allows.

    arms: "fedavg" gives the candidates fedavg and fedavg_finetuned; "personalised" gives personalised.
    initial: where the local baseline starts; it does the same work on the same schedule as the federation, alone.
    """
    validate, test = site.split.val, site.split.test
    picked: dict[str, tuple[int, float, Tensor]] = {}
    local = local_only(site.oracle("local"), schedule, initial)
    picked["local"] = (0, site.mean_dice(local, validate), local)
    for arm, w in arms.items():
        tuned = _tuned(site, arm, w, judging)
        if arm == "fedavg":
            picked["fedavg"] = tuned[0]
            picked["fedavg_finetuned"] = max(tuned[1:], key=lambda option: option[1])
        else:
            picked["personalised"] = max(tuned, key=lambda option: option[1])
    rows = {name: by_patient(site, test, site.scores(w, test, with_hd95=True)) for name, (_, _, w) in picked.items()}
    candidates = {
        name: {
            "k": k,
            "val": val,
            "test": intervals(rows[name], site.seed),
            "gain": None if name == "local" else _gain(rows[name], rows["local"], site.seed),
        }
        for name, (k, val, _) in picked.items()
    }
    patients = len({site.cohort.patients[case] for case in validate})
    deploy = choose({name: val for name, (_, val, _) in picked.items()}, patients)
    return Judgement(
        {"candidates": candidates, "deploy": deploy}, rows, {name: w for name, (_, _, w) in picked.items()}
    )


def shared_only(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may leave under differential privacy: the scores of the shared model, which is private itself.

    Every other candidate was trained or tuned on this site's patients without noise; so was what it is compared with, and
    what the site chooses. All of that stays in the site's own report.
    """
    shared = {name: {**one, "gain": None} for name, one in numbers["candidates"].items() if name == "fedavg"}
    return {**numbers, "candidates": shared, "deploy": None}


def by_patient(site: SegmentationSite, cases: Sequence[str], rows: Rows) -> Rows:
    """Average the rows of all scans of one patient: the patient is the unit of every count and interval."""
    groups: dict[str, Rows] = {}
    for case, row in zip(cases, rows, strict=True):
        groups.setdefault(site.cohort.patients[case], []).append(row)
    return [{key: float(np.mean([row[key] for row in group])) for key in group[0]} for group in groups.values()]


def _tuned(site: SegmentationSite, arm: str, w: Tensor, judging: Judging) -> list[tuple[int, float, Tensor]]:
    ks = sorted(judging.steps)
    steps = Steps(work=max(ks), lr=judging.lr)
    snapshots = fine_tune(w, site.oracle("fine-tune"), ks, steps)
    return [(k, site.mean_dice(snapshots[k], site.split.val), snapshots[k]) for k in ks]


def intervals(rows: Rows, seed: int) -> dict[str, dict[str, Any]]:
    """Return metric -> mean with its interval over patients, one row per patient."""
    return {key: asdict(bootstrap_mean([row[key] for row in rows], seed)) for key in rows[0]}


def _gain(rows: Rows, reference: Rows, seed: int) -> dict[str, Any]:
    return asdict(paired_gain([r["dice_mean"] for r in rows], [r["dice_mean"] for r in reference], seed))
