"""From a job's name or folder to the files that are submitted or run: who takes part,
and whether code travels along.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.core.errors import ConfigRefused
from wardround.flare import plain_jobs
from wardround.flare.workspaces import sites_of_job
from wardround.jobs import allow_list, packaging, recipes
from wardround.jobs import job_classes as named
from wardround.jobs.building import least_clients, require_buildable
from wardround.jobs.federation_check import require_enough
from wardround.jobs.packaging import Files


@dataclass(frozen=True)
class Form:
    """A job as it travels.

    sites: the sites that its meta.json names; empty means every site that is connected.
    min_clients: how many sites it needs.
    """

    name: str
    files: Files
    sites: tuple[str, ...]
    min_clients: int

    @property
    def foreign(self) -> bool:
        """Return whether no workflow of the job's server is ours, so that it writes no
        report of ours.
        """
        workflows = json.loads(self.files.get(packaging.SIDES[0], b"{}")).get(
            "workflows",
            [],
        )
        return not any(str(one.get("path", "")).startswith("wardround.") for one in workflows)

    @property
    def brings_code(self) -> bool:
        """Return whether NVFlare takes the job for one with code. Any file in
        app/custom is enough for that.
        """
        return any(name.startswith(packaging.CUSTOM) for name in self.files)


def chosen(
    named: str,
    settings: Sequence[str],
    sites: Sequence[str],
) -> tuple[str, Files]:
    """Return (name, files) of a job, given by its name or by the folder that `wardround
    jobs write` printed.

    Settings or sites beside a folder are refused with ConfigRefused. A name is refused
    as recipes.job and require_buildable refuse it.
    """
    place = Path(named).expanduser()
    if not (place / "meta.json").is_file():
        job = recipes.job(named, settings, sites)
        require_buildable(job)
        return job.name, packaging.printed_job(job)
    if settings or sites:
        raise _beside(place, "--set or --sites")
    return place.resolve().name, packaging.read_job(place)


def form(
    named: str,
    settings: Sequence[str] = (),
    sites: Sequence[str] = (),
    *,
    with_code: bool = False,
) -> Form:
    """Return a job without code, or with all of the package's code. A folder that
    brings code of its own travels as it is.

    A job that names fewer sites than it needs in a round is refused with ConfigRefused.
    """
    place = Path(named).expanduser()
    if (place / "meta.json").is_file() and _own_code(place) and not (settings or sites):
        plain_jobs.require_plain_folder(place)
        name, files = place.resolve().name, packaging.all_files(place)
    else:
        name, printed = chosen(named, settings, sites)
        files = packaging.with_code(printed) if with_code else packaging.config_only(printed)
    meta = json.loads(files["meta.json"])
    listed = tuple(sites_of_job(meta))
    made = Form(name, files, listed, int(meta.get("min_clients", 1)))
    if listed:
        require_enough(len(listed), made.min_clients)
    return made


@dataclass(frozen=True)
class Runnable:
    """A job for the simulator.

    title: the job in words.
    sites: the sites that its meta.json names.
    min_clients: how many sites it needs.
    least_sites: the value to which min_clients may be lowered.
    """

    name: str
    title: str
    files: Files
    sites: tuple[str, ...]
    min_clients: int
    least_sites: int


def runnable(named: str, settings: Sequence[str], sites: Sequence[str]) -> Runnable:
    """Return a job given by its name, or a folder as it is.

    sites: the sites that a job names when it is printed here.

    Settings beside a folder, and a folder with a class that no job of this version
    names, are refused with ConfigRefused. A name is refused as recipes.job and
    require_buildable refuse it.
    """
    place = Path(named).expanduser()
    if (place / "meta.json").is_file():
        return _folder(place, settings)
    job = recipes.job(named, settings, sites)
    require_buildable(job)
    title, files = f"{job.name}: {job.title}", packaging.printed_job(job)
    return Runnable(
        job.name,
        title,
        files,
        tuple(job.federation["sites"]),
        job.federation["min_clients"],
        least_clients(job),
    )


def _folder(place: Path, settings: Sequence[str]) -> Runnable:
    """Return the job in a folder. NVFlare builds whatever class a folder names, so only
    classes of this version's own jobs are accepted.
    """
    if settings:
        raise _beside(place, "--set")
    files, listed = packaging.read_job(place), allow_list.allow_list()
    for side, file in zip(
        (allow_list.SERVER, allow_list.SITE),
        packaging.SIDES,
        strict=True,
    ):
        strange = sorted(
            set(named.classes(json.loads(files[file]))) - set(listed[side]),
        )
        if strange:
            raise ConfigRefused(
                str(place / file),
                found=f"the class {', '.join(strange)}",
                expected="classes that the jobs of this version name (`wardround sites allow-list`)",
                fix=f"where you wrote that class yourself: `nvflare simulator {shlex.quote(str(place))} -w NEW_FOLDER`",
            )
    meta, name = json.loads(files["meta.json"]), place.resolve().name
    least, sites = int(meta.get("min_clients", 1)), tuple(sites_of_job(meta))
    return Runnable(
        name,
        f"{name}: the folder {place}",
        files | packaging.pinned(),
        sites,
        least,
        least,
    )


def _beside(place: Path, options: str) -> ConfigRefused:
    return ConfigRefused(
        f"the job folder {place}",
        found=f"{options} beside a folder",
        expected="settings with a job's name only: a folder goes as it was reviewed",
        fix="name the job, or print the folder again with `wardround jobs write`",
    )


def _own_code(place: Path) -> bool:
    pinned = place / packaging.PINNED
    return any(path.is_file() and path != pinned for path in (place / packaging.CUSTOM).rglob("*"))
