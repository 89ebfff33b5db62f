"""The site's one executor for NVFlare: the name of a task chooses a handler, and a
failure becomes a code.

The component `outbound` says how updates leave. Without secure aggregation the tasks
are those of plaintext_tasks.py, with it those of secagg_tasks.py. What both share,
training and evaluation, is in trainer.py.
"""

from __future__ import annotations

from typing import Protocol

from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from wardround.aggregation.validation import StepCheck
from wardround.algorithms.base import Algorithm
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import ServerOptimizer, part_of
from wardround.algorithms.sharing import Sharing
from wardround.core.errors import ConfigRefused
from wardround.dp.scaling import ISOTROPIC, Scaling
from wardround.flare.outbound import Outbound, outbound_of
from wardround.flare.plaintext_tasks import PlaintextTasks
from wardround.flare.secagg_model import SecAggModel
from wardround.flare.secagg_tasks import SecAggTasks
from wardround.flare.site_parts import guarded, require_given, require_started
from wardround.flare.trainer import Trainer, Work
from wardround.models.nets import Network
from wardround.training.evaluation import ModelSelection
from wardround.training.task import TaskPhantoms, TaskSampling

PRINT = "print the job again with `wardround jobs write`"


class Tasks(Protocol):
    """The handlers of one kind of job."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the tasks that these handlers answer."""

    def do(self, task: str, message: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return the reply to one of these tasks."""


class SiteExecutor(Executor):  # type: ignore[misc]
    """Does every task of one job at one site.

    algorithm: what the job trains | sharing: which blocks of it leave the site
    fedavg_baseline: FedAvg beside it (variable `fedavg`), or None
    rule, variables: what a server does in plaintext jobs; with secure aggregation every site does it, so they are given there
    scaling: public scales beside hospital-level noise, or None
    validation: how every revealed sum is checked before it is applied, or None
    a setting that is missing, or that this kind of job does not have: ConfigRefused, when it is built or at every task
    """

    def __init__(
        self,
        algorithm: Algorithm,
        sharing: Sharing,
        model: Network,
        schedule: Schedule,
        sampling: TaskSampling,
        model_selection: ModelSelection,
        phantoms: TaskPhantoms,
        seed: int,
        fedavg_baseline: Algorithm | None = None,
        server_optimizer: ServerOptimizer | None = None,
        variables: list[str] | None = None,
        scaling: Scaling | None = None,
        validation: StepCheck | None = None,
    ) -> None:
        super().__init__()
        require_given(algorithm=algorithm, sharing=sharing, model=model, schedule=schedule, sampling=sampling)
        require_given(model_selection=model_selection, phantoms=phantoms, seed=seed)
        require_started(algorithm, sharing, schedule)
        self.algorithm, self.sharing, self.fedavg_baseline = algorithm, sharing, fedavg_baseline
        self.model, self.schedule, self.sampling = model, schedule, sampling
        self.model_selection, self.phantoms, self.seed = model_selection, phantoms, seed
        self.server_optimizer, self.variables, self.scaling = server_optimizer, variables, scaling
        self.validation = validation
        work = Work(algorithm, sharing, model, schedule, sampling, model_selection, phantoms, seed, fedavg_baseline)
        # Without a check the digest is what it was before there were checks: kept state goes on.
        checked = () if validation is None else (validation,)
        self.trainer = Trainer(self, work, (server_optimizer, variables, scaling, *checked))
        self.secagg_model: SecAggModel | None = None
        self._tasks: Tasks | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Do one task. A refusal or a failure becomes a reply with its code only."""

        def work() -> Shareable:
            # Only a task has a context in which the component `outbound` can be found.
            if self._tasks is None:
                self._tasks = self._tasks_of(outbound_of(fl_ctx))
            if task_name not in self._tasks.names:
                raise ConfigRefused("a task", found=task_name, expected=", ".join(self._tasks.names), fix=PRINT)
            return self._tasks.do(task_name, shareable, fl_ctx)

        return guarded(self, fl_ctx, work)

    def settings(self, outbound: Outbound) -> str:
        """Return a digest of everything that shapes an update and its noise.

        Reservations in the privacy ledger are bound to this digest.
        """
        return self.trainer.settings(outbound)

    def _tasks_of(self, outbound: Outbound) -> Tasks:
        """Return the handlers for what the job promises; a promise that this training cannot keep: ConfigRefused."""
        applies = () if self.server_optimizer is None else (part_of(self.server_optimizer),)
        self.trainer.bind(outbound, *(() if self.validation is None else (self.validation,)), *applies)
        if outbound.session is None:
            self._require_no_server_part()
            return PlaintextTasks(self.trainer, outbound)
        if self.server_optimizer is None or self.variables is None:
            raise ConfigRefused(
                "the site settings of a job with secure aggregation",
                found="no server optimizer, or no list of variables",
                expected="both: every site applies the sum itself",
                fix=PRINT,
            )
        scaling = self.scaling or ISOTROPIC
        self.secagg_model = SecAggModel(
            self.trainer, outbound, self.server_optimizer, self.variables, scaling, self.validation
        )
        return SecAggTasks(self.trainer, outbound, outbound.session, self.secagg_model)

    def _require_no_server_part(self) -> None:
        names = ("server_optimizer", "variables", "scaling", "validation")
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise ConfigRefused(
                "the site settings of a job whose server adds the updates",
                found=f"{', '.join(given)}, which only sites of a secure sum use",
                expected="none of them, or a `secagg` in the job's component `outbound`",
                fix=PRINT,
            )
