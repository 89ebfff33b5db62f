"""Checks of a site's data and privacy budget, and one trial round on some of its
patients. Nothing is kept, and nothing leaves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from wardround.algorithms.base import Algorithm, Steps
from wardround.algorithms.federation import local_round
from wardround.algorithms.sharing import Sharing
from wardround.core.errors import Refusal
from wardround.data.cases import survey
from wardround.data.description import is_labelled
from wardround.data.inspection import Inspection, inspect
from wardround.data.labelled import open_labelled
from wardround.data.patients import about_named_patients
from wardround.data.site_config import SiteConfig
from wardround.data.source import BRAIN_MRI, Source
from wardround.data.splits import split_patients
from wardround.dp import ledger_file
from wardround.dp.budget import FILE, read_budget
from wardround.dp.ledger import Ledger
from wardround.models.flat import first_weights
from wardround.models.nets import Network
from wardround.ops.findings import Finding, failed, passed, refused, warned
from wardround.training.opening import pick_device
from wardround.training.task import TaskSampling

# Few enough for a minute, and enough for a split into three parts.
DUMMY_PATIENTS, DUMMY_STEPS = 6, 2
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Looked:
    """What was found in the data.

    findings: one finding for each observation.
    voxels: the number of voxels in all cases, from which the space on disk is
      estimated.
    some: one case of each of a few patients, for the trial round.
    """

    findings: list[Finding]
    voxels: int = 0
    some: tuple[str, ...] = ()


def data(config: SiteConfig, progress: Progress, source: Source = BRAIN_MRI) -> Looked:
    """Read every file once, and report modalities, geometry, labels, counts and the
    split. Each damaged case is one FAIL.
    """
    try:
        return _labelled(config) if is_labelled(config.data) else _volumes(config, progress, source)
    except Refusal as refusal:
        return Looked([refused("data", refusal)])


def _volumes(config: SiteConfig, progress: Progress, source: Source) -> Looked:
    found = inspect(config, progress, source)
    voxels = sum(math.prod(shape) * count for shape, count in found.shapes.items())
    if found.problems:
        return Looked([refused("data", problem) for problem in found.problems], voxels)
    parts = "/".join(str(count) for count in found.split.values())
    words = (
        f"{found.cases} cases, {found.patients} patients ({parts} to train, validate, test), labels {found.label_kind}"
    )
    files, _ = survey(
        config.data,
        config.cases,
        config.patient_pattern,
        labels=config.labels,
        source=source,
    )
    first = {one.patient: one.case for one in reversed(files)}
    return Looked(
        [passed("data", words), *_oddities(found)],
        voxels,
        tuple(sorted(first.values()))[:DUMMY_PATIENTS],
    )


def _oddities(found: Inspection) -> list[Finding]:
    absent = [name for name, count in found.modalities.items() if not count]
    odd = [
        warned(
            "data",
            f"no {', '.join(absent)} in any case",
            "fine if this hospital has none; else look at file names",
        ),
    ]
    few = [
        warned(
            "data",
            f"{found.split['test']} test patient",
            "no interval can be given; add patients",
        ),
    ]
    mixed = [
        warned(
            "data",
            f"{len(found.spacings)} different spacings",
            "patches then differ in mm; resample, or accept it",
        ),
    ]
    told = [warned("data", words, "look at it before the first job") for words in found.warnings]
    unused = f"{len(found.unused)} images or folders are not used, first {found.unused[0]}" if found.unused else ""
    told += (
        [
            warned(
                "data",
                unused,
                "`wardround data check` lists them; rename what is a sequence",
            ),
        ]
        if unused
        else []
    )
    return (
        told
        + (odd if absent else [])
        + (few if found.split["test"] < 2 else [])
        + (mixed if len(found.spacings) > 1 else [])
    )


def _labelled(config: SiteConfig) -> Looked:
    with TemporaryDirectory() as folder:
        found = open_labelled(config, Path(folder))
    split = split_patients(found.patients)
    counts = ", ".join(f"{name} {count}" for name, count in found.class_counts().items())
    words = f"{len(found.cases)} labelled images of {len(set(found.patients.values()))} patients: {counts}"
    untested = [name for name, count in found.class_counts(split.test).items() if not count]
    odd = [
        warned(
            "data",
            f"no test patient with {', '.join(untested)}",
            "nothing will be known about them; add patients",
        ),
    ]
    told = about_named_patients(set(found.patients.values()))
    doubts = [warned("data", doubt, "look at it before the first job") for doubt in told]
    return Looked([passed("data", words), *(odd if untested else []), *doubts], 0, ())


def budget(local: Path, now: datetime) -> list[Finding]:
    """Check the hospital's budget against its ledger: it must be whole, not spent, and
    not from the future.

    Where neither file exists, the result is a WARN: jobs with differential privacy are
    refused here.
    """
    file, ledger = local / FILE, Ledger(local)
    kept = any((local / name).exists() for name in (ledger_file.FILE, ledger_file.HEAD))
    if not file.exists() and not kept:
        example = f'write local/{FILE}, for example {{"patient": {{"epsilon": 8, "delta": 1e-5}}}}'
        return [
            warned(
                "budget",
                "none: jobs with differential privacy are refused here",
                f"if they should run, {example}",
            ),
        ]
    try:
        limits, state = read_budget(file), ledger.state()
        bills = ledger.bills({}, limits)
    except Refusal as refusal:
        return [refused("budget", refusal)]
    found = []
    for bill in bills:
        limit, gone = bill.limit, bill.reserved.epsilon
        words = f"epsilon {gone:.3g} of {limit.epsilon:g} per {limit.unit} is spent or reserved"
        if gone >= limit.epsilon:
            free = "free what ended jobs reserved (`wardround ledger close`), or let the hospital decide on its budget again"
            found.append(failed("budget", f"{words}: nothing is left", free))
        else:
            found.append(passed("budget", words))
    last = max(
        (datetime.fromisoformat(entry.time) for entry in state.chain.entries),
        default=now,
    )
    if last > now:
        words = f"the ledger's last entry is of {last:%Y-%m-%d %H:%M} UTC, later than now"
        found.append(failed("budget", words, "set the clock"))
    return found


@dataclass(frozen=True)
class Rehearsed:
    """The parts of a job that one local round needs."""

    name: str
    algorithm: Algorithm
    sharing: Sharing
    model: Network
    sampling: TaskSampling
    steps: Steps
    seed: int


def dummy_round(
    job: Rehearsed,
    config: SiteConfig,
    some: tuple[str, ...],
    memory_used: Callable[[], int],
) -> Finding:
    """Train a few steps of a job's network on some of this site's patients. They are
    decoded into a folder that is deleted afterwards.

    Data that the job cannot take, too little memory, and a loss that is not a number
    are a FAIL.
    """
    begun = time.monotonic()
    few = replace(config, cases=some or config.cases)
    try:
        with TemporaryDirectory() as folder:
            cohort = job.sampling.cohort(few, Path(folder), lambda text: None)
            split, device = split_patients(cohort.patients), pick_device(config.device)
            site = job.sampling.open(
                "preflight",
                cohort,
                split,
                job.model,
                job.seed,
                device,
            )
            start = {
                variable: first_weights(job.model, job.seed).to(site.device) for variable in job.algorithm.variables
            }
            work = max(DUMMY_STEPS, 2 * len(job.algorithm.variables))
            # Of rates that fall with every step the first ones; too few of them: the first for all.
            rates = job.steps.rates[:work]
            steps = replace(job.steps, work=work, rates=rates if len(rates) == work else ())
            before = time.monotonic()
            _, _, losses = local_round(
                job.algorithm,
                job.sharing,
                start,
                {},
                site.layout,
                site.roles,
                site.objective("train", 0),
                steps,
            )
    except Refusal as refusal:
        return refused("round", refusal)
    except MemoryError:
        return failed(
            "round",
            f"{job.name}: out of memory",
            "print the job with smaller ones: --set sampling.batch=1, or --set sampling.patch=[...]",
        )
    seconds = (time.monotonic() - before) / max(1, len(losses))
    if not all(math.isfinite(loss) for loss in losses):
        return failed(
            "round",
            f"{job.name}: a loss that is not a number",
            "look at the images' values, and the job's lr",
        )
    patients = len(set(cohort.patients.values()))
    words = f"{job.name} on {device}: {patients} patients decoded and {len(losses)} steps in {time.monotonic() - begun:.1f} s"
    return passed(
        "round",
        f"{words}, {seconds:.2f} s per step, {memory_used() / 1e9:.1f} GB at most; nothing was sent",
    )
