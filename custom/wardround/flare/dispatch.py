"""How the server asks the sites over NVFlare: one Ask becomes one task, and its answers
are folded in as they arrive.

Once `need` answers have been accepted, the other sites have
`wait_time_after_min_received` seconds more. Then, or at the deadline, the task is
cancelled, and the sites that were silent are missing. A later answer is dropped, and
the log says so: a mask, and a charge under differential privacy, belong to the round
that they were made for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.core.attendance import NOT_CONNECTED, SILENT, Attendance
from wardround.core.stages import Ask, Replies
from wardround.flare import plaintext_messages, strict_dxo, workspaces
from wardround.flare.last_resort import tried
from wardround.flare.progress import Now

# With these codes a site says that it could not, not that it would not. It is asked
# again.
PASSING = frozenset(
    {plaintext_messages.MEMORY, plaintext_messages.FAILURE, ReturnCode.COMMUNICATION_ERROR, ReturnCode.TASK_ABORTED}
)
# To ask the server's parent process who is connected costs a message, so it is done
# every two seconds; to look for answers costs nothing.
_SYNC_S = 2.0
_LOOK_S = 0.05


class Codec(Protocol):
    """How the plain values of a run are written on the wire, and read strictly from it."""

    def encode(self, message: Any) -> Shareable:
        """Return the task data of a message."""
        ...

    def decode(self, task: str, reply: Shareable) -> Any:
        """Return what a site says in answer to a task; all else is a Refusal."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long the server waits for answers.

    deadlines: by the deadline of an Ask, in seconds; 0 waits for ever.
    wait_time_after_min_received: how many seconds the other sites have once enough
        sites have answered.
    """

    deadlines: Mapping[str, int]
    wait_time_after_min_received: int


class Dispatch:
    """Sends the Asks of one run, and notes in `attendance` who was silent or was
    refused.
    """

    def __init__(
        self,
        controller: Controller,
        attendance: Attendance,
        codec: Codec,
        patience: Patience,
    ) -> None:
        self._controller = controller
        self._attendance = attendance
        self._codec = codec
        self._patience = patience
        # NVFlare delivers answers in threads of its own. The lock makes "if the
        # question is still open, fold this answer in" one step: an answer is either in
        # the round or dropped, never both.
        self._lock = threading.RLock()
        self._open: _Question | None = None
        self._tokens = connected(controller._engine)
        self._round_seen = attendance.round
        self._since = time.monotonic()

    def now(self) -> Now:
        """Return how far the run is. Any thread may call this."""
        with self._lock:
            accepted = len(self._open.accepted) if self._open else 0
            silent = len(self._open.silent) if self._open else 0
        there = self._attendance
        missing = tuple(site for site in there.configured if site not in there.present())
        return Now(there.round, there.num_rounds, accepted, accepted + silent, missing, self._since)

    def ask(self, ask: Ask, abort_signal: Signal, fl_ctx: FLContext) -> Replies:
        """Send one task, wait, and return whose answers were accepted."""
        if self._attendance.round != self._round_seen:
            self._round_seen = self._attendance.round
            self._since = time.monotonic()
        self._sync(fl_ctx)
        for site in self._attendance.present():
            if site not in self._tokens:
                self._attendance.miss(site, NOT_CONNECTED, ask.round_)
        present = self._attendance.present()
        targets = [site for site in (present if ask.to is None else ask.to) if site in present]
        question = _Question(ask, self._attendance.round if ask.round_ is None else ask.round_, targets)
        timeout_s = self._patience.deadlines[ask.deadline]
        # Open before it is sent: the first answer may come while `_send` still runs.
        with self._lock:
            self._open = question
        if question.silent:
            self._send(question, timeout_s, fl_ctx)
        self._wait(question, timeout_s, abort_signal, fl_ctx)
        self._end(question, abort_signal)
        answered = tuple(site for site in self._attendance.configured if site in question.accepted)
        return Replies(answered, dict(self._attendance.missing))

    def _send(self, question: _Question, timeout_s: int, fl_ctx: FLContext) -> None:
        """Broadcast a task. NVFlare takes an empty list of targets for any site, so
        this is never called with one.
        """

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            self._received(question, client_task)

        data = self._codec.encode(question.ask.message)
        targets = list(question.silent)
        question.task = Task(question.ask.task, data, timeout=timeout_s, result_received_cb=received)
        self._controller.broadcast(question.task, fl_ctx, targets=targets, min_responses=len(targets))

    def _wait(self, question: _Question, timeout_s: int, abort_signal: Signal, fl_ctx: FLContext) -> None:
        begun = synced = time.monotonic()
        enough_at: float | None = None
        need = question.ask.need
        while question.hopes() and not abort_signal.triggered:
            now = time.monotonic()
            if need is not None and enough_at is None and len(question.accepted) >= need:
                enough_at = now
            if timeout_s and now - begun >= timeout_s:
                return
            if enough_at is not None and now - enough_at >= self._patience.wait_time_after_min_received:
                return
            if now - synced >= _SYNC_S:
                self._sync(fl_ctx)
                synced = now
            time.sleep(_LOOK_S)

    def _end(self, question: _Question, abort_signal: Signal) -> None:
        with self._lock:
            self._open = None
            # An abort silences all sites, so no site is noted as missing.
            silent = [] if abort_signal.triggered else list(question.silent)
        for site in silent:
            self._attendance.miss(site, SILENT, question.round)
        if question.task is not None and question.task.completion_status is None:
            self._controller.cancel_task(question.task)

    def _received(self, question: _Question, client_task: ClientTask) -> None:
        site, result = client_task.client.name, client_task.result
        # NVFlare keeps the client task until the task ends. With every update in it,
        # memory would grow with the number of sites.
        client_task.result = None
        with self._lock:
            if site in question.silent:
                question.silent.remove(site)
            if question is self._open:
                self._accept(question, site, result)
                return
        # The round is over and its sum is taken. A site that missed it begins the next
        # round from the state that it had before.
        when = self._attendance.when(question.round)
        self._controller.logger.warning(f"DROPPED a late answer of {site} to task {question.ask.task} of {when}")

    def _accept(self, question: _Question, site: str, result: Shareable) -> None:
        refused: list[str] = []

        def read() -> None:
            if strict_dxo.is_reply(result):
                question.ask.take(site, self._codec.decode(question.ask.task, result))
            else:
                refused.append(plaintext_messages.refusal_code(result))

        failure = tried(read)
        if failure is not None:
            task = question.ask.task
            self._controller.logger.error(f"REJECTED the answer of {site} to task {task}: {failure.details}")
            self._attendance.lose(site, f"rejected: {failure.code}", question.round)
        elif refused:
            note = self._attendance.miss if refused[0] in PASSING else self._attendance.lose
            note(site, f"refused: {refused[0]}", question.round)
        else:
            question.accepted.append(site)

    def _sync(self, fl_ctx: FLContext) -> None:
        """Ask the parent process who takes part; a site that is back has a new token."""
        engine: Any = self._controller._engine
        with suppress(RuntimeError):
            engine.sync_clients_from_main_process()
        tokens = connected(engine)
        for site, token in tokens.items():
            if self._tokens.get(site) != token:
                self._attendance.came_back(site)
        self._tokens = tokens


class _Question:
    """One task on its way: which sites are silent, and whose answer was accepted."""

    def __init__(self, ask: Ask, round_: int, targets: Sequence[str]) -> None:
        self.ask = ask
        self.round = round_
        self.silent = list(targets)
        self.accepted: list[str] = []
        self.task: Any = None

    def hopes(self) -> bool:
        """Tell whether an answer may still come."""
        return self.task is not None and self.task.completion_status is None and bool(self.silent)


def connected(engine: Any) -> dict[str, str]:
    """Return the token of each connected site by name; it is new whenever a site
    starts.
    """
    return {client.name: str(getattr(client, "token", "")) for client in engine.get_clients()}


def configured(engine: Any, fl_ctx: FLContext) -> list[str]:
    """Return the sites of this run: those that the job names, and those connected.

    A site that the job's deploy_map names is listed even if it is not there. The
    simulator is an exception: it may run a job with fewer sites than the job names.
    """
    meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
    named = [str(client["name"]) for client in meta.get(JobMetaKey.JOB_CLIENTS.value) or [] if "name" in client]
    if not workspaces.in_simulator(fl_ctx):
        named += workspaces.sites_of_job(meta)
    return sorted({*named, *connected(engine)})


def drop_late(controller: Controller, client: Client, task_name: str, fl_ctx: FLContext) -> None:
    """Say in the log that an answer to a task that is over was dropped."""
    controller.log_warning(fl_ctx, f"DROPPED a late answer of {client.name} to task {task_name}")
