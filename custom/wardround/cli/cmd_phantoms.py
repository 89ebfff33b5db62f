"""`wardround phantoms` writes synthetic patients as NIfTI files, for trying things out."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from shlex import quote
from typing import Any

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, command, counter, folder, positive, say

TEXT = """
Write synthetic patients as NIfTI files in the BraTS layout: brain, oedema, enhancing rim and necrotic core of known volume
(phantoms.json), and a record that fits the tumour in part (record.csv). No person was scanned for them. The hospitals differ
in scanner contrast, noise, tumour size and number of patients, and the fourth has no T2.

  wardround phantoms OUT                           four hospitals in OUT/site-1 .. OUT/site-4, and OUT/sites.json
  wardround phantoms OUT --hospital 2              one hospital, its cases directly in OUT
  wardround jobs run brats_perfedavg --sites-file OUT/sites.json
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "phantoms",
        "write synthetic patients as NIfTI files",
        TEXT,
        run,
    )
    parser.add_argument(
        "out",
        type=folder,
        metavar="OUT",
        help="new folder, or one with earlier phantoms (rewritten)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--sites",
        type=positive,
        default=4,
        metavar="N",
        help="number of hospitals, 1 to 64; default 4",
    )
    which.add_argument(
        "--hospital",
        type=positive,
        metavar="N",
        help="only this hospital (1 is the one of site-1)",
    )
    parser.add_argument(
        "--patients",
        type=positive,
        metavar="N",
        help="per hospital; default: as many as its profile says",
    )
    parser.add_argument(
        "--shape",
        type=positive,
        nargs=3,
        default=[40, 40, 40],
        metavar=("X", "Y", "Z"),
        help="voxels; default 40 40 40",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="same seed, same patients; default 0, as in the simulator",
    )


def run(args: argparse.Namespace) -> int:
    """Write one cohort, or several cohorts and the file that names them."""
    from wardround.synthetic.phantoms import RECORD

    if args.hospital is not None:
        _cohort(args.out, args.hospital, args)
        entry = json.dumps(
            {
                "data": str(args.out.resolve()),
                "record": str(args.out.resolve() / RECORD),
            },
        )
        print(f"{args.out}: train on it with {entry} as the site's file")
        return DONE
    _require_ours(args.out)
    sites = {f"site-{n}": _cohort(args.out / f"site-{n}", n, args) for n in range(1, args.sites + 1)}
    entries = {site: {"data": site, "name": name, "record": f"{site}/{RECORD}"} for site, name in sites.items()}
    files.write(args.out / "sites.json", json.dumps(entries, indent=2) + "\n")
    print(f"{args.out / 'sites.json'}: {', '.join(f'{site} ({name})' for site, name in sites.items())}")
    print(f"use them: wardround jobs run brats_perfedavg --sites-file {quote(str(args.out / 'sites.json'))}")
    return DONE


def _cohort(out: Path, number: int, args: argparse.Namespace) -> str:
    """Write the cohort of one hospital and return the hospital's name."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    profile = hospital(number - 1)
    x, y, z = args.shape
    say(f"hospital {number} ({profile.name}): synthetic patients into {out}")
    write_cohort(
        out,
        profile,
        args.seed,
        (x, y, z),
        args.patients,
        counter(f"{profile.name}: patients"),
    )
    return profile.name


def _require_ours(out: Path) -> None:
    """Raise ConfigRefused if `out` holds anything that this command does not write."""
    entries = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in entries if not re.fullmatch(r"site-\d+|sites\.json", name)]
    if foreign:
        raise ConfigRefused(
            f"phantoms are not written into {out}",
            found=f"{len(foreign)} other entries, first {foreign[0]!r}",
            expected="an empty or new folder, or earlier phantoms",
            fix="name another folder",
        )
