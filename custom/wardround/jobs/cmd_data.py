"""`wardround data check`: read every case once and say what is there and what is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wardround.jobs.terminal import DONE, REFUSED, command, counter, existing, group

if TYPE_CHECKING:
    from wardround.data.inspection import Inspection
    from wardround.data.site_config import SiteConfig

DATA = """
Look at a hospital's images before a job does.

  wardround data check /data/brats
"""

CHECK = """
Read every file of every case once, and print what was found: cases, patients, modalities, kind of labels, shapes
(voxels, RAS), spacing (mm) and how many patients training, validation and test get. Every damaged case is named with
what was found and what to do. Nothing is written. Exit code 0: ready to train; 2: something is wrong.

  wardround data check /data/brats                     a folder of cases (layouts: docs/data.md)
  wardround data check local/wardround.json            a hospital's own file
  wardround data check sites/sites.json                every site of a simulation
"""
_KINDS = {"brats": "brats: ET, TC and WT are known", "whole_tumour": "whole_tumour: only WT is known"}


def add(commands: Any) -> None:
    """Declare the command."""
    check = command(
        group(commands, "data", "check a hospital's data", DATA),
        "check",
        "read every case and say what is wrong",
        CHECK,
        run,
    )
    check.add_argument(
        "data", type=existing, metavar="FOLDER|JSON", help="folder of cases, wardround.json or sites.json"
    )
    check.add_argument(
        "--labels",
        choices=("auto", "brats", "whole_tumour"),
        help="kind of masks; default: what the site's file says, else auto (whole_tumour if all masks are 0 and 1)",
    )
    check.add_argument(
        "--patient-pattern", metavar="REGEX", help="group 1 is the patient of a case id; default: see docs/data.md"
    )


def run(args: argparse.Namespace) -> int:
    """Check one folder or every site of a file."""
    from wardround.data.inspection import inspect

    worst = DONE
    for site, config in _configs(args).items():
        changed = replace(config, labels=args.labels or config.labels)
        if args.patient_pattern:
            changed = replace(changed, patient_pattern=args.patient_pattern)
        found = inspect(changed, counter("read cases"))
        label = f"{site} ({config.name})" if config.name and config.name != site else site
        print(f"{label}: {config.data}\n{describe(found)}")
        for problem in found.problems:
            print(f"\nWRONG: {problem}")
        print("\nready to train\n" if not found.problems else f"\n{len(found.problems)} things are wrong\n")
        worst = REFUSED if found.problems else worst
    return worst


def describe(found: Inspection) -> str:
    """Return the facts as indented lines."""
    rows = [
        ("cases", str(found.cases)),
        ("patients", str(found.patients)),
        ("modalities", ", ".join(f"{name} {count}" for name, count in found.modalities.items())),
        ("labels", _KINDS[found.label_kind]),
        ("no tumour", f"{found.empty} cases"),
        ("shapes", _counts(found.shapes)),
        ("spacing mm", _counts(found.spacings)),
        ("split", _parts(found.split)),
    ]
    return "\n".join(f"  {name:<11} {value}" for name, value in rows)


def _configs(args: argparse.Namespace) -> Mapping[str, SiteConfig]:
    from wardround.data.site_config import SiteConfig, read_sites

    return {"data": SiteConfig(data=args.data.resolve())} if args.data.is_dir() else read_sites(args.data)


def _counts(counts: Mapping[tuple[int, int, int], int] | Mapping[tuple[float, float, float], int]) -> str:
    most = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{' x '.join(f'{n:g}' for n in key)} ({count})" for key, count in most[:6]]
    return ", ".join([*shown, f"and {len(most) - 6} more"] if len(most) > 6 else shown) or "-"


def _parts(split: Mapping[str, int]) -> str:
    if not split:
        return "- (not before everything is mended)"
    hint = "; with one test patient no interval can be given" if split["test"] < 2 else ""
    return ", ".join(f"{part} {count}" for part, count in split.items()) + " patients" + hint
