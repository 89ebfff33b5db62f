"""`wardround sweep`: one job over hospitals that differ more and more, local training always beside it."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardround import __version__
from wardround.errors import ConfigRefused
from wardround.jobs.terminal import DONE, command, folder, positive, say

if TYPE_CHECKING:
    from wardround.data.skew import LabelledSet
    from wardround.hospital.sweep_sites import Cell, Source
    from wardround.jobs.recipes import Job, Json

ALPHAS, QUICK_ALPHAS = (0.05, 0.1, 0.5, math.inf), (0.1, math.inf)
PATIENTS, QUICK_PATIENTS = 24, 10
QUICK = ("rounds=1", "work=4", "judging.steps=[0,1]")
TEXT = """
Does a job still help when the hospitals differ more and more? Its federation is run for every combination of the values
given, with local training at equal work beside it, and one table and one picture say so.

  wardround sweep tumour_type_fedavg --alpha .05,.1,.5,inf                    label skew, on the job's phantoms
  wardround sweep tumour_type_klmask --missing 0,1,2 --alpha inf              0, 1, 2 sites lack one modality
  wardround sweep tumour_type_fedavg --missing 0 --missing site-4:t2+flair    nobody; then site-4 lacks both
  wardround sweep brats_perfedavg --scanner 0,1 --sites 2,4                   segmentation has no classes to skew
  wardround sweep tumour_type_fedavg --data cheng /data/cheng --seeds 0,1,2   labelled patients, dealt anew

Algorithm, server rule, network, schedule, sampling and fine-tuning are exactly the job's (--set as in `wardround jobs
write`); sites train one after the other in THIS process on the CPU, without NVFlare: fast, and the same numbers in the
same order. So all data must be on this machine, and jobs that hide or noise updates are refused, not run in the clear.
FedAvg beside a job is not run; sweep the FedAvg job for it.

A seed is a deal, a split by patient, first weights and batches. OUT holds table.md, table.json (every site of every
run), score.png and the finished runs: the same command again goes on where it stopped. Another grid adds runs; other
settings or data need another folder. Nothing else stays there: copies and caches of images are deleted after each run.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "sweep", "one job over hospitals that differ more and more", TEXT, run)
    parser.add_argument("job", metavar="JOB", help="`wardround jobs list`")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar=("PRESET|FOLDER", "FOLDER"),
        help="labelled patients, as in `wardround partition labels`: cheng, lgg or mhh and its folder, or a folder with "
        "dataset.json; the job gets their classes, modalities and columns; default: the job's phantoms",
    )
    parser.add_argument(
        "--alpha", metavar="A,A", help="Dirichlet label skew; default .05,.1,.5,inf where there are classes"
    )
    parser.add_argument(
        "--missing",
        action="append",
        metavar="N,N|SITE:M+M,SITE:M",
        help="numbers of sites that lack a modality (the last sites; the last modality, then the one before), or ONE setting "
        "by name; may be repeated; default 0",
    )
    parser.add_argument("--scanner", default="0", metavar="0,1", help="1: every site has another scanner; default 0")
    parser.add_argument("--sites", default="4", metavar="N,N", help="numbers of sites; default 4")
    parser.add_argument("--seeds", metavar="S,S", help="default: the job's seed and the two after it")
    parser.add_argument("--patients", type=positive, metavar="N", help=f"phantoms per site; default {PATIENTS}")
    parser.add_argument(
        "--min-patients", type=positive, default=6, metavar="M", help="of every site after label skew; default 6"
    )
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting of the job")
    parser.add_argument("--out", type=folder, metavar="DIR", help="default wardround_runs/sweep_JOB")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works; numbers mean nothing")
    parser.add_argument("--json", action="store_true", help="print table.json instead of the table")


def run(args: argparse.Namespace) -> int:
    """Check everything, run what is not finished, write the table and the picture."""
    from wardround.jobs import sweeping
    from wardround.jobs.folder import about
    from wardround.reports import sweep

    whole, settings = _data(args)
    job = _job(args, settings)
    sweeping.require_in_the_clear(job)
    setup, out = sweeping.setup_of(job), args.out or Path("wardround_runs") / f"sweep_{job.name}"
    cells, seeds = _grid(args, job), _seeds(args, job)
    with tempfile.TemporaryDirectory() as pool:
        source, data = _source(args, job, whole, cells, Path(pool), out)
        for cell, seed in product(cells, seeds):
            source.require(cell, seed)
        kept = sweeping.Kept.open(out, sweeping.identity(job, data))
        runs = sweeping.run_all(setup, source, cells, seeds, kept)
    rows = [sweep.summary(mine) for mine in runs]
    score = job.task["score"]
    title = f"{job.name}: {data['words']}, rounds x gradients {setup.schedule.rounds} x {setup.schedule.work}"
    result = {"sweep": job.name, "version": __version__, "score": score, "data": data, "settings": about(job)}
    result |= {"rows": [row | {"runs": mine} for row, mine in zip(rows, runs, strict=True)]}
    text = f"{title}\n\n{sweep.table(rows, runs, score)}"
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "table.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    sweep.draw(rows, score, title, out / "score.png")
    print(json.dumps(result, allow_nan=False) if args.json else text)
    say(f"written: {out / 'table.md'}, table.json, score.png")
    return DONE


def _job(args: argparse.Namespace, settings: Sequence[str]) -> Job:
    from wardround.jobs import recipes

    return recipes.job(args.job, [*settings, *(QUICK if args.quick else ()), *args.set])


def _data(args: argparse.Namespace) -> tuple[LabelledSet | None, list[str]]:
    """Return the set that --data names, with images as large as the job's, and the job's settings for it."""
    from wardround.data.pictures import Grid
    from wardround.jobs.cmd_partition_labels import opened, settings_for

    job = _job(args, [])
    if args.data is None:
        return None, []
    sampling = job.task["sampling"]["args"]
    if "classes" not in sampling:
        raise _refused(f"--data for {job.name}", "a job that segments", "labelled patients are for jobs with classes")
    if len(args.data) > 2 or args.patients is not None:
        found = f"{len(args.data)} words" if len(args.data) > 2 else "--patients"
        raise _refused("--data", found, "a preset and its folder, or one folder; all its patients are used")
    where = Path(args.data[1]).expanduser() if len(args.data) > 1 else None
    whole = opened(args.data[0], where, None).data
    grid = Grid(sampling["size"], sampling["depth"], float(sampling["span"]))
    spec = replace(whole.description.spec, grid=grid)
    whole = replace(whole, description=replace(whole.description, spec=spec))
    columns = len(spec.table.features) if sampling["record"] else 0
    return whole, [*settings_for(whole), f"model.columns={columns}"]


def _source(
    args: argparse.Namespace, job: Job, whole: LabelledSet | None, cells: Sequence[Cell], pool: Path, out: Path
) -> tuple[Source, Json]:
    """Return where sites come from, and what of it the numbers depend on (`words`: for people)."""
    from wardround.data.hospitals import HOSPITALS
    from wardround.hospital.sweep_sites import LabelledSource, MaskedPhantoms
    from wardround.jobs.building import build
    from wardround.jobs.cmd_partition_labels import opened, require_outside

    if whole is not None:
        require_outside(out, whole)
        words = f"{args.data[0] if len(args.data) > 1 else Path(args.data[0]).name}, {len(whole.labels())} patients"
        data = {"words": words, "digest": _digest(whole), "min_patients": args.min_patients}
        return LabelledSource(whole, args.min_patients, None), data
    patients = args.patients or (QUICK_PATIENTS if args.quick else PATIENTS)
    phantoms, seed = build(job.task["phantoms"], "phantoms"), job.task["seed"]
    data = {"words": f"phantoms, {patients} per site", "phantoms": job.task["phantoms"], "patients": patients}
    data |= {"seed": seed}
    if "classes" not in job.task["sampling"]["args"]:
        return MaskedPhantoms(phantoms, patients, seed), data
    say(f"making {patients * max(cell.sites for cell in cells)} synthetic patients of one hospital, to be dealt")
    made = replace(phantoms, patients=patients * max(cell.sites for cell in cells))
    made.write(pool / "cases", HOSPITALS[0], seed)
    dealt = opened(str(pool / "cases"), None, None).data
    return LabelledSource(dealt, args.min_patients, patients), data | {"min_patients": args.min_patients}


def _digest(whole: LabelledSet) -> str:
    """Return a digest of the table and of the images' sizes and times of change."""
    lines = []
    for row in sorted(whole.rows, key=lambda row: row.case):
        files = [whole.description.images / cell for cell in row.images.values() if cell]
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        lines.append(
            repr((row.case, row.patient, row.label, sorted(row.images.items()), sorted(row.record.items()), stats))
        )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _grid(args: argparse.Namespace, job: Job) -> list[Cell]:
    """Return every combination of the axes, label skew innermost."""
    from wardround.data.layouts import MODALITIES
    from wardround.hospital.sweep_sites import Cell

    sampling = job.task["sampling"]["args"]
    alphas: Sequence[float | None] = [None]
    if "classes" in sampling:
        alphas = _alphas(args.alpha) if args.alpha else QUICK_ALPHAS if args.quick else ALPHAS
    elif args.alpha:
        raise _refused(
            f"--alpha for {job.name}",
            "a job that segments: its patients have no classes, so there is no label skew",
            "--missing, --scanner or --sites; or a job with classes, for example tumour_type_fedavg",
        )
    counts = [_whole("--sites", text, max(2, job.federation["min_sites"])) for text in _words("--sites", args.sites)]
    scanners = [_whole("--scanner", text, 0, 1) == 1 for text in _words("--scanner", args.scanner)]
    modalities = sampling.get("modalities", MODALITIES)
    cells = [
        Cell(sites, alpha, missing, scanner)
        for sites, scanner in product(counts, scanners)
        for missing in _missing(args.missing or ["0"], sites, modalities)
        for alpha in alphas
    ]
    return list(dict.fromkeys(cells))


def _alphas(text: str) -> list[float]:
    found = []
    for word in _words("--alpha", text):
        try:
            alpha = float(word)
        except ValueError:
            alpha = math.nan
        if not alpha > 0:
            raise _refused("--alpha", repr(word), "numbers above 0, or inf for an even deal, with commas")
        found.append(alpha)
    return found


def _missing(options: Sequence[str], sites: int, modalities: Sequence[str]) -> list[Any]:
    """Return the settings that --missing names, for so many sites."""
    from wardround.hospital.sweep_sites import lacking

    found = []
    for option in options:
        words = _words("--missing", option)
        if all(":" not in word for word in words):
            found += [lacking(_whole("--missing", word, 0), sites, modalities) for word in words]
            continue
        setting: dict[str, tuple[str, ...]] = {}
        for word in words:
            site, _, names = word.partition(":")
            gone = tuple(names.split("+"))
            known = site in {f"site-{k + 1}" for k in range(sites)} and site not in setting
            if not known or len(set(gone)) < len(gone) or not set(gone) < set(modalities):
                raise _refused(
                    "--missing",
                    repr(word),
                    f"each site once, site-1 to site-{sites}, and some of {', '.join(modalities)}, not all: site-2:t1+t2",
                )
            setting[site] = gone
        found.append(tuple(sorted(setting.items())))
    return found


def _seeds(args: argparse.Namespace, job: Job) -> list[int]:
    first = int(job.task["seed"])
    found = [_whole("--seeds", text, 0) for text in _words("--seeds", args.seeds)] if args.seeds else []
    found = found or [first, first + 1, first + 2]
    return list(dict.fromkeys(found[:1] if args.quick else found))


def _words(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise _refused(option, repr(text), "one value or more, with commas")
    return words


def _whole(option: str, text: str, low: int, high: float = math.inf) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise _refused(option, repr(text), f"whole numbers, {low} or {'more' if high == math.inf else f'{high:g}'}")
    return int(text)


def _refused(what: str, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(what, found=found, expected=expected, fix="correct it; `wardround sweep --help` has examples")
