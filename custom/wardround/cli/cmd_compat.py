"""`wardround jobs compat` says what goes together in one job, and why something does
not.
"""

from __future__ import annotations

import argparse
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, INCOMPLETE, command

COMPAT = """
Print what goes together in one job: aggregation, secure sum, differential privacy, compression, sharing, algorithm. It is
computed from what each part needs of an update, and what it makes of it. Name options to ask about one combination, or a job.

  wardround jobs compat
  wardround jobs compat krum top_k              does this go together, and if not, why
  wardround jobs compat fedprox sharing=norms_at_home secagg_masks      algorithms, and what --set takes
  wardround jobs compat --job brats_klmask --set privacy=secagg_masks
  wardround jobs compat --markdown > docs/compatibility.md

Exit code 0: it goes together; 1: it does not.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "compat",
        "print what goes together in one job",
        COMPAT,
        compat,
    )
    parser.add_argument(
        "options",
        nargs="*",
        metavar="OPTION",
        help="options of the table, algorithms, and names that --set takes; all others are the default",
    )
    parser.add_argument("--job", metavar="JOB", help="ask about a job, with --set")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting of the job",
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print the table as docs/compatibility.md has it",
    )


def compat(args: argparse.Namespace) -> int:
    """Print the whole table, or the answer for the options or the job that were named."""
    from wardround.jobs import compat_page

    asked = sum((bool(args.options), args.job is not None, args.markdown))
    if asked > 1 or (args.set and args.job is None):
        raise ConfigRefused(
            "the question to `wardround jobs compat`",
            found="more than one of OPTION, --job and --markdown, or --set without --job",
            expected="one of them",
            fix="wardround jobs compat --job JOB --set NAME=VALUE",
        )
    if args.job is not None:
        return _job(args.job, args.set)
    if args.options:
        return _options(args.options)
    print(
        compat_page.markdown() if args.markdown else compat_page.text(),
        end="" if args.markdown else "\n",
    )
    return DONE


def _options(names: list[str]) -> int:
    from wardround.jobs import compat_names

    chosen = compat_names.asked(names)
    wrong = compat_names.why_not(chosen)
    return _answer(compat_names.words(chosen), None if wrong is None else wrong.refusal())


def _job(name: str, settings: list[str]) -> int:
    from wardround.core.traits import misfit
    from wardround.jobs import recipes
    from wardround.jobs.building import parts_of

    found = parts_of(recipes.job(name, settings))
    wrong = misfit(found)
    return _answer(
        ", ".join(part.name for part in found),
        None if wrong is None else wrong.refusal(),
    )


def _answer(told: str, refusal: ConfigRefused | None) -> int:
    print(f"{'does not go' if refusal else 'goes'} together: {told}")
    if refusal is not None:
        print(refusal)
    return INCOMPLETE if refusal else DONE
