"""`wardround preflight` says whether this site (or the server) is ready, and what is
left to do.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wardround.core.errors import ConfigRefused
from wardround.core.terminal import DONE, INCOMPLETE, command, existing

if TYPE_CHECKING:
    from wardround.ops.findings import Finding

PREFLIGHT = """
Check a hospital's site (or the server) before its first job, from its startup kit, on the machine that will run it. Each
line is PASS, WARN or FAIL, and says what to do if it is not PASS. Nothing leaves the machine, and nothing is changed.

  kit           signed files are as the project signed them        data      every file of every case, the split
  certificates  dates, issuer, private key                         disk      room for decoded cases
  keys          secret files: modes, none of a site's at a server  memory    free now
  clock         against dates that must be past; synchronised?     gpu       what the site's file asks for
  server        name, port, mutual TLS with this kit               budget    what is left of it, the ledger is whole
  versions      packages against wardround's ranges                scope     local/privacy.json can be built
  remote        what other machines can do here                    private   secrets lie outside the workspace, owner only
  code          who may bring code, which classes are listed       round     a few real steps of a job on real cases
  storage       a server's: jobs on a lasting disk, owner only

For a server all checks run except data, gpu, budget, scope and round. Exit code 0: no FAIL; 1: FAIL; 2: not a kit.

  wardround preflight /opt/nvflare/site-1
  wardround preflight /opt/nvflare/site-1 --job brats_perfedavg
  wardround preflight /opt/nvflare/site-1 --skip data,round         quick
  wardround preflight /opt/nvflare/server --only server --started   the server runs: does it answer?
"""
# The width of the printed page, and of the column in front of the texts.
WIDTH, HEAD = 120, 20


def add(commands: Any) -> None:
    """Declare the command."""
    made = command(
        commands,
        "preflight",
        "is this site, or the server, ready",
        PREFLIGHT,
        run,
    )
    made.add_argument(
        "kit",
        type=existing,
        metavar="KIT",
        help="the party's workspace: startup/ and local/ lie in it",
    )
    made.add_argument(
        "--job",
        metavar="JOB",
        help="name or folder of the job to try; default: one that fits the data",
    )
    made.add_argument(
        "--started",
        action="store_true",
        help="a server's kit: it runs already, so it must answer",
    )
    some = made.add_mutually_exclusive_group()
    some.add_argument("--only", metavar="A,B", help="these checks only")
    some.add_argument("--skip", metavar="A,B", help="all but these checks")
    made.add_argument(
        "--json",
        action="store_true",
        help="print a list of findings instead of the page",
    )


def run(args: argparse.Namespace) -> int:
    """Check one party and print the page. The exit code is 1 where a check fails."""
    from wardround.flare.kit import open_kit
    from wardround.ops import preflight
    from wardround.ops.findings import FAIL

    only, skip = (
        _names(args.only, preflight.CHECKS),
        _names(args.skip, preflight.CHECKS),
    )
    kit = open_kit(args.kit)
    party = preflight.Party(kit, args.started, args.job)
    found = preflight.run(
        party,
        lambda name: name in only if only else name not in skip,
    )
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        print(f"a {kit.role}'s kit: {kit.root}\n\n{page(found)}")
    return INCOMPLETE if any(one.status == FAIL for one in found) else DONE


def page(found: Sequence[Finding]) -> str:
    """Return the page: one entry for each finding with its fix below, and how many
    findings there are of each kind.
    """
    lines = []
    for one in found:
        lines += _wrapped(f"{one.status}  {one.check}".ljust(HEAD), one.found)
        lines += _wrapped("to do: ".rjust(HEAD), one.fix) if one.fix else []
    counts = Counter(one.status for one in found)
    return "\n".join(
        [
            *lines,
            "",
            ", ".join(f"{counts[status]} {status}" for status in ("PASS", "WARN", "FAIL")),
        ],
    )


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        head + " ".join(text.split()),
        WIDTH,
        subsequent_indent=" " * HEAD,
        drop_whitespace=True,
        break_long_words=False,
    )


def _names(text: str | None, known: Any) -> set[str]:
    names = {name.strip() for name in text.split(",")} if text else set()
    if names - set(known):
        raise ConfigRefused(
            "the checks of a preflight",
            found=", ".join(sorted(names - set(known))) or repr(text),
            expected=", ".join(known),
            fix="correct --only or --skip",
        )
    return names
