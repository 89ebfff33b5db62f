"""The command line `wardround`. Each command imports what is heavy itself, so that
--help appears at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wardround import __version__
from wardround.cli import (
    cmd_baseline,
    cmd_compare,
    cmd_compat,
    cmd_data,
    cmd_export,
    cmd_he,
    cmd_jobs,
    cmd_ledger,
    cmd_package,
    cmd_partition,
    cmd_phantoms,
    cmd_poc,
    cmd_predict,
    cmd_preflight,
    cmd_pretrain,
    cmd_report,
    cmd_run,
    cmd_scales,
    cmd_serve,
    cmd_sites,
    cmd_submit,
    cmd_sweep,
)
from wardround.core.errors import ConfigRefused, Refusal
from wardround.core.paths import disk_refused, no_room
from wardround.core.terminal import DONE, REFUSED, group, say

OVERVIEW = """
wardround trains one model at several hospitals (segmentation of brain tumours, classification of patients), and advises each
hospital which model to deploy. Images, masks and records never leave a hospital.

first steps
  wardround jobs run brats_perfedavg        train at four synthetic hospitals in a simulator, and write a report
  wardround data check /data/brats          read every case once and say what is wrong
  wardround partition pattern /data/lgg sites --pattern '^TCGA_(\\w\\w)_'
  wardround jobs run brats_perfedavg --sites-file sites/sites.json
  wardround report wardround_runs/brats_perfedavg
  wardround compare RUN RUN                 show what differs between runs, paired by hospital
  wardround predict CASE --model deploy_model.npz
  wardround export wardround_runs/brats_perfedavg --out bundles
  wardround serve bundles/site-1 --token-file token
  wardround preflight /opt/nvflare/site-1   check whether this hospital's site is ready
  wardround poc run brats_perfedavg         run one job with real processes and startup kits, on this machine
  wardround jobs submit brats_perfedavg --all-sites      run a job at real sites, from the lead's machine

`wardround COMMAND --help` explains a command. Exit codes: 0 done, 1 incomplete or different, 2 refused.
"""

JOBS = """
Jobs are folders for NVIDIA FLARE that are printed from recipes. These commands list them, write them, check that they are
current, and run one in a simulator.

  wardround jobs list
  wardround jobs run brats_fedavg --set num_rounds=6
"""


HE = """
Secure aggregation (homomorphic encryption, masks, the ring): estimate what it costs before anyone provisions.

  wardround he cost brats_fedavg_he --sites 16
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    made = argparse.ArgumentParser(
        prog="wardround",
        description=OVERVIEW.strip("\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"wardround {__version__}")
    made.set_defaults(run=lambda _: _overview(made))
    commands = made.add_subparsers(metavar="COMMAND", title="commands")
    cmd_data.add(commands)
    cmd_phantoms.add(commands)
    cmd_partition.add(commands)
    jobs = group(commands, "jobs", "list, explain, write, check or run jobs", JOBS)
    cmd_jobs.add(jobs)
    cmd_compat.add(jobs)
    cmd_run.add(jobs)
    cmd_submit.add(jobs)
    cmd_poc.add(commands)
    cmd_baseline.add(commands)
    cmd_pretrain.add(commands)
    cmd_sweep.add(commands)
    cmd_he.add(group(commands, "he", "what hiding the sum costs", HE))
    cmd_ledger.add(commands)
    cmd_package.add(commands)
    cmd_sites.add(commands)
    cmd_preflight.add(commands)
    cmd_scales.add(commands)
    cmd_report.add(commands)
    cmd_compare.add(commands)
    cmd_predict.add(commands)
    cmd_export.add(commands)
    cmd_serve.add(commands)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    A refusal, or a file that cannot be read or written, gives 2 with the reason on
    stderr. Bad arguments raise the SystemExit(2) of argparse. A command that the user
    stopped gives 130, and one whose stdout was closed by its reader (`| head`) gives
    141.
    """
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except Refusal as refusal:
        say(f"wardround: {refusal}")
        return REFUSED
    except BrokenPipeError:
        # Python flushes stdout at exit and would complain about the closed pipe a
        # second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        say(f"wardround: {_of_file(error)}")
        return REFUSED
    except MemoryError:
        say("wardround: this needs more memory than the machine has; a smaller image, window or batch needs less")
        return REFUSED
    except KeyboardInterrupt:
        say("wardround: stopped")
        return 130
    return code


def _of_file(error: OSError) -> Refusal:
    """Return the refusal for a file that cannot be read or written."""
    place = error.filename or "a file"
    if no_room(error):
        return disk_refused(Path.cwd(), place)
    return ConfigRefused(
        f"the file {place}",
        found=error.strerror or type(error).__name__,
        expected="a file that this user can read, or a folder in which this user may write",
        fix="name another path, or work in a folder of your own",
    )


def _overview(made: argparse.ArgumentParser) -> int:
    made.print_help()
    return DONE
