"""`wardround ledger` says what a hospital's patients have paid in privacy, and what one
more job would cost.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.terminal import DONE, INCOMPLETE, command, folder, group, positive, table

if TYPE_CHECKING:
    from wardround.dp.accounting import Claim
    from wardround.dp.budget import Budget
    from wardround.dp.ledger import Account, Ledger
    from wardround.dp.releases import Release, Unit

LEDGER = """
A hospital's privacy ledger says what jobs with differential privacy released, over all jobs there ever were. FOLDER is the
hospital's own folder (`local/` of its NVFlare site) with wardround_ledger.jsonl and wardround_budget.json.

  wardround ledger show local
  wardround ledger verify local
  wardround ledger simulate local --unit patient --delta 1e-5 --target-epsilon 2 --sample-rate 0.05 --steps 200
"""
SHOW = """
Print the releases of every job, and what all of them together mean for one patient (or image, or hospital): epsilon at a
delta, mu, and the success of the best possible attacker who wants to know whether somebody took part (tossing a coin: .5, and
.01 at 1 % false alarms). `with reserved` also counts what open jobs may still release. The delta is that of the budget, or
--delta.

  wardround ledger show local
  wardround ledger show local --delta 1e-6
"""
VERIFY = """
Check every line, the chain of hashes and the head. Nothing is written. Exit code 0: the ledger is whole; 1: it is whole, but
the last entry was interrupted or the clock went back; 2: it was edited, shortened or replaced, or it is not there.

A chain of hashes cannot notice that ledger and head were both deleted, or both replaced by an older copy. Therefore note the
head that this command prints, away from this machine, and pass it to --expect later: the ledger must still begin with those
lines.

  wardround ledger verify local
  wardround ledger verify local --expect 12:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""
SIMULATE = """
Print what a planned job would cost in addition to the ledger. Nothing is reserved. For training on sampled patients (DP-SGD)
give --sample-rate and --steps; for a sum in which every unit takes part in every round give --rounds. Exit code 0: the job
fits the budget (or there is none); 1: it does not fit; 2: refused, as is an epsilon above 100 without --accept-vacuous.

  wardround ledger simulate local --unit patient --delta 1e-5 --noise-multiplier 1.0 --sample-rate 0.05 --steps 200
  wardround ledger simulate local --unit patient --delta 1e-5 --target-epsilon 2 --sample-rate 0.05 --steps 200
  wardround ledger simulate local --unit hospital --delta 1e-5 --target-epsilon 8 --rounds 10
"""
CLOSE = """
Free what a job reserved and did not spend. A job does this itself when it ends; use the command for a job that was killed and
will not be started again. What the job spent stays spent.

  wardround ledger close local 0b5c0a7e-6d0e-4b6e-9d4e-5b1d2f0a9c11
"""
HEADS = ("", "unit", "delta", "epsilon", "mu", "best attack", "TPR at 1 % FPR")


def add(commands: Any) -> None:
    """Declare the commands."""
    inner = group(commands, "ledger", "what jobs with differential privacy have spent", LEDGER)
    shown = command(inner, "show", "print releases and what they cost together", SHOW, show)
    verified = command(inner, "verify", "check the chain of hashes", VERIFY, verify)
    planned = command(inner, "simulate", "what a planned job would cost on top", SIMULATE, simulate)
    closed = command(inner, "close", "free what an ended job had reserved", CLOSE, close)
    for parser in (shown, verified, planned, closed):
        parser.add_argument("folder", type=folder, metavar="FOLDER", help="the hospital's folder that holds its ledger")
    shown.add_argument("--delta", type=float, metavar="D", help="for example 1e-5; default: what the budget says")
    verified.add_argument("--expect", metavar="COUNT:SHA256", help="a head that was noted earlier")
    planned.add_argument(
        "--unit", required=True, choices=("image", "patient", "hospital"), help="who is hidden; a site's own: patient"
    )
    planned.add_argument("--delta", required=True, type=float, metavar="D", help="1e-5 is usual; never 1/n")
    noise = planned.add_mutually_exclusive_group(required=True)
    noise.add_argument("--noise-multiplier", type=float, metavar="Z", help="noise over sensitivity")
    noise.add_argument(
        "--target-epsilon", type=float, metavar="E", help="find the noise at which this job alone costs E"
    )
    planned.add_argument("--sample-rate", type=float, metavar="Q", help="chance of a unit to be in a step (Poisson)")
    planned.add_argument("--steps", type=positive, metavar="T", help="sampled steps over the whole job")
    planned.add_argument("--rounds", type=positive, metavar="T", help="rounds in which everybody takes part")
    planned.add_argument("--accept-vacuous", action="store_true", help="go on above epsilon 100: no privacy claim")
    closed.add_argument("job", metavar="JOB_ID", help="the id, as `wardround ledger show` prints it")


def show(args: argparse.Namespace) -> int:
    """Print the releases of every job, then what all of them together mean for each
    unit.
    """
    from wardround.dp.accounting import claim
    from wardround.dp.releases import UNITS, UnknownRelease
    from wardround.dp.second_accountant import said, second_opinion

    ledger, budget = _ledger(args), _budget(args)
    state = ledger.state()
    print(f"{args.folder}: {len(state.chain.entries)} entries, head {state.chain.head()}\n")
    print(table(["job", "id", "code", "state", "release", "spent", "reserved"], _jobs(list(state.accounts.values()))))
    limits = {limit.unit: limit for limit in budget.limits} if budget else {}
    known = [one.unit for one in (*state.spent, *state.reserved) if not isinstance(one, UnknownRelease)]
    rows, seconds = [], []
    units = [unit for unit in UNITS if unit in {"patient", *known, *limits}]
    for unit in units:
        delta = args.delta or (
            limits[unit].delta if unit in limits else min((one.delta for one in limits.values()), default=0)
        )
        if not delta:
            raise _refused("no delta", "a budget in the folder, or --delta", "add --delta 1e-5")
        rows.append(_row("spent", claim(state.spent, unit, delta)))
        rows.append(_row("with reserved", claim([*state.spent, *state.reserved], unit, delta)))
        seconds.append(second_opinion(state.spent, unit, delta))
        if unit in limits:
            rows.append(["budget", unit, f"{limits[unit].delta:g}", f"{limits[unit].epsilon:g}", "", "", ""])
    print(f"\n{table(HEADS, rows)}")
    for unit, second in zip(units, seconds, strict=True):
        if second is not None:
            print(f"\nspent: {said(second, unit)}")
    if any(row[3] == "infinite" for row in rows):
        print(
            "\ninfinite: nothing is claimed for that unit; a release hides its own unit and smaller ones, never larger ones"
        )
    _warn(ledger)
    return DONE


def verify(args: argparse.Namespace) -> int:
    """Check the chain of hashes, and that it begins with the head that was noted
    earlier, where one is given.
    """
    ledger = _ledger(args)
    chain = ledger.state().chain
    if args.expect is not None:
        count = args.expect.partition(":")[0]
        if not count.isdecimal() or chain.head(int(count)) != args.expect:
            raise ReleaseRefused(
                f"the ledger in {args.folder}",
                found=f"{len(chain.entries)} entries that do not begin with those of the head {args.expect:.20}...",
                expected="every line that was there when that head was noted",
                fix="find out who put back, replaced or deleted the ledger; until then count on more than it shows",
            )
    print(f"whole: {len(chain.entries)} entries, head {chain.head()}")
    return INCOMPLETE if _warn(ledger) else DONE


def simulate(args: argparse.Namespace) -> int:
    """Print what is spent, what the planned job would cost alone, and what both cost
    together. Nothing is reserved.
    """
    from wardround.dp.accounting import claim, require_meaningful
    from wardround.dp.releases import times
    from wardround.dp.second_accountant import said, second_opinion

    ledger = _ledger(args, needed=False)
    budget = _budget(args)
    plan = _plan(args)
    state = ledger.state()
    alone = claim([plan], args.unit, args.delta)
    require_meaningful(alone.epsilon, args.accept_vacuous)
    before = [*state.spent, *state.reserved]
    rows = [
        _row("spent", claim(state.spent, args.unit, args.delta)),
        _row("with reserved", claim(before, args.unit, args.delta)),
        _row("this job alone", alone),
        _row("all together", claim([*before, plan], args.unit, args.delta)),
    ]
    print(f"{_text(plan)}, {times(plan)} times\n\n{table(HEADS, rows)}")
    second = second_opinion([*before, plan], args.unit, args.delta)
    if second is not None:
        print(f"\nall together: {said(second, args.unit)}")
    if budget is None:
        print("\nno wardround_budget.json in this folder: jobs with differential privacy are refused here")
        return DONE
    bills = ledger.bills({"plan": plan}, budget)
    for bill in bills:
        print(f"\n{'fits' if bill.fits else 'DOES NOT FIT'} the budget of {bill.limit.epsilon:g}: {bill}")
    return DONE if all(bill.fits for bill in bills) else INCOMPLETE


def close(args: argparse.Namespace) -> int:
    """Free what a job that will not be started again had reserved."""
    _ledger(args).close(args.job)
    print(f"job {args.job} holds no reservation")
    return DONE


def _ledger(args: argparse.Namespace, *, needed: bool = True) -> Ledger:
    from wardround.dp import ledger_file
    from wardround.dp.ledger import Ledger

    if not args.folder.is_dir():
        raise _refused(
            f"no folder {args.folder}",
            "the folder that holds, or will hold, a hospital's ledger",
            "name the site's local/",
        )
    if needed and not any((args.folder / name).exists() for name in (ledger_file.FILE, ledger_file.HEAD)):
        raise _refused(
            f"no {ledger_file.FILE}", "a ledger; the first private job makes one", "look for the site's local/"
        )
    return Ledger(args.folder)


def _budget(args: argparse.Namespace) -> Budget | None:
    from wardround.dp import budget

    path = args.folder / budget.FILE
    return budget.read_budget(path) if path.exists() else None


def _plan(args: argparse.Namespace) -> Release:
    from wardround.dp.accounting import full_noise_multiplier_for, noise_multiplier_for
    from wardround.dp.releases import GaussianRelease, SampledGaussianRelease

    unit: Unit = args.unit
    z = args.noise_multiplier
    target = args.target_epsilon
    q = args.sample_rate
    steps = args.steps
    if args.rounds is not None and q is None and steps is None:
        z = full_noise_multiplier_for(target, args.delta, args.rounds, unit) if z is None else z
        return GaussianRelease(unit, z, args.rounds)
    if args.rounds is None and q is not None and steps is not None:
        z = noise_multiplier_for(target, args.delta, q, steps) if z is None else z
        return SampledGaussianRelease(unit, z, q, steps)
    raise _refused("another set of options", "--sample-rate with --steps, or --rounds alone", "say how it releases")


def _jobs(accounts: list[Account]) -> list[list[str]]:
    from wardround.dp.releases import merged, repeated, times

    rows = []
    for account in accounts:
        state = "open" if account.reserved else "closed"
        state += f", continues {account.job.continues}" if account.job.continues else ""
        job = [account.job.name, account.job.id, account.job.version, state]
        for key in dict.fromkeys((*account.spent, *account.reserved)):
            done, left = (
                {repeated(one, 1): times(one) for one in merged(some)}
                for some in (account.spent.get(key, ()), account.open(key))
            )
            for one in dict.fromkeys((*done, *left)):
                rows.append([*job, f"{key}: {_text(one)}", str(done.get(one, 0)), str(left.get(one, 0))])
    return rows


def _text(release: Release) -> str:
    from wardround.dp.releases import GaussianRelease, UnknownRelease

    if isinstance(release, UnknownRelease):
        return f"UNKNOWN ({release.what})"
    if isinstance(release, GaussianRelease):
        return f"per {release.unit}, noise {release.noise_multiplier:.6g}, everybody"
    return f"per {release.unit}, noise {release.noise_multiplier:.6g}, sampled at {release.sample_rate:.6g}"


def _row(name: str, found: Claim) -> list[str]:
    if math.isinf(found.epsilon):
        return [name, found.unit, f"{found.delta:g}", "infinite", "infinite", "1.00", "1.00"]
    attack = [f"{found.attack.accuracy:.3f}", f"{found.attack.tpr:.3f}"]
    return [name, found.unit, f"{found.delta:g}", f"{found.epsilon:.4g}", f"{found.mu:.3f}", *attack]


def _warn(ledger: Ledger) -> bool:
    """Print what a person should look at, and return whether there was anything."""
    state = ledger.state()
    if state.chain.pending:
        print("\nthe last entry was interrupted: it counts, and the next job completes it")
    if state.clock_back:
        print(f"\nthe clock went back before line {', '.join(map(str, state.clock_back))}")
    return state.chain.pending or bool(state.clock_back)


def _refused(found: str, expected: str, fix: str) -> ConfigRefused:
    return ConfigRefused("the ledger command", found=found, expected=expected, fix=fix)
