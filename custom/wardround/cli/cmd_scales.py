"""`wardround scales` finds a clip and scales for hospital-level noise, from a synthetic
hospital that takes no part in the job.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, command, positive, say, table
from wardround.jobs.job import Job

TEXT = """
Find the clip and the scales of a job with hospital-level privacy without asking any hospital. The command trains one round of
the job at a synthetic hospital that takes no part, and prints the settings for `wardround jobs write` or `jobs run`.

  wardround scales brats_dp_adaptive
  wardround scales brats_dp_adaptive --set sharing=head_alone

The scale of a group of blocks is (v / h)^(1/4), where v is its mean squared update and h its mean squared gradient. Noise is
wide where the loss is flat and updates are large. For isotropic noise use the second pair of settings.
"""
# The index of a synthetic hospital beyond the four that jobs simulate, and how many
# batches estimate its gradients.
PUBLIC, BATCHES = 8, 16


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "scales",
        "clip and scales for hospital-level noise, from synthetic data",
        TEXT,
        run,
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a job with hospital-level privacy (`wardround jobs list`)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting of the job",
    )
    parser.add_argument(
        "--patients",
        type=positive,
        default=12,
        metavar="N",
        help="synthetic patients; default 12",
    )


def run(args: argparse.Namespace) -> int:
    """Train one round at a synthetic hospital and print the clip and the scales as
    settings.
    """
    from wardround.dp.scales import groups_of, sizes_of
    from wardround.jobs import recipes

    job = recipes.job(args.name, args.set)
    if job.hospital_noise is None:
        raise ConfigRefused(
            f"job {job.name}",
            found="no hospital-level noise",
            expected="a job whose noise is added to a hospital's whole update",
            fix="brats_dp_adaptive, or another job with --set privacy=dp_adaptive",
        )
    with tempfile.TemporaryDirectory() as place:
        found = _rehearse(job, args.patients, Path(place))
    layout = found.layout
    groups = groups_of(layout)
    s = found.scales
    sizes, ones = sizes_of(layout, groups), (1.0,) * len(s)
    rows = []
    for group, size in enumerate(sizes):
        names = [name.partition(":")[2] for name, g in zip(layout.names, groups, strict=True) if g == group]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        values = [f"{value:.3g}" for value in (found.v[group], found.h[group], s[group])]
        rows.append([str(group), f"{names[0]}{more}", str(size), *values])
    print(table(["group", "blocks", "values", "v", "h", "scale"], rows))
    print(f"{layout.total} shared values. Adaptive noise, then isotropic noise:\n")
    print(f'  --set dp.max_update_norm={_short(found.clip(s))} --set "scaling.start=[{", ".join(map(_short, s))}]"')
    print(f'  --set dp.max_update_norm={_short(found.clip(ones))} --set "scaling.start=[]"')
    return DONE


def _rehearse(job: Job, patients: int, place: Path) -> Any:
    from wardround.data.site_config import SiteConfig
    from wardround.jobs.building import build
    from wardround.models.flat import first_weights
    from wardround.research.scale_estimation import estimate
    from wardround.synthetic.hospitals import hospital
    from wardround.training.splitting import split_of

    profile = hospital(PUBLIC)
    seed = job.task["seed"]
    phantoms = job.task["phantoms"]
    say(f"one round at a synthetic hospital ('{profile.name}', {patients} patients) that takes no part")
    made = {**phantoms, "args": {**phantoms["args"], "patients": patients}}
    build(made, "phantoms").write(place / "cases", profile, seed)
    spec, sampling = (
        build(job.task["model"], "model"),
        build(job.task["sampling"], "sampling"),
    )
    cohort = sampling.cohort(SiteConfig(data=place / "cases"), place / "cache", say)
    site = sampling.open(profile.name, cohort, split_of(cohort), spec, seed, "cpu")
    algorithm, schedule = (
        build(job.algorithm["site"], "algorithm"),
        build(job.federation["schedule"], "schedule"),
    )
    sharing = build(job.sharing, "sharing")
    return estimate(
        site,
        algorithm,
        sharing,
        first_weights(spec, seed),
        schedule.steps(0),
        BATCHES,
    )


def _short(value: float) -> str:
    return f"{value:.4g}"
