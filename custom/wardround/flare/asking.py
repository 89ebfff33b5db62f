"""Who is in the run: asking every site for one thing, waiting for enough of them, and saying who is missing and why.

A site that COULD NOT (silent, not connected, out of memory, a failure such as a full disk) is missing in this round and asked
again in the next one. A site that WOULD NOT (a refusal with any other code), or whose answer is rejected, is asked no more:
that needs a person. Once `enough` sites have answered, the others have `grace_s` more. Nothing of this is ever silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.errors import ConfigRefused
from wardround.flare import places, wire
from wardround.flare.last_resort import tried
from wardround.flare.progress import Now
from wardround.flare.record import RunRecord

Take = Callable[[str, Shareable], None]
SILENT, NOT_CONNECTED = "no answer in time", "not connected"
PASSING = frozenset({wire.MEMORY, wire.FAILURE, ReturnCode.COMMUNICATION_ERROR, ReturnCode.TASK_ABORTED})
_SYNC_S, _LOOK_S = 2.0, 0.05


class Asking:
    """The sites of one run. rounds: how many there are, for words | timeout_s: the deadline of an answer (0: none)

    grace_s: how much longer the others may take once `enough` have answered. An answer after that is dropped, and the log says so.
    """

    def __init__(self, controller: Controller, record: RunRecord, rounds: int, timeout_s: int, grace_s: int) -> None:
        self._controller, self._record, self._rounds = controller, record, rounds
        self._timeout_s, self._grace_s = timeout_s, grace_s
        self.configured: list[str] = []
        self.out: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.returned: set[str] = set()
        self._lock = threading.RLock()
        self._open: _Question | None = None
        self._tokens: dict[str, str] = {}
        self._at, self._since = -1, time.monotonic()

    def now(self) -> Now:
        """Return how far the run is; from any thread."""
        with self._lock:
            asked = (self._open.accepted, self._open.silent) if self._open else ([], [])
            return Now(self._at, self._rounds, len(asked[0]), sum(map(len, asked)), tuple(self.missing), self._since)

    def begin(self, fl_ctx: FLContext) -> None:
        """Note who is configured: the sites that the job names and those that are connected."""
        meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
        named = [str(client["name"]) for client in meta.get(JobMetaKey.JOB_CLIENTS.value) or [] if "name" in client]
        if not places.in_simulator(fl_ctx):
            named += places.sites_of_job(meta)
        self._tokens = self._connected()
        self.configured = sorted(set(named) | set(self._tokens))

    def begin_round(self, round_: int) -> None:
        """Give everybody who is not out a new chance. round_ after the last: the judgement."""
        self.missing = dict(self.out)
        self._at, self._since = round_, time.monotonic()

    def left(self) -> list[str]:
        """Return the sites that are configured and not out."""
        return [site for site in self.configured if site not in self.out]

    def present(self) -> list[str]:
        """Return the sites that have not gone missing in this round."""
        return [site for site in self.configured if site not in self.missing]

    def lose(self, site: str, round_: int, reason: str) -> None:
        """Take a site out of the run."""
        if site not in self.out:
            self.out[site] = self.missing[site] = reason
            self._record.problem(f"{site} was lost in {self._when(round_)}: {reason} (see that site's own log)")
            self._controller.logger.error(f"LOST {site} in {self._when(round_)}: {reason}")

    def miss(self, site: str, round_: int, reason: str) -> None:
        """Note that a site could not; in the final judgement there is no next time."""
        if round_ >= self._rounds:
            self.lose(site, round_, reason)
        elif site not in self.missing:
            self.missing[site] = reason
            words = f"MISSING {site} in {self._when(round_)}: {reason}; it is asked again in the next round"
            self._controller.logger.warning(words)

    def ask(
        self,
        task_name: str,
        round_: int,
        message: Shareable,
        take: Take,
        abort_signal: Signal,
        fl_ctx: FLContext,
        sites: Sequence[str] | None = None,
        timeout_s: int | None = None,
        enough: int | None = None,
    ) -> list[str]:
        """Send one task to `sites` (default: all present) and return those whose answer `take` accepted.

        take: called with every good answer as it arrives, nothing is kept; whatever it raises loses that site alone
        enough: how many accepted answers start the grace (None: all are waited for, until the deadline)
        """
        self._sync(fl_ctx)
        for site in self.present():
            if site not in self._tokens:
                self.miss(site, round_, NOT_CONNECTED)
        targets = [site for site in (self.present() if sites is None else sites) if site not in self.missing]
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        question = _Question(task_name, round_, take, targets)
        with self._lock:
            self._open = question
        if targets:

            def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
                self._received(question, client_task)

            question.task = Task(task_name, message, timeout=timeout_s, result_received_cb=received)
            self._controller.broadcast(question.task, fl_ctx, targets=targets, min_responses=len(targets))
        self._wait(question, timeout_s, enough, abort_signal, fl_ctx)
        self._end(question, abort_signal)
        return [site for site in self.configured if site in question.accepted]

    def _wait(
        self, question: _Question, timeout_s: int, enough: int | None, abort_signal: Signal, fl_ctx: FLContext
    ) -> None:
        begun = synced = time.monotonic()
        enough_at: float | None = None
        while self._hopes(question) and not abort_signal.triggered:
            now = time.monotonic()
            if enough is not None and enough_at is None and len(question.accepted) >= enough:
                enough_at = now
            in_time = not timeout_s or now - begun < timeout_s
            if not in_time or (enough_at is not None and now - enough_at >= self._grace_s):
                return
            if now - synced >= _SYNC_S:
                self._sync(fl_ctx)
                synced = now
            time.sleep(_LOOK_S)

    def _hopes(self, question: _Question) -> bool:
        """Tell whether an answer may still come."""
        return question.task is not None and question.task.completion_status is None and bool(question.silent)

    def _end(self, question: _Question, abort_signal: Signal) -> None:
        with self._lock:
            self._open = None
            silent = [] if abort_signal.triggered else list(question.silent)
        for site in silent:
            self.miss(site, question.round, SILENT)
        if question.task is not None and question.task.completion_status is None:
            self._controller.cancel_task(question.task)

    def _received(self, question: _Question, client_task: ClientTask) -> None:
        site, result = client_task.client.name, client_task.result
        client_task.result = None
        with self._lock:
            if site in question.silent:
                question.silent.remove(site)
            if question is self._open:
                self._accept(question, site, result)
            else:
                # The round is over. Its sum is taken, and a site that missed it starts the next one from its state before it.
                self._say_dropped(site, question)

    def _accept(self, question: _Question, site: str, result: Shareable) -> None:
        refused: list[str] = []

        def read() -> None:
            if not wire.is_reply(result):
                refused.append(wire.refusal_code(result))
            else:
                question.take(site, result)

        failure = tried(read)
        if failure is not None:
            self._controller.logger.error(f"REJECTED the answer of {site} to task {question.name}: {failure.details}")
            self.lose(site, question.round, f"rejected: {failure.code}")
        elif refused:
            (self.miss if refused[0] in PASSING else self.lose)(site, question.round, f"refused: {refused[0]}")
        else:
            question.accepted.append(site)

    def _say_dropped(self, site: str, question: _Question) -> None:
        self._controller.logger.warning(
            f"DROPPED a late answer of {site} to task {question.name} of {self._when(question.round)}"
        )

    def _when(self, round_: int) -> str:
        return (
            f"round {round_ + 1}" if 0 <= round_ < self._rounds else "the join" if round_ < 0 else "the final judgement"
        )

    def _sync(self, fl_ctx: FLContext) -> None:
        """Learn from the server's parent process who takes part now: a site that came back has a new token."""
        engine: Any = self._controller._engine
        with suppress(RuntimeError):
            engine.sync_clients_from_main_process()
        tokens = self._connected()
        for site, token in tokens.items():
            if self._tokens.get(site) != token:
                self.returned.add(site)
                self._controller.logger.warning(f"RETURNED {site}: it takes part again")
        self._tokens = tokens

    def _connected(self) -> dict[str, str]:
        engine: Any = self._controller._engine
        return {client.name: str(getattr(client, "token", "")) for client in engine.get_clients()}


class _Question:
    """One task on its way: who has not answered at all, and whose answer was accepted."""

    def __init__(self, name: str, round_: int, take: Take, targets: Sequence[str]) -> None:
        self.name, self.round, self.take = name, round_, take
        self.silent, self.accepted = list(targets), list[str]()
        self.task: Any = None


def require_patience(grace_s: int | None) -> None:
    """Raise ConfigRefused unless a job says how long stragglers are waited for."""
    if not isinstance(grace_s, int) or grace_s < 0:
        raise ConfigRefused(
            "the job's patience with stragglers",
            found=f"grace_s {grace_s}",
            expected="grace_s: whole seconds, 0 or more",
            fix="print the job again with `wardround jobs write`, and with `--set federation.grace_s=SECONDS` for another time",
        )


def drop_late(controller: Controller, client: Client, task_name: str, fl_ctx: FLContext) -> None:
    """Say that an answer to a task that is over was dropped."""
    controller.log_warning(fl_ctx, f"DROPPED a late answer of {client.name} to task {task_name}")
