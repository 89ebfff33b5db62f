"""`wardround data check` reads every case once, and says what is there and what is
wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from wardround.core.errors import ConfigRefused, Refusal
from wardround.core.terminal import DONE, REFUSED, command, counter, existing, group, say
from wardround.data.conventions import NAMES

if TYPE_CHECKING:
    from wardround.data.ehr import Table
    from wardround.data.inspection import Inspection
    from wardround.data.site_config import SiteConfig
    from wardround.data.source import Source

DATA = """
Check a hospital's images before a job uses them.

  wardround data check /data/brats
"""

CHECK = """
Read every file of every case once, and print what was found: cases, patients, modalities, kind of labels, shapes
(voxels, RAS), spacing (mm), and how many patients are in training, validation and test. For every damaged case the command
says what it found and what to do. It writes nothing. Exit code 0: ready to train; 2: something is wrong.
For a folder of labelled images (dataset.json) it prints the classes, missing modalities, how full the record is, and the
cases without a label.

  wardround data check /data/brats                     a folder of cases (layouts: docs/data.md)
  wardround data check local/wardround.json            a hospital's own file
  wardround data check sites/sites.json                every site of a simulation
  wardround data check sites/site-1/data               a folder of labelled images
  wardround data check local/wardround.json --job brats_ehr_fedavg       and the record, with the columns of this job
"""
_KINDS = {
    "brats": "brats: ET, TC and WT are known",
    "whole_tumour": "whole_tumour: only WT is known",
}


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
        "data",
        type=existing,
        metavar="FOLDER|JSON",
        help="folder of cases, wardround.json or sites.json",
    )
    check.add_argument(
        "--labels",
        choices=NAMES,
        help="how the values of masks are read (docs/data.md, Masks); default: what the site's file says, else auto",
    )
    check.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="group 1 is the patient of a case id; default: see docs/data.md",
    )
    check.add_argument(
        "--job",
        metavar="NAME",
        help="a segmentation job: check images and masks as its task reads them, and the columns that it reads in the record",
    )


def run(args: argparse.Namespace) -> int:
    """Check one folder, or every site of a file, and return 1 where anything is wrong."""
    from wardround.data.description import is_labelled
    from wardround.data.ehr import Table
    from wardround.data.inspection import inspect
    from wardround.data.source import BRAIN_MRI

    columns, source = _read_by(args.job) if args.job else (Table(), BRAIN_MRI)
    worst = DONE
    for site, config in _configs(args).items():
        changed = replace(config, labels=args.labels or config.labels)
        if args.patient_pattern:
            changed = replace(changed, patient_pattern=args.patient_pattern)
        label = f"{site} ({config.name})" if config.name and config.name != site else site
        problems: Sequence[Refusal]
        if is_labelled(config.data):
            words, problems = describe_labelled(changed)
        else:
            found = inspect(changed, counter("read cases"), source)
            words, problems = describe(found), found.problems
            if not problems and (columns.columns or changed.record):
                row, problems = describe_record(changed, columns, source)
                words += f"\n{row}"
        print(f"{label}: {config.data}\n{words}")
        for problem in problems:
            print(f"\nWRONG: {problem}")
        print("\nready to train\n" if not problems else f"\n{_wrong(len(problems))}\n")
        worst = REFUSED if problems else worst
    return worst


def describe_labelled(config: SiteConfig) -> tuple[str, list[Refusal]]:
    """Return the facts about labelled images as indented lines, and what is wrong with
    them.

    What is wrong is either the first problem that stopped the reading, or one refusal
    for each damaged image.
    """
    from wardround.data.labelled import open_labelled, shared_images, unnamed_images
    from wardround.data.patients import about_named_patients
    from wardround.data.splits import PARTS
    from wardround.training.splitting import split_of

    rows: list[tuple[str, str]] = []
    try:
        say(f"reading every image and record of {config.data}")
        with TemporaryDirectory() as folder:
            found = open_labelled(config, Path(folder))
        grid = found.spec.grid
        columns = found.spec.table.features
        classes = found.class_counts()
        rows += [
            ("cases", str(len(found.cases))),
            ("patients", str(len(set(found.patients.values())))),
        ]
        rows += [
            ("classes", f"{_listed(classes)} (patients)"),
            ("unlabelled", f"{found.unlabelled} cases, left out"),
        ]
        rows += [
            ("modalities", _listed(found.modalities)),
            ("images", " x ".join(map(str, grid.shape))),
        ]
        known = {name: f"{100 * share:.0f} %" for name, share in zip(columns, found.known.mean(axis=0), strict=True)}
        rows += [("record", f"{_listed(known)} known" if known else "no columns")]
        split = split_of(found)
        parts = {part: found.class_counts(getattr(split, part)) for part in PARTS}
        rows += [
            (
                "split",
                "; ".join(f"{part} {_listed(counts)}" for part, counts in parts.items()) + " (patients)",
            ),
        ]
        absent = [name for name, count in parts["test"].items() if not count]
        rows += [("beware", f"no test patient with {', '.join(absent)}: nothing is known about them")] if absent else []
        rows += [("beware", words) for words in about_named_patients(set(found.patients.values()))]
        shared = shared_images(config.data)
        rows += [("beware", f"{shared} images are named for several patients: is the table right?")] if shared else []
        unnamed = unnamed_images(config.data)
        rows += [("not used", f"{len(unnamed)} images that no row names, first {unnamed[0]}")] if unnamed else []
    except Refusal as problem:
        return _lines(rows) or "  -", [problem]
    return _lines(rows), []


def describe_record(config: SiteConfig, columns: Table, source: Source) -> tuple[str, list[Refusal]]:
    """Return the line about the health records (EHR) beside masks, and what is wrong
    with them.

    columns: the columns that a job reads. Without any, the rows are only counted.
    """
    from wardround.data.cases import find_cases
    from wardround.data.ehr_table import for_patients, site_ehr

    files = find_cases(
        config.data,
        config.cases,
        config.patient_pattern,
        labels=config.labels,
        source=source,
    )
    try:
        rows = site_ehr(config, columns)
        vectors = for_patients(
            rows,
            columns,
            {one.case: one.patient for one in files},
            lambda words: None,
        )
    except Refusal as problem:
        return _lines([("record", "-")]), [problem]
    count, names = len(vectors), columns.features
    flags = [sum(float(one[len(names) + i]) for one in vectors.values()) for i in range(len(names))]
    known = {name: f"{100 * flag / count:.0f} %" for name, flag in zip(names, flags, strict=True)}
    listed = f"{_listed(known)} known" if known else "--job says which columns to check"
    strangers = len(set(rows) - set(vectors))
    listed += f"; {strangers} rows are of nobody here" if strangers else ""
    told = [
        (
            "record",
            f"{sum(who in rows for who in vectors)} of {count} patients have a row; {listed}",
        ),
    ]
    return _lines([*told, *(("beware", words) for words in _far(vectors, columns))]), []


def _far(vectors: Mapping[str, Any], columns: Table) -> list[str]:
    """Return a line for every column with values so far outside its public range that
    they are cut. The site may use another unit.
    """
    from wardround.data.ehr import LIMIT

    ranges = {c.name: f"{c.low:g} .. {c.high:g} {c.unit}" for c in columns.columns if c.kind == "numeric"}
    cut = [sum(abs(float(one[i])) >= LIMIT for one in vectors.values()) for i in range(len(columns.features))]
    return [
        f"{name}: {count} values are more than one range beyond {ranges[name]} and are cut there: is the unit right?"
        for name, count in zip(columns.features, cut, strict=True)
        if count and name in ranges
    ]


def _read_by(name: str) -> tuple[Table, Source]:
    """Return the columns that the job of this name reads, and how the files of its task
    are read.
    """
    from wardround.jobs import building, recipes
    from wardround.training.segmentation import Sampling

    sampling = building.build(recipes.job(name).task["sampling"], "sampling")
    if not isinstance(sampling, Sampling):
        raise ConfigRefused(
            f"--job {name}",
            found="a job for classes",
            expected="a job that segments",
            fix="leave --job out: dataset.json of labelled images says which columns they have, and all are checked",
        )
    return sampling.table, sampling.learns.source


def describe(found: Inspection) -> str:
    """Return the facts about a folder of cases as indented lines."""
    rows = [
        ("cases", str(found.cases)),
        ("patients", str(found.patients)),
        ("modalities", ", ".join(f"{name} {count}" for name, count in found.modalities.items())),
        ("labels", _KINDS.get(found.label_kind, found.label_kind) if found.cases else "-"),
        *(("  read as", f"{words} ({count} cases)") for words, count in found.conventions.items()),
        ("no tumour", f"{found.empty} cases"),
        ("shapes", _counts(found.shapes)),
        ("spacing mm", _counts(found.spacings)),
        ("split", _parts(found.split)),
        *(("not used", words) for words in _first(found.unused)),
        *(("beware", words) for words in found.warnings),
    ]
    return _lines(rows)


def _wrong(count: int) -> str:
    return f"{count} thing{' is' if count == 1 else 's are'} wrong"


def _first(names: Sequence[str], most: int = 20) -> list[str]:
    return [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]


def _lines(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"  {name:<11} {value}" for name, value in rows)


def _listed(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _configs(args: argparse.Namespace) -> Mapping[str, SiteConfig]:
    from wardround.data.site_config import SiteConfig, read_sites

    return {"data": SiteConfig(data=args.data.resolve())} if args.data.is_dir() else read_sites(args.data)


def _counts(
    counts: Mapping[tuple[int, int, int], int] | Mapping[tuple[float, float, float], int],
) -> str:
    most = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{' x '.join(f'{n:g}' for n in key)} ({count})" for key, count in most[:6]]
    return ", ".join([*shown, f"and {len(most) - 6} more"] if len(most) > 6 else shown) or "-"


def _parts(split: Mapping[str, int]) -> str:
    if not split:
        return "- (not before everything is mended)"
    hint = "; with one test patient no interval can be given" if split["test"] < 2 else ""
    return ", ".join(f"{part} {count}" for part, count in split.items()) + " patients" + hint
