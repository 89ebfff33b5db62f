"""What may every job still release at this site, and what did it release?

The file under it is in dp/ledger_file.py.

    reserve   before training: the whole plan of a job, if it fits the hospital's budget
              on top of everything before it
    spend     before every release: the entry is on the disk when this returns, and
              nothing may leave earlier
    close     after the job: what it reserved and did not spend is free again

What counts is every spend, whoever made it and however often, and the unspent part of
open reservations. A job that is restarted under the same id finds its reservation. What
it releases a second time counts a second time; beyond the reservation it must fit the
budget on its own. A job that ends without `close` keeps its reservation until a person
frees it (`wardround ledger close`). There is one ledger per SITE, in a folder of the
site's own, never in a job's workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.dp import ledger_file
from wardround.dp.budget import Bill, Budget, bills, require_within
from wardround.dp.ledger_file import Chain, Entry
from wardround.dp.releases import Release, merged, repeated, rest, times


@final
@dataclass(frozen=True)
class Job:
    """Who releases: NVFlare's id of the run, the job's name, and the code's version.

    continues: the id of the run of the same name that this one continues; "" for a run
        that begins.
    """

    id: str
    name: str
    version: str
    continues: str = ""

    def __post_init__(self) -> None:
        if not self.id or not self.name or not self.version:
            raise ConfigRefused(
                "a ledger entry",
                found=f"{self}",
                expected="id, name, version",
                fix="name the job",
            )


@final
@dataclass(frozen=True)
class Account:
    """One job in the ledger.

    reserved: the reservation by key while it is open; {} after close.
    settings: by key, the settings to which the reservation is bound.
    before: by key, what the continued runs had spent of the same plan when this one
        took their reservation over.
    """

    job: Job
    spent: Mapping[str, tuple[Release, ...]]
    reserved: Mapping[str, Release]
    settings: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, tuple[Release, ...]] = field(default_factory=dict)

    def open(self, key: str) -> list[Release]:
        """Return what is reserved under a key and not spent yet.

        Spends of the runs that this one continues count too.
        """
        done = (*self.before.get(key, ()), *self.spent.get(key, ()))
        return rest([self.reserved[key]], done) if key in self.reserved else []

    def is_of(self, job: Job) -> bool:
        """Return whether this is another run of the chain that `job` continues."""
        return self.job.id != job.id and bool(job.continues) and job.continues in (self.job.id, self.job.continues)


@final
@dataclass(frozen=True)
class State:
    """What a checked ledger says."""

    chain: Chain
    accounts: Mapping[str, Account]

    @property
    def spent(self) -> list[Release]:
        """Return everything that was released, or that must be taken as released."""
        return merged(one for account in self.accounts.values() for many in account.spent.values() for one in many)

    @property
    def reserved(self) -> list[Release]:
        """Return what open jobs may still release."""
        accounts = self.accounts.values()
        return merged(one for account in accounts for key in account.reserved for one in account.open(key))

    @property
    def clock_back(self) -> list[int]:
        """Return the lines (from 1) whose time lies before that of the line above.

        This is reported and never refused.
        """
        return [entry.n + 1 for entry in self.chain.entries if entry.clock_back_s > 0]


@final
class Ledger:
    """The ledger in a folder.

    Every method reads and checks all of it. A ledger that is damaged or locked, or a
    full disk, raises ReleaseRefused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self) -> State:
        """Return what the ledger says; nothing is written."""
        return _state(ledger_file.read(self.folder))

    def bills(self, plan: Mapping[str, Release], budget: Budget) -> list[Bill]:
        """Return what a plan would mean; nothing is written."""
        state = self.state()
        return bills(state.spent, state.reserved, list(plan.values()), budget)

    def reserve(self, job: Job, plan: Mapping[str, Release], budget: Budget, settings: str = "") -> None:
        """Reserve a job's whole plan, by key, before training.

        When the same plan is reserved a second time, nothing is added, and the budget
        is checked once more. A job that continues another takes its reservation over:
        what was spent of it stays spent and is not planned twice. It raises
        ReleaseRefused with the figures when the budget is exceeded. It raises
        ConfigRefused for an empty plan, and for another plan or other settings than
        those of the same id or of the continued job.

        settings: a digest of what shapes the job's updates.
        """
        if not plan:
            raise _refused(job, "an empty plan", "what the job is going to release")
        with ledger_file.writing(self.folder) as writer:
            state = _state(writer.chain)
            account = state.accounts.get(job.id, Account(job, {}, {}))
            for one in (
                account,
                *(other for other in state.accounts.values() if other.is_of(job)),
            ):
                changed = [key for key, release in plan.items() if one.reserved.get(key, release) != release]
                changed += [key for key in plan if key in one.reserved and one.settings.get(key, "") != settings]
                if changed or one.job.name != job.name:
                    raise _refused(
                        job,
                        f"{one.job.name}, and another plan or settings: {changed}",
                        "what was reserved",
                    )
            fresh = {key: release for key, release in plan.items() if key not in account.reserved}
            accounts = dict(state.accounts)
            for key, release in fresh.items():
                _take(accounts, job, key, release, settings)
            others = {name: one for name, one in accounts.items() if name != job.id}
            ahead = [one for key in fresh for one in accounts[job.id].open(key)]
            own = [one for key in account.reserved for one in account.open(key)]
            require_within(state.spent, [*State(state.chain, others).reserved, *own], ahead, budget)
            for key, release in fresh.items():
                more = {"settings": settings, "continues": job.continues}
                writer.append(job.id, job.name, job.version, "reserve", key, release, **more)

    def spend(self, job: Job, key: str, release: Release, budget: Budget) -> Entry:
        """Write a release down and return its entry for the receipt.

        Release only AFTER this returns; if it raises, never. Within what the job
        reserved under `key`, nothing else is asked. Beyond it, the release must fit the
        budget.
        """
        with ledger_file.writing(self.folder) as writer:
            state = _state(writer.chain)
            account = state.accounts.get(job.id, Account(job, {}, {}))
            room = {repeated(one, 1): times(one) for one in account.open(key)}
            beyond = times(release) - room.get(repeated(release, 1), 0)
            if beyond > 0:
                require_within(state.spent, state.reserved, [repeated(release, beyond)], budget)
            return writer.append(job.id, job.name, job.version, "spend", key, release)

    def close(self, job_id: str) -> None:
        """Free what a job reserved and did not spend.

        A job that was closed before adds nothing. An unknown job raises ReleaseRefused.
        """
        with ledger_file.writing(self.folder) as writer:
            account = _state(writer.chain).accounts.get(job_id)
            if account is None:
                raise ReleaseRefused(
                    f"the ledger in {self.folder}",
                    found=f"no job {job_id!r}",
                    expected="the id of a job that reserved or spent something",
                    fix="look it up with `wardround ledger show`",
                )
            if account.reserved:
                writer.append(job_id, account.job.name, account.job.version, "close", "", None)


def require_affordable(ledger: Ledger, budget: Budget, plan: Mapping[str, Release]) -> None:
    """Raise ReleaseRefused, with the figures, unless a plan fits the budget.

    Everything that was spent and reserved counts. This only asks: another job may come
    between it and the training. `Ledger.reserve` asks and reserves in one step.
    """
    state = ledger.state()
    require_within(state.spent, state.reserved, list(plan.values()), budget)


def _state(chain: Chain) -> State:
    accounts: dict[str, Account] = {}
    for entry in chain.entries:
        job = Job(entry.job_id, entry.job, entry.version, entry.continues)
        account = accounts.get(job.id, Account(job, {}, {}))
        if entry.release is None:
            accounts[job.id] = replace(account, reserved={})
        elif entry.what == "reserve":
            _take(accounts, job, entry.key, entry.release, entry.settings)
        else:
            spent = (*account.spent.get(entry.key, ()), entry.release)
            accounts[job.id] = replace(account, spent={**account.spent, entry.key: spent})
    return State(chain, accounts)


def _take(accounts: dict[str, Account], job: Job, key: str, release: Release, settings: str) -> None:
    """Put a reservation into the accounts.

    The accounts that it continues hold none under this key from now on.
    """
    before: list[Release] = []
    for one in [account for account in accounts.values() if account.is_of(job)]:
        before += one.spent.get(key, ())
        left = {name: value for name, value in one.reserved.items() if name != key}
        accounts[one.job.id] = replace(one, reserved=left)
    account = accounts.get(job.id, Account(job, {}, {}))
    accounts[job.id] = Account(
        replace(account.job, continues=job.continues),
        account.spent,
        {**account.reserved, key: release},
        {**account.settings, key: settings},
        {**account.before, key: tuple(before)},
    )


def _refused(job: Job, found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"the ledger's entry for job {job.name} ({job.id})",
        found=found,
        expected=expected,
        fix="start the changed job as a new one, with an id of its own",
    )
