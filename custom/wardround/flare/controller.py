"""The server's adapter to NVFlare, in every mode: one controller that drives a run,
which is a generator (core/stages.py).

The controller opens or resumes the run, sends what the run asks, and writes run.json
and the report whatever happens. It ends the job as FAILED where a site was lost, took
part in no round, or did not evaluate the final model, so that a job that lost a site
never looks like a success. A site that only missed some rounds rejoins the next one,
and the report says so in a remark.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any, Protocol

from nvflare.apis.client import Client
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.core.attendance import Attendance
from wardround.core.errors import ConfigRefused, Refusal
from wardround.core.run_log import flat
from wardround.core.stages import STEP, TRAINING, Replies, ServerRun
from wardround.flare import progress, workspaces
from wardround.flare.dispatch import Codec, Dispatch, Patience, configured, drop_late
from wardround.flare.last_resort import tried
from wardround.flare.run_report import RunReport, conclusion


class RecordedRun(ServerRun, Protocol):
    """A run whose log can be written down."""

    @property
    def record(self) -> RunReport:
        """Return the log of the run."""
        ...


class Mode(Codec, Protocol):
    """How the updates of a job are put together: in plaintext (plaintext_server.py), or
    as a secure sum (secagg_server.py).
    """

    def open(self, fl_ctx: FLContext, num_rounds: int, about: dict[str, Any]) -> RecordedRun:
        """Return a new run, or the run that the state folder holds.

        A run that cannot begin is a Refusal.

        about: the job's settings as reports print them. A resumed run must have the
            same.
        """
        ...


class ServerController(Controller):  # type: ignore[misc]
    """Runs all rounds of a job, then the final evaluation.

    mode: how updates are put together; it opens the run.
    num_rounds: how many rounds there are, 1 or more.
    about: the job's settings, for the report.
    round_timeout_s: the deadline of training and of the final evaluation, in seconds; 0
        waits for ever.
    step_timeout_s: the deadline, in seconds, of all else that a secure sum asks; 1 or
        more.
    wait_time_after_min_received: how many seconds the other sites have once enough
        sites have answered.
    """

    def __init__(
        self,
        mode: Mode,
        num_rounds: int,
        about: dict[str, Any],
        round_timeout_s: int,
        step_timeout_s: int,
        wait_time_after_min_received: int,
    ) -> None:
        super().__init__(task_check_period=0.05)
        # NVFlare turns an undefined variable of a config into None.
        waits = {
            "round_timeout_s": round_timeout_s,
            "step_timeout_s": step_timeout_s,
            "wait_time_after_min_received": wait_time_after_min_received,
        }
        impatient = [name for name, wait in waits.items() if type(wait) is not int or wait < 0]
        # A site that falls silent inside a secure sum must not hold up all others for
        # ever.
        if impatient or step_timeout_s == 0 or not (mode and about and type(num_rounds) is int and num_rounds >= 1):
            raise ConfigRefused(
                "the job's server settings",
                found=f"rounds {num_rounds}, {', '.join(f'{name} {wait}' for name, wait in waits.items())}",
                expected="rounds >= 1, a mode, its settings (about), and whole seconds to "
                "wait, 0 or more; step_timeout_s >= 1",
                fix="print the job again with `wardround jobs write`, and with `--set "
                "federation.wait_time_after_min_received=SECONDS` for another time",
            )
        self.mode = mode
        self.num_rounds = num_rounds
        self.about = flat(about)
        self.round_timeout_s = round_timeout_s
        self.step_timeout_s = step_timeout_s
        self.wait_time_after_min_received = wait_time_after_min_received
        self._run: RecordedRun | None = None
        self._dispatch: Dispatch | None = None

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Open the run, or resume it. A refusal ends the job before any task is sent."""
        try:
            workspaces.require_startable(fl_ctx)
            workspaces.begin_new_run(fl_ctx)
            self._run = self.mode.open(fl_ctx, self.num_rounds, self.about)
        except Refusal as refusal:
            self.system_panic(f"the run cannot start: {refusal}", fl_ctx)
            return
        if self._run.done:
            self.log_info(fl_ctx, f"RESUMED from round {self._run.done} of {self.num_rounds}")

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run all rounds that are left, then the final evaluation.

        run.json and the report are written whatever happens.
        """
        if self._run is None:
            return  # the start was refused, with the reason: there is nothing to add
        # The drive and the report are tried one by one: whatever breaks the drive, the
        # report is still written, and says so.
        run = self._run
        record = run.record
        there = Attendance(configured(self._engine, fl_ctx), self.num_rounds, record)
        patience = Patience(
            {TRAINING: self.round_timeout_s, STEP: self.step_timeout_s}, self.wait_time_after_min_received
        )
        self._dispatch = dispatch = Dispatch(self, there, self.mode, patience)
        record.note(tried(lambda: self._drive(run, there, dispatch, abort_signal, fl_ctx)), self.logger)
        record.note(tried(lambda: self._report(run, fl_ctx)), self.logger)
        if record.problems:
            self.system_panic("INCOMPLETE: " + "; ".join(record.problems), fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing: nothing is held open between rounds."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Answer an administrator who asks how far the run is."""
        super().handle_event(event_type, fl_ctx)
        if event_type == progress.ASKED and self._dispatch is not None and self._run is not None:
            progress.tell(fl_ctx, self._dispatch.now(), self._run.record.run["rounds"])

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Drop a late answer, and say so in the log."""
        drop_late(self, client, task_name, fl_ctx)

    def _drive(
        self,
        run: RecordedRun,
        there: Attendance,
        dispatch: Dispatch,
        abort_signal: Signal,
        fl_ctx: FLContext,
    ) -> None:
        """Ask what the run asks until the run is over.

        A run whose final model every site has evaluated is marked as finished, so that
        it is not resumed.
        """
        # `closing` ends the generator on every way out, in an abort and in a fault too,
        # so that what the run does at its end is done.
        with closing(run.run(there)) as steps:
            replies: Replies | None = None
            while True:
                try:
                    # The first send of a generator must be None: it runs up to the
                    # first Ask.
                    ask = steps.send(replies)  # type: ignore[arg-type]
                except StopIteration as end:
                    if end.value:
                        workspaces.finish(fl_ctx)
                    return
                replies = dispatch.ask(ask, abort_signal, fl_ctx)
                if abort_signal.triggered:
                    run.record.problem(f"the run was aborted in {there.when()}")
                    return

    def _report(self, run: RecordedRun, fl_ctx: FLContext) -> None:
        """Write the run's log and report, and say in the log where they lie."""
        page = run.record.close(workspaces.run_folder(fl_ctx), run.best())
        for line in conclusion(page):
            self.log_info(fl_ctx, line)
