"""`wardround pretrain` trains a network on domain-randomised phantoms, as a start for jobs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, INCOMPLETE, command, folder, positive, require_writable, say, table

TEXT = """
Train the network of the brain tumour task on domain-randomised phantoms, so that jobs can start from it. No patient is in it:
heads, tumours, contrast, resolution and artefacts are drawn anew for every phantom. The command writes OUT (safetensors, half
precision, about 300 kB) and OUT with the ending .json, which says what the weights are. It is not federated and needs no data.

  wardround pretrain --out start.safetensors            about 20 minutes of one free core
  wardround pretrain --out start.safetensors --minutes 15
  wardround pretrain --out start.safetensors --resume    continue, bit for bit as if it had never stopped
  wardround jobs run brats_fedavg --set model.weights=randomised_phantoms        the file that this package brings
  wardround jobs run brats_fedavg --set model.weights=/data/start.safetensors    your own; every site needs the same file
  wardround pretrain --job brats_fedavg --show randomised_phantoms               which blocks a job's network takes
"""
STATE = ".state.npz"
SUFFIX = ".safetensors"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "pretrain", "train first weights on randomised phantoms", TEXT, run)
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("pretrained.safetensors"),
        metavar="FILE",
        help="default pretrained.safetensors",
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="steps in all; default: as for the shipped file")
    parser.add_argument("--minutes", type=positive, metavar="M", help="stop after so many minutes; --resume continues")
    parser.add_argument("--seed", type=int, metavar="S", help="of phantoms, batches and first weights; default 1")
    parser.add_argument("--resume", action="store_true", help="continue the run whose state lies beside OUT")
    parser.add_argument("--held-out", type=positive, default=100, metavar="N", help="phantoms to score; default 100")
    parser.add_argument("--job", default="brats_fedavg", metavar="NAME", help="whose network; default brats_fedavg")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a setting of the job")
    parser.add_argument(
        "--show", metavar="NAME", help="train nothing: print which blocks the job's network takes from these weights"
    )


def run(args: argparse.Namespace) -> int:
    """Train, or show which blocks would be taken."""
    return _show(args) if args.show else _train(args)


def _train(args: argparse.Namespace) -> int:
    from wardround.core.threads import one_thread
    from wardround.research import pretrain, pretrained_file

    spec = _network(args, "none")
    given = {name: value for name in ("steps", "seed") if (value := getattr(args, name)) is not None}
    plan = pretrain.Plan(**given)
    out: Path = args.out
    _require_place(out)
    state = out.with_name(f"{out.stem}{STATE}")
    if state.exists() != args.resume:
        raise ConfigRefused(
            f"the pretraining {out}",
            found=f"{'a' if state.exists() else 'no'} state of an earlier run at {state}",
            expected="--resume to continue such a state, and none to begin",
            fix="add --resume, or name another --out" if state.exists() else "leave --resume out",
        )
    progress = pretrain.resume(state, spec, plan) if args.resume else pretrain.begin(spec, plan)
    say(f"{plan.steps} steps of {plan.batch} phantoms; {progress.done} are done")
    # Sums in another number of threads round otherwise: the file could not be made again.
    try:
        with one_thread():
            done = pretrain.train(spec, plan, progress, state, say, args.minutes)
    except KeyboardInterrupt:
        say(_stopped(out, state, progress.done))
        raise
    if not done:
        say(_stopped(out, state, progress.done))
        return INCOMPLETE
    say(f"scoring {args.held_out} held-out phantoms")
    scores = pretrain.held_out(spec, progress.w, args.held_out)
    digest = pretrained_file.write(out, spec, plan, progress, scores, args.held_out)
    print(f"{out}: SHA-256 {digest}")
    print("Dice on held-out phantoms: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    print(f"use it: --set model.weights={out.resolve()}")
    return DONE


def _require_place(out: Path) -> None:
    """Raise ConfigRefused unless weights can be written under this name. Nothing else
    would be found there after twenty minutes.
    """
    if out.suffix != SUFFIX:
        raise ConfigRefused(
            f"--out {out}",
            found=f"the ending {out.suffix or 'none'!r}",
            expected=f"a file that ends in {SUFFIX}",
            fix=f"`--out {out.with_suffix(SUFFIX)}`",
        )
    if not out.parent.is_dir():
        raise ConfigRefused(
            f"--out {out}",
            found=f"no folder {out.parent}",
            expected="a folder that exists",
            fix=f"`mkdir -p {out.parent}`, or name another --out",
        )
    require_writable(out.parent, "--out")


def _stopped(out: Path, state: Path, steps: int) -> str:
    """Return what is left of a run that has not ended."""
    kept = f"continue with --resume ({state})" if state.exists() else "no state was saved yet, so begin again"
    return f"stopped after {steps} steps; there is no {out} yet: it is written after the last step; {kept}"


def _show(args: argparse.Namespace) -> int:
    from wardround.models.warm_start import mapping, told

    spec = _network(args, args.show)
    rows = [[row.block, str(row.values), row.start] for row in mapping(spec, 0)]
    print(table(("block", "values", "starts"), rows))
    print(told(spec, 0))
    return DONE


def _network(args: argparse.Namespace, weights: str) -> Any:
    """Return the settings of the job's network with these weights; only a segmentation has one."""
    from wardround.jobs import building, recipes
    from wardround.models.specs import Segmenting

    spec = building.build(recipes.job(args.job, [*args.set, f"model.weights={weights}"]).task["model"], "model")
    if not isinstance(spec, Segmenting):
        raise ConfigRefused(
            f"the network of job {args.job}",
            found=type(spec).__name__,
            expected="a network for segmentation: phantoms have masks",
            fix="name another --job (`wardround jobs list`)",
        )
    return spec
