"""Which runs does `wardround sweep` make, which are finished, what do they leave?"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, final

from wardround import __version__
from wardround.core import files
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.terminal import say
from wardround.jobs import building
from wardround.jobs.recipes import Job, Json
from wardround.research.parts import Engine, Failure, run_parts
from wardround.research.sweep_run import Setup, one_run
from wardround.research.sweep_sites import Cell, Source

FILE, WORK = "sweep.json", "work-"


def require_plaintext(job: Job) -> None:
    """Raise ConfigRefused for a job that hides or noises what leaves.

    A sweep would do neither.
    """
    if job.privacy["kind"] == "plaintext" and job.dp is None:
        return
    fix = (
        "--set privacy=plaintext sweeps its algorithm WITHOUT noise, which says nothing about the private job; to have that "
        "one, let `wardround partition` make the sites of a setting and `wardround jobs run --sites-file` train there"
        if job.dp is not None
        else "--set privacy=plaintext: a secure sum ends with that model, up to the rounding of its integers "
        "(benchmarks/fixed_point_dice.py measures it)"
    )
    raise ConfigRefused(
        f"a sweep of {job.name}",
        found=job.privacy["title"],
        expected="a job in plaintext: a sweep trains all sites in one process, where nothing is hidden, noised or charged",
        fix=fix,
    )


def setup_of(job: Job) -> Setup:
    """Return what the job trains.

    ConfigRefused is raised for settings that its classes do not take.
    """
    building.require_buildable(job)
    parts = {name: building.build(job.task[name], name) for name in ("model", "sampling", "model_selection")}
    schedule = building.build(job.federation["schedule"], "schedule")
    algorithm, server_optimizer = (
        building.build(job.algorithm["site"], "algorithm"),
        building.build(job.server_optimizer, "server optimizer"),
    )
    sharing = building.build(job.sharing, "sharing")
    return Setup(
        algorithm,
        sharing,
        server_optimizer,
        schedule,
        parts["model"],
        parts["sampling"],
        parts["model_selection"],
    )


def identity(job: Job, data: Json) -> Json:
    """Return everything but the grid on which the numbers depend.

    A folder holds runs of one identity.
    """
    parts = {
        "algorithm": job.algorithm["site"],
        "sharing": job.sharing,
        "server_optimizer": job.server_optimizer,
        "schedule": job.federation["schedule"],
    }
    parts |= {name: job.task[name] for name in ("model", "sampling", "model_selection")}
    found: Json = json.loads(
        json.dumps({"job": job.name, "version": __version__, **parts, "data": data}),
    )
    return found


@final
@dataclass(frozen=True)
class Kept:
    """The finished runs of one sweep.

    <folder>/sweep.json says what they are runs of; <folder>/runs/ holds one file each.
    """

    folder: Path

    @staticmethod
    def open(folder: Path, wanted: Json) -> Kept:
        """Return the folder, made if need be.

        ConfigRefused is raised for a folder that holds anything else, or runs of other
        settings.
        """
        file = folder / FILE
        if not file.is_file():
            if folder.exists() and any(folder.iterdir()):
                raise _another(folder, "files that no sweep wrote")
            files.write(file, json.dumps(wanted, indent=1) + "\n")
            return Kept(folder)
        before = _read(file)
        if different := sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key)):
            raise _another(folder, f"a sweep with another {', '.join(different)}")
        # Left by a sweep that was killed: copies of patients' data must not stay.
        for rest in folder.glob(f"{WORK}*"):
            shutil.rmtree(rest)
        return Kept(folder)

    def find(self, cell: Cell, seed: int) -> Json | None:
        """Return the run of this setting and seed, None if it is not finished."""
        file = self._file(cell, seed)
        return _read(file) if file.is_file() else None

    def keep(self, cell: Cell, seed: int, run: Json) -> None:
        """Write a finished run, whole or not at all."""
        files.write(self._file(cell, seed), json.dumps(run, indent=1, allow_nan=False) + "\n")

    def _file(self, cell: Cell, seed: int) -> Path:
        name = hashlib.sha256(
            json.dumps([cell.as_json(), seed], sort_keys=True).encode(),
        ).hexdigest()[:16]
        return self.folder / "runs" / f"{name}.json"


def run_all(
    setup_for: Callable[[Cell], Setup],
    source: Source,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    kept: Kept,
    engine: Engine | None = None,
) -> tuple[list[list[Json]], list[Failure]]:
    """Return the runs of every setting, one per seed, and those that failed.

    Finished ones are read, the others are trained now, where `engine` says (by default
    in this process). A setting with a failed run has fewer runs than seeds.
    """
    todo = [(cell, seed) for cell in cells for seed in seeds]
    say(f"{len(cells)} settings x {len(seeds)} seeds")

    def keep(key: tuple[Cell, int], seconds: float, run: Json) -> None:
        kept.keep(*key, run | {"seconds": seconds})
        means = {
            name: fmean(site["test"][name]["value"] for site in run["sites"].values())
            for name in ("local", "federated", "tuned")
        }
        say("  " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()))

    failures = run_parts(
        partial(_trained, {cell: setup_for(cell) for cell in cells}, source, kept.folder),
        todo,
        lambda key: kept.find(*key) is not None,
        keep,
        engine or Engine(),
        say,
        lambda key: f"{key[0]}, seed {key[1]}",
    )
    found = [[kept.find(cell, seed) for seed in seeds] for cell in cells]
    return [[run for run in mine if run is not None] for mine in found], failures


def _trained(setups: Mapping[Cell, Setup], source: Source, folder: Path, key: tuple[Cell, int]) -> Json:
    """Return one run. What it writes is patients' data, and is removed at its end."""
    cell, seed = key
    with TemporaryDirectory(prefix=WORK, dir=folder) as place:
        return one_run(setups[cell], source, cell, seed, Path(place), say)


def _read(file: Path) -> Json:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataRefused(
            f"the file {file}",
            found="no JSON object",
            expected="what a sweep wrote",
            fix="delete it, it is made again",
        )
    return content


def _another(folder: Path, found: str) -> ConfigRefused:
    return ConfigRefused(
        f"the folder {folder}",
        found=found,
        expected="a new folder, or one with runs of the same job, settings, data and version; only alpha, missing, scanner, "
        "sites, seeds and the settings of --over may differ",
        fix="name another folder with --out",
    )
