"""`wardround sweep` runs one job over hospitals that differ more and more, with local
training beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardround import __version__
from wardround.core import files
from wardround.core.terminal import DONE, INCOMPLETE, command, existing, folder, positive, say
from wardround.research import parts, sweep_grid
from wardround.research.sweep_grid import refused

if TYPE_CHECKING:
    from wardround.jobs.recipes import Job, Json
    from wardround.research.skew import LabelledSet
    from wardround.research.sweep_run import Setup
    from wardround.research.sweep_sites import Cell, Source

PATIENTS, QUICK_PATIENTS = 24, 10
QUICK = ("num_rounds=1", "work=4", "model_selection.steps=[0,1]")
TEXT = """
Find out whether a job still helps when the hospitals differ more and more. The command runs its federation for every
combination of the given values, with local training at equal work beside it, and writes one table and one picture.

  wardround sweep tumour_type_fedavg --alpha .05,.1,.5,inf                    label skew, on the job's phantoms
  wardround sweep tumour_type_klmask --missing 0,1,2 --alpha inf              0, 1, 2 sites lack one modality
  wardround sweep tumour_type_fedavg --missing 0 --missing site-4:t2+flair    nobody; then site-4 lacks both
  wardround sweep brats_perfedavg --scanner 0,1 --sites 2,4                   segmentation has no classes to skew
  wardround sweep tumour_type_fedavg --data cheng /data/cheng --seeds 0,1,2   labelled patients, distributed again
  wardround sweep brats_fedprox --over lr=.01,.05 --over algorithm.mu=.01,.1  settings of the job, every combination
  wardround sweep brats_fedavg --sites-file sites/sites.json --over work=20,40   hospitals that exist already

Algorithm, server optimizer, network, schedule, sampling and fine-tuning are exactly those of the job (--set as in `wardround jobs
write`). The sites train one after the other in THIS process on the CPU, without NVFlare; this is fast and gives the same
numbers in the same order. All data must therefore be on this machine, and jobs that hide or noise updates are refused instead
of being run in plaintext. FedAvg beside a job is not run; sweep the FedAvg job for it.

A seed stands for a distribution of patients, a split, first weights and batches. OUT holds table.md, table.json (every site of
every run), score.png and the finished runs. The same command continues where it stopped. Another grid adds runs; other settings
or data need another folder. Nothing else stays in OUT: copies and caches of images are deleted after each run.

Runs are independent of each other. --backend loky --workers N trains N of them at a time, --backend dask on a cluster whose workers
see OUT and the data under the same paths (docs/operations.md). A run that fails is named and the others go on; then the exit code
is 1, and no table is written until the same command has finished it.
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
    parser.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="K=V,V",
        help="values of a setting of the job (as in --set); may be repeated: every combination is a setting of the grid",
    )
    parser.add_argument(
        "--sites-file",
        type=existing,
        metavar="JSON",
        help="hospitals that exist already, as `wardround partition` writes it; then only --over and --seeds vary",
    )
    parser.add_argument("--seeds", metavar="S,S", help="default: the job's seed and the two after it")
    parser.add_argument("--patients", type=positive, metavar="N", help=f"phantoms per site; default {PATIENTS}")
    parser.add_argument(
        "--min-patients", type=positive, default=6, metavar="M", help="of every site after label skew; default 6"
    )
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting of the job")
    parser.add_argument("--out", type=folder, metavar="DIR", help="default wardround_runs/sweep_JOB")
    parts.add_options(parser)
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works; numbers mean nothing")
    parser.add_argument("--json", action="store_true", help="print table.json instead of the table")


def run(args: argparse.Namespace) -> int:
    """Check everything first, run the cells that are not finished yet, and write the
    table and the picture.
    """
    from wardround.jobs.folder import about
    from wardround.reports import sweep
    from wardround.research import sweep as sweep_

    whole, settings = _data(args)
    job = _job(args, settings)
    sweep_.require_plaintext(job)
    engine = parts.engine_of(args)
    out = args.out or Path("wardround_runs") / f"sweep_{job.name}"
    cells, seeds = sweep_grid.grid(args, job), sweep_grid.seeds(args, job)
    setups = {changed: _setup(args, settings, changed) for changed in dict.fromkeys(cell.changed for cell in cells)}
    with tempfile.TemporaryDirectory() as pool:
        source, data = _source(args, job, whole, cells, Path(pool), out)
        for cell, seed in product(cells, seeds):
            source.require(cell, seed)
        kept = sweep_.Kept.open(out, sweep_.identity(job, data))
        runs, failures = sweep_.run_all(lambda cell: setups[cell.changed], source, cells, seeds, kept, engine)
    if failures:
        say(
            f"{len(failures)} of {len(cells) * len(seeds)} runs failed, no table is written; the same command tries them again"
        )
        return INCOMPLETE
    rows = [sweep.summary(mine) for mine in runs]
    score = job.task["score"]
    title = f"{job.name}: {data['words']}, {job.schedule['num_rounds']} rounds of {job.schedule['work']} gradients"
    result = {"sweep": job.name, "version": __version__, "score": score, "data": data, "settings": about(job)}
    result |= {"rows": [row | {"runs": mine} for row, mine in zip(rows, runs, strict=True)]}
    text = f"{title}\n\n{sweep.table(rows, runs, score)}"
    files.write(out / "table.md", text)
    files.write(out / "table.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    sweep.draw(rows, score, title, out / "score.png")
    print(json.dumps(result, allow_nan=False) if args.json else text)
    say(f"written: {out / 'table.md'}, table.json, score.png")
    return DONE


def _job(args: argparse.Namespace, settings: Sequence[str]) -> Job:
    from wardround.jobs import recipes

    return recipes.job(args.job, [*settings, *(QUICK if args.quick else ()), *args.set])


def _setup(args: argparse.Namespace, settings: Sequence[str], changed: Sequence[tuple[str, str]]) -> Setup:
    """Return what the job trains with these values of --over. A value that changes the
    hospitals themselves is refused with ConfigRefused.
    """
    from wardround.jobs import recipes
    from wardround.research import sweep as sweep_

    base = _job(args, settings)
    words = [f"{key}={value}" for key, value in changed]
    made = recipes.job(args.job, [*settings, *(QUICK if args.quick else ()), *args.set, *words])
    sweep_.require_plaintext(made)
    same = ("phantoms", "seed", "score")
    if any(made.task[key] != base.task[key] for key in same) or made.federation["sites"] != base.federation["sites"]:
        raise refused(
            "--over", ", ".join(words), "settings of training; --sites, --seeds and --patients vary the hospitals"
        )
    return sweep_.setup_of(made)


def _data(args: argparse.Namespace) -> tuple[LabelledSet | None, list[str]]:
    """Return the set that --data names, with images as large as the job's, and the
    job's settings for it.
    """
    from wardround.cli.cmd_partition_labels import opened, settings_for
    from wardround.data.pictures import Grid

    job = _job(args, [])
    if args.data is None:
        return None, []
    if args.sites_file is not None:
        raise refused("--data with --sites-file", "both", "one of them: patients to be dealt, or hospitals that exist")
    sampling = job.task["sampling"]["args"]
    if "classes" not in sampling:
        raise refused(f"--data for {job.name}", "a job that segments", "labelled patients are for jobs with classes")
    if len(args.data) > 2 or args.patients is not None:
        found = f"{len(args.data)} words" if len(args.data) > 2 else "--patients"
        raise refused("--data", found, "a preset and its folder, or one folder; all its patients are used")
    where = Path(args.data[1]).expanduser() if len(args.data) > 1 else None
    whole = opened(args.data[0], where, None).data
    grid = Grid(sampling["size"], sampling["depth"], float(sampling["span"]))
    spec = replace(whole.description.spec, grid=grid)
    whole = replace(whole, description=replace(whole.description, spec=spec))
    return whole, settings_for(whole)


def _source(
    args: argparse.Namespace, job: Job, whole: LabelledSet | None, cells: Sequence[Cell], pool: Path, out: Path
) -> tuple[Source, Json]:
    """Return where the sites come from, and every fact about them on which the numbers
    depend. Its `words` are for people.
    """
    from wardround.cli.cmd_partition_labels import opened, require_outside
    from wardround.data.site_config import read_sites
    from wardround.jobs.building import build
    from wardround.research.sweep_sites import Given, LabelledSource, MaskedPhantoms
    from wardround.synthetic.hospitals import HOSPITALS

    if whole is not None:
        require_outside(out, whole)
        words = f"{args.data[0] if len(args.data) > 1 else Path(args.data[0]).name}, {len(whole.labels())} patients"
        data = {"words": words, "digest": _digest(whole), "min_patients": args.min_patients}
        return LabelledSource(whole, args.min_patients, None), data
    if args.sites_file is not None:
        configs = read_sites(args.sites_file)
        folders = {name: str(config.data) for name, config in configs.items()}
        return Given(configs), {"words": f"{len(configs)} hospitals of {args.sites_file.name}", "folders": folders}
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
    """Return a digest of the table and of the images' sizes and modification times.
    Contents are not read: that would take as long as training.
    """
    lines = []
    for row in sorted(whole.rows, key=lambda row: row.case):
        files = [whole.description.images / cell for cell in row.images.values() if cell]
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        lines.append(
            repr((row.case, row.patient, row.label, sorted(row.images.items()), sorted(row.record.items()), stats))
        )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
