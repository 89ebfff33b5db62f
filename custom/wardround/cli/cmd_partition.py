"""`wardround partition` splits one data set into several sites, by patient."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from shlex import quote
from typing import Any

from wardround.cli import cmd_partition_labels
from wardround.core.terminal import (
    DONE,
    command,
    existing,
    folder,
    group,
    positive,
    say,
)
from wardround.data.conventions import AUTO, NAMES

TEXT = """
Split one data set into sites, by patient. OUT then holds sites.json (for --sites-file, or WARDROUND_SITES),
<site>/wardround.json (for that hospital's local/) and partition.csv. No image is copied, except by `scanner`.
Use `labels` for labelled images (one class per patient, a record), and the other methods for cases with masks.

  wardround partition pattern /data/lgg OUT --pattern '^TCGA_(\\w\\w)_'
  wardround partition quantity /data/brats OUT --sites 4 --ratio 3
  wardround partition fets /data/fets OUT --table partitioning_1.csv
  wardround partition labels cheng /data/cheng OUT --sites 4 --alpha 0.5

To run a job on it: wardround jobs run brats_perfedavg --sites-file OUT/sites.json
"""

# Each method has one sentence, an example, and its options.
# method: (one sentence, an example, its options)
METHODS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "column": (
        "A site is a value in a column of a CSV table.",
        "--table clinical.csv --site-column hospital --case-column id",
        ("table", "site_column", "case_column"),
    ),
    "pattern": (
        "A site is what group 1 of a regular expression finds in the case id.",
        "--pattern '^TCGA_(\\w\\w)_'",
        ("pattern",),
    ),
    "fets": (
        "A site is a Partition_ID of a FeTS challenge CSV (Partition_ID, Subject_ID).",
        "--table partitioning_1.csv",
        ("table",),
    ),
    "datalist": (
        "A site is a MONAI or NVFlare datalist: a folder with one JSON per site, or one JSON {site: datalist}.",
        "--table datalists/",
        ("table",),
    ),
    "quantity": (
        "A site is a random share; the first has about `ratio` times the patients of the last.",
        "--sites 4 --ratio 3",
        ("sites", "seed", "ratio"),
    ),
    "size": (
        "A site is a band of tumour volumes, site-1 the smallest. Reads every mask.",
        "--sites 3",
        ("sites",),
    ),
    "dirichlet": (
        "Sites get Dirichlet shares of each tumour-size tercile (reads every mask), or of each label in a table.",
        "--sites 4 --alpha 0.5",
        ("sites", "seed", "alpha", "table", "label_column", "case_column"),
    ),
    "scanner": (
        "A site is a random equal share, as a simulated scanner would show it. Writes altered COPIES of all images.",
        "--sites 4",
        ("sites", "seed"),
    ),
}
_NEEDED = {
    ("column", "table"),
    ("pattern", "pattern"),
    ("fets", "table"),
    ("datalist", "table"),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "table": {
        "type": existing,
        "metavar": "FILE",
        "help": "CSV file with a header line (datalist: JSON file or folder)",
    },
    "site_column": {
        "default": "site",
        "metavar": "NAME",
        "help": "column of the sites; default site",
    },
    "case_column": {
        "default": "case",
        "metavar": "NAME",
        "help": "column of case or patient ids; default case",
    },
    "label_column": {
        "metavar": "NAME",
        "help": "column of the labels in --table; default: tumour-size terciles",
    },
    "pattern": {"metavar": "REGEX", "help": "group 1 is the site"},
    "sites": {
        "type": positive,
        "default": 4,
        "metavar": "N",
        "help": "number of sites; default 4",
    },
    "seed": {"type": int, "default": 0, "help": "same seed, same split; default 0"},
    "ratio": {
        "type": float,
        "default": 4.0,
        "help": "patients of the first site / of the last; default 4",
    },
    "alpha": {
        "type": float,
        "default": 0.5,
        "help": "0.1 very uneven, 100 nearly even; default 0.5",
    },
}


def add(commands: Any) -> None:
    """Declare the command, with one sub-command for each method."""
    methods = group(commands, "partition", "split one dataset into sites", TEXT)
    for name, (sentence, example, options) in METHODS.items():
        text = f"{sentence}\n\n  wardround partition {name} DATA OUT {example}"
        method = command(methods, name, sentence.rstrip("."), text, run)
        method.set_defaults(method=name)
        method.add_argument(
            "data",
            type=existing,
            metavar="DATA",
            help="folder of the cases",
        )
        method.add_argument(
            "out",
            type=folder,
            metavar="OUT",
            help="folder for the partition, outside DATA",
        )
        for option in options:
            flag = "--" + option.replace("_", "-")
            method.add_argument(
                flag,
                required=(name, option) in _NEEDED,
                **_OPTIONS[option],
            )
        method.add_argument(
            "--min-patients",
            type=positive,
            default=3,
            metavar="N",
            help="a site with fewer is refused; default 3, which jobs need",
        )
        method.add_argument(
            "--patient-pattern",
            metavar="REGEX",
            help="group 1 is the patient of a case id; default: docs/data.md",
        )
        method.add_argument(
            "--labels",
            choices=NAMES,
            default=AUTO,
            help="how the values of masks are read (docs/data.md, Masks); default auto",
        )
    cmd_partition_labels.add(methods)


def run(args: argparse.Namespace) -> int:
    """Split the data set, and print what every site received."""
    from wardround.data.cases import compile_patient_pattern, patient_of
    from wardround.data.splits import PARTS
    from wardround.research.partition import Options, partition

    given = {field.name: getattr(args, field.name) for field in fields(Options) if hasattr(args, field.name)}
    say(f"{args.method}: {args.data} into {args.out}")
    file = partition(args.method, args.data, args.out, Options(**given))
    told = args.patient_pattern
    pattern = compile_patient_pattern(told, "--patient-pattern") if told else None
    few = []
    for site, entry in json.loads(file.read_text(encoding="utf-8")).items():
        cases = entry["cases"]
        label = "" if entry["name"] == site else f" ({entry['name']})"
        patients = len({patient_of(case, pattern) for case in cases})
        few += [site] if patients < len(PARTS) else []
        print(f"{site}{label}: {len(cases)} cases, {patients} patients")
    print(f"written: {file}")
    if few:
        print(
            f"{', '.join(few)}: fewer than {len(PARTS)} patients, every job refuses such a site; write it again with fewer sites"
        )
    else:
        print(f"use it: wardround jobs run brats_perfedavg --sites-file {quote(str(file))}")
    return DONE
