"""`wardround jobs list|settings|write|check` prints job folders from the recipes, and
compares them.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from wardround.cli import like
from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, INCOMPLETE, command, folder

LIST = """
List every job with its name, its algorithm, and one sentence on what it does.

  wardround jobs list
"""
SETTINGS = """
Print everything that `--set` can change in a job: each setting with its value, the type of the value, and its meaning.

  wardround jobs settings brats_perfedavg
  wardround jobs settings brats_fedavg --set privacy=secagg_he
"""
WRITE = """
Write job folders for NVIDIA FLARE: meta.json, two configs, CARD.md. Name the jobs that you want, or none for all of them.

  wardround jobs write --out jobs
  wardround jobs write brats_ditto --out mine --set num_rounds=20 --set algorithm.lam=1 --sites mercy,st-john
  wardround jobs write brats_fedavg --out mine --all-sites      for all sites that are connected
  wardround jobs write brats_fedavg --out mine --set schedule=standard      a real run instead of a look: 20 rounds, and more
  wardround jobs write brats_scaffold --out mine --set privacy=secagg_ring --set secagg.bits=16

Settings: schedule (demo, standard, long); num_rounds, work, lr, ...; model.channels, sampling.patch, model_selection.steps,
federation.min_clients, algorithm.*, rule.*; sharing (everything, norms_at_home, head_at_home, norms_alone, klmask,
klmask_norms) and sharing.*; privacy (plaintext, fixed_point, secagg_masks, secagg_he, secagg_ring) and secagg.*;
`wardround jobs settings NAME` lists them all.
`nvflare simulator FOLDER` runs a written job; an administrator can submit it to real hospitals.
"""
CHECK = """
Compare job folders with the recipes of this version, byte for byte. Exit code 0: same; 1: the differences are printed.

  wardround jobs check --out jobs
"""


def add(commands: Any) -> None:
    """Declare the four commands."""
    command(commands, "list", "list the jobs", LIST, list_jobs)
    shown = command(
        commands,
        "settings",
        "list what --set can change in a job",
        SETTINGS,
        list_settings,
    )
    shown.add_argument("name", metavar="JOB", help="name of a job")
    shown.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting; may be repeated",
    )
    write = command(commands, "write", "write job folders", WRITE, write_jobs)
    _names(write)
    write.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting; may be repeated",
    )
    like.add(write)
    who = write.add_mutually_exclusive_group()
    who.add_argument(
        "--sites",
        metavar="A,B",
        help="names of the sites; default: those of the recipe",
    )
    who.add_argument(
        "--all-sites",
        action="store_true",
        help="every site that is connected when the job starts",
    )
    _names(
        command(
            commands,
            "check",
            "compare job folders with the recipes",
            CHECK,
            check_jobs,
        ),
    )


def list_jobs(_: argparse.Namespace) -> int:
    """Print the name, the algorithm and one sentence of every job."""
    from wardround.jobs import recipes

    for name in recipes.names():
        job = recipes.job(name)
        print(f"{name:<21} {job.title}, {job.algorithm['source']}; {job.privacy['title']}")
        print(
            textwrap.fill(
                job.algorithm["description"],
                110,
                initial_indent=" " * 22,
                subsequent_indent=" " * 22,
            ),
        )
    return DONE


def list_settings(args: argparse.Namespace) -> int:
    """Print every setting of one job, with its value, type and meaning."""
    from wardround.jobs import recipes, settings
    from wardround.jobs.setting_descriptions import DERIVED, DESCRIPTIONS

    made, row = recipes.job(args.name, args.set), recipes.row_of(args.name, args.set)
    for name, names in recipes.choices().items():
        print(f"{name} = {row[name]}  (one of {', '.join(names)})")
        print(textwrap.fill(DESCRIPTIONS[name], 110, initial_indent="    ", subsequent_indent="    "))
    found = {name: value for name, value in settings.listed(made).items() if name not in DERIVED}
    for name, value in found.items():
        print(f"{name} = {settings.shown(value)}  ({settings.kind(value)})")
        print(
            textwrap.fill(
                DESCRIPTIONS.get(name, "A setting of the class above it."),
                110,
                initial_indent="    ",
                subsequent_indent="    ",
            ),
        )
    return DONE


def write_jobs(args: argparse.Namespace) -> int:
    """Write the folders of the named jobs."""
    from wardround.jobs import recipes
    from wardround.jobs.building import least_clients, require_buildable
    from wardround.jobs.federation_check import EVERYBODY, require_enough
    from wardround.jobs.folder import write

    sites = [EVERYBODY] if args.all_sites else site_names(args.sites) if args.sites else []
    jobs = [recipes.job(name, args.set, sites) for name in args.names or recipes.names()]
    for job in jobs if args.set else ():
        require_buildable(job)
    for job in jobs:
        named, least = job.federation["sites"], job.federation["min_clients"]
        if named != [EVERYBODY]:
            require_enough(len(named), least, least_clients(job))
    for job in jobs:
        print(f"written: {write(job, args.out / job.name)}")
    return DONE


def check_jobs(args: argparse.Namespace) -> int:
    """Compare folders with recipes and return 1 where they differ. A folder that no
    recipe prints counts as a difference.
    """
    from wardround.jobs import recipes
    from wardround.jobs.folder import check

    if not args.out.is_dir():
        raise ConfigRefused(
            f"the folder {args.out}",
            found="no such folder",
            expected="a folder of jobs",
            fix="name it with --out",
        )
    wrong = 0
    for name in args.names or recipes.names():
        try:
            check(recipes.job(name), args.out / name)
        except ConfigRefused as refusal:
            print(f"DIFFERS: {refusal}")
            wrong += 1
    for extra in [] if args.names else _strangers(args.out, recipes.names()):
        print(f"DIFFERS: {args.out / extra}: no recipe prints this job")
        wrong += 1
    if not wrong:
        print(f"{len(args.names or recipes.names())} jobs in {args.out} are what the recipes print")
    return INCOMPLETE if wrong else DONE


def site_names(text: str) -> list[str]:
    """Return the names in a text like "a,b". An empty name, a repeated name and
    `server` are refused with ConfigRefused.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names) or "server" in names:
        raise ConfigRefused(
            "the names of the sites",
            found=repr(text),
            expected="different names, with commas",
            fix="for example a,b",
        )
    return names


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="names of jobs; default: all",
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("jobs"),
        metavar="DIR",
        help="default ./jobs",
    )


def _strangers(out: Path, names: list[str]) -> list[str]:
    return sorted(path.name for path in out.iterdir() if (path / "meta.json").is_file() and path.name not in names)
