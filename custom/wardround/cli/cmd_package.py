"""`wardround package` writes a job for hospitals that forbid code, or for hospitals
that do not have the package.
"""

from __future__ import annotations

import argparse
from typing import Any

from wardround.core.terminal import DONE, command, folder

PACKAGE = """
Write a job in the form that strict hospitals accept.

--config-only writes no code. The sites have wardround installed, refuse jobs that bring code (`wardround sites harden`), and
build only the classes on their own list. --with-code puts the package itself into the job's app/custom, for sites without
wardround that accept code. A site that has another wardround installed notices this and refuses, because Python would find the
installed one first.

In both forms the configs state the version with which the job was made, and a site with another one refuses before it trains.
JOB is a name (`wardround jobs list`) or a folder that `wardround jobs write` printed. The command prints a sha256 over all
files, so that whoever reviewed the folder can compare it with what arrived.

  wardround package brats_perfedavg --config-only --out packages
  wardround package brats_fedavg --config-only --out packages --set num_rounds=20 --sites mercy,st-john
  wardround package jobs/brats_fedavg_he --with-code --out packages
"""


def add(commands: Any) -> None:
    """Declare the command."""
    made = command(
        commands,
        "package",
        "a job without code, or with all of it",
        PACKAGE,
        run,
    )
    made.add_argument("job", metavar="JOB", help="name of a job, or its folder")
    form = made.add_mutually_exclusive_group(required=True)
    form.add_argument(
        "--config-only",
        action="store_true",
        help="for sites that deny code and have wardround installed",
    )
    form.add_argument(
        "--with-code",
        action="store_true",
        help="for sites that take code and do not have wardround",
    )
    made.add_argument(
        "--out",
        type=folder,
        required=True,
        metavar="DIR",
        help="the job is written to DIR/NAME",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting; for a name only",
    )
    made.add_argument(
        "--sites",
        metavar="A,B",
        help="names of the sites; for a name only",
    )


def run(args: argparse.Namespace) -> int:
    """Write one of the two forms of one job."""
    from wardround.cli.cmd_jobs import site_names
    from wardround.jobs import packaging
    from wardround.jobs.forms import chosen

    name, files = chosen(
        args.job,
        args.set,
        site_names(args.sites) if args.sites else [],
    )
    made = packaging.config_only(files) if args.config_only else packaging.with_code(files)
    out = packaging.write(made, args.out / name)
    what = "no code" if args.config_only else "the code of wardround"
    print(f"written: {out} ({len(made)} files, {sum(map(len, made.values())) / 1000:.0f} kB, {what})")
    print(f"sha256:  {packaging.digest(made)}")
    return DONE
