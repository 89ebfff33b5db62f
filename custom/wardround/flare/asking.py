"""Who is in the run: asking every site that is left for one thing, and losing those that do not answer usefully.

A site that is lost, refuses, or sends what is refused is named with the reason in the log and in the report, and is asked no
more; a run that lost a site ends as INCOMPLETE, whatever the rest achieved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.errors import Refusal
from wardround.flare import wire
from wardround.flare.record import RunRecord

Take = Callable[[str, Shareable], None]


class Asking:
    """The sites of one run. rounds: how many there are, for words | timeout_s: no answer by then is a loss (0: for ever)."""

    def __init__(self, controller: Controller, record: RunRecord, rounds: int, timeout_s: int) -> None:
        self._controller, self._record, self._rounds, self._timeout_s = controller, record, rounds, timeout_s
        self.configured: list[str] = []
        self.lost: dict[str, str] = {}
        self._answered: list[str] = []

    def begin(self, fl_ctx: FLContext) -> None:
        """Note who is configured: the sites that the job names and those that are connected."""
        meta = fl_ctx.get_prop(FLContextKey.JOB_META) or {}
        named = [str(client["name"]) for client in meta.get(JobMetaKey.JOB_CLIENTS.value, []) if "name" in client]
        self.configured = sorted(set(named) | self._connected())

    def left(self) -> list[str]:
        """Return the sites that are configured and not lost."""
        return [site for site in self.configured if site not in self.lost]

    def lose(self, site: str, round_: int, reason: str) -> None:
        """Take a site out of the run."""
        if site not in self.lost:
            self.lost[site] = reason
            when = (
                f"round {round_ + 1}"
                if 0 <= round_ < self._rounds
                else "the join"
                if round_ < 0
                else "the final judgement"
            )
            self._record.problem(f"{site} was lost in {when}: {reason} (see that site's own log)")
            self._controller.logger.error(f"LOST {site} in {when}: {reason}")

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
    ) -> list[str]:
        """Send one task to `sites` (default: all that are left) and return those whose answer `take` accepted.

        take: called with every good answer as it arrives, nothing is kept; a Refusal that it raises loses the site
        """
        self._answered = []
        connected = self._connected()
        for site in self.left():
            if site not in connected:
                self.lose(site, round_, "not connected")
        targets = [site for site in (self.left() if sites is None else sites) if site not in self.lost]
        if not targets:
            return []

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            self._received(client_task, round_, take)

        task = Task(
            task_name, message, timeout=self._timeout_s if timeout_s is None else timeout_s, result_received_cb=received
        )
        self._controller.broadcast_and_wait(
            task, fl_ctx, targets=targets, min_responses=len(targets), abort_signal=abort_signal
        )
        for site in targets:
            if site not in self._answered and not abort_signal.triggered:
                self.lose(site, round_, "no answer in time")
        return [site for site in targets if site in self._answered]

    def _received(self, client_task: ClientTask, round_: int, take: Take) -> None:
        site, result = client_task.client.name, client_task.result
        client_task.result = None
        if result.get_return_code() != ReturnCode.OK:
            self.lose(site, round_, f"refused: {wire.refusal_code(result)}")
            return
        try:
            take(site, result)
        except Refusal as refusal:
            self._controller.logger.error(f"REJECTED the answer of {site} to task {client_task.task.name}: {refusal}")
            self.lose(site, round_, f"rejected: {refusal.code}")
            return
        self._answered.append(site)

    def _connected(self) -> set[str]:
        engine: Any = self._controller._engine
        return {client.name for client in engine.get_clients()}


def drop_late(controller: Controller, client: Client, task_name: str, fl_ctx: FLContext) -> None:
    """Say that an answer to a task that is over was dropped."""
    controller.log_warning(fl_ctx, f"DROPPED a late answer of {client.name} to task {task_name}")
