"""A whole federation with a secure sum in one process: NVFlare's own contexts and messages, real sites, a real server.

Only two things are played: the communicator (every answer comes at once, through NVFlare's serialiser) and, unless a test
wants it real, the hospital behind each site (its update depends on site, round and every weight that it was handed).
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, TaskCompletionStatus
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.apis.workspace import Workspace
from nvflare.app_common.decomposers import numpy_decomposers
from nvflare.fuel.utils import fobs

from wardround import __version__
from wardround.aggregation.validation import StepCheck
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.arrays import digest, in_variable
from wardround.core.errors import Refusal
from wardround.core.rng import stream
from wardround.data.cases import MODALITIES
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.joint_release import JointRelease
from wardround.dp.scaling import Scaling
from wardround.flare import few_patients, made_with, secagg_calls, secagg_messages, workspaces
from wardround.flare.controller import ServerController
from wardround.flare.executor import SiteExecutor
from wardround.flare.outbound import ID, NONE, Outbound
from wardround.flare.outbound_filter import OutboundFilter
from wardround.flare.secagg_server import SecAggJobServer
from wardround.flare.secagg_session import SecAggSession
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.secagg import simulated_kits
from wardround.secagg.spec import SecAggSpec
from wardround.training.evaluation import ModelSelection
from wardround.training.global_model import GlobalModel, initial_arrays
from wardround.training.opening import Phantoms
from wardround.training.segmentation import Sampling

SPEC = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)
FINGERPRINT = fingerprint(SPEC)
SITES = ("site-1", "site-2", "site-3", "site-4")
ABOUT = {"config_type": "dict", "job": "brats_fedavg_secagg", "algorithm": "FedAvg", "num_rounds": 2}
MODES = {
    "fixed": {"masks": False, "encryption": False, "ring": False},
    "masked": {"masks": True, "encryption": False, "ring": False},
    "he": {"masks": False, "encryption": True, "ring": False},
    "he with masks": {"masks": True, "encryption": True, "ring": False},
    "ring": {"masks": True, "encryption": True, "ring": True},
}
SECAGG = tuple(mode for mode in MODES if mode != "fixed")
DICE = {"value": 0.7, "low": 0.6, "high": 0.8, "cases": 3}

flare_decomposers.register()
numpy_decomposers.register()


def secagg(mode: str, **changed: Any) -> SecAggSpec:
    promise = {"sites": 16, "min_clients": 3, "bits": 8, "weights": "patients_in_sum", "reference_patients": 32}
    return SecAggSpec(**promise | {"threshold": 0} | MODES[mode] | changed)


def patients(site: str) -> int:
    """Return how many training patients a played hospital has: site-1 has 3, site-2 has 4, and so on."""
    return 2 + int(site[-1])


def facts_of(site: str) -> dict[str, Any]:
    return {
        "label": f"hospital of {site}",
        "cases": {"train": patients(site), "val": 1, "test": 2},
        "modalities": {"t1": 9, "t1ce": 9, "t2": 0, "flair": 9},
        "label_kind": "brats",
        "device": "cpu",
        "phantoms": True,
        "fingerprint": FINGERPRINT,
    }


def numbers() -> dict[str, Any]:
    """Return a judgement's numbers: a local model and FedAvg, FedAvg better."""
    local = {"k": 0, "val": 0.5, "test": {"dice_mean": dict(DICE)}, "gain": None}
    gain = {"value": 0.1, "low": None, "high": None, "cases": 3}
    fedavg = {"k": 0, "val": 0.7, "test": {"dice_mean": dict(DICE)}, "gain": gain}
    return {"candidates": {"local": local, "fedavg": fedavg}, "deploy": "fedavg"}


@dataclass
class PlayedHospital:
    """Answers like a hospital, at once. trained: the rounds that it trained; spoil: turns an update into another one."""

    name: str
    trained: list[int] = field(default_factory=list)
    spoil: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    @property
    def title(self) -> str:
        return self.name

    @property
    def weight(self) -> float:
        return float(patients(self.name))

    @property
    def facts(self) -> dict[str, Any]:
        return facts_of(self.name)

    def validate(self, weights: Any, round_: int) -> float:
        return 0.1 + 0.1 * round_

    def update(self, weights: Any, round_: int) -> dict[str, Any]:
        rng = stream(int(digest(weights)[:12], 16), self.name, round_)
        return {name: rng.normal(0, 0.01, block.shape).astype(np.float32) for name, block in weights.items()}

    def train(self, weights: Any, round_: int, since: int | None = None) -> tuple[dict[str, Any], float]:
        self.trained.append(round_)
        delta = self.update(weights, round_)
        return (self.spoil(delta) if self.spoil else delta), 1.5

    def evaluate(self, weights: Any, round_: int) -> Any:
        return SimpleNamespace(numbers=numbers())

    def keep(self, evaluation: Any, out: Path, job: str) -> None:
        """Nothing to keep."""


class Engine:
    """As much of NVFlare's engine as our components ask for; events are kept to be looked at."""

    def __init__(self, workspace: Workspace, **components: Any) -> None:
        self.workspace = workspace
        self.components = {made_with.ID: made_with.MadeWith(__version__, made_with.INSTALLED), **components}
        self.events: list[tuple[str, Any]] = []
        self.clients: list[Any] = []

    def get_workspace(self) -> Workspace:
        return self.workspace

    def get_component(self, id_: str) -> Any:
        return self.components.get(id_)

    def get_clients(self) -> list[Any]:
        return self.clients

    def sync_clients_from_main_process(self) -> None:
        """Who takes part is what `clients` holds."""

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append((event_type, fl_ctx.get_prop(FLContextKey.EVENT_DATA)))


class Party:
    """One party's workspace and engine. job: the job id ("simulate_job": NVFlare's simulator)."""

    def __init__(self, root: Path, name: str, job: str, **components: Any) -> None:
        for folder in ("startup", "local"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.root, self.name, self.job = root, name, job
        self.engine = Engine(Workspace(str(root), name), **components)

    @property
    def startup(self) -> Path:
        return self.root / "startup"

    def context(self, task: str | None = None) -> FLContext:
        fl_ctx = FLContext()
        fl_ctx.set_prop(ReservedKey.ENGINE, self.engine, private=True, sticky=False)
        fl_ctx.set_prop(ReservedKey.RUN_NUM, self.job, private=False, sticky=False)
        fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, self.name, private=False, sticky=False)
        fl_ctx.set_prop(FLContextKey.TASK_NAME, task, private=True, sticky=False)
        return fl_ctx

    @property
    def folder(self) -> Path:
        return workspaces.run_folder(self.context())


@dataclass(frozen=True)
class Private:
    """Differential privacy of a played job whose noise is added as updates leave; nothing: none."""

    mechanism: HospitalRelease | JointRelease | None = None
    scaling: Scaling | None = None


class Site(Party):
    """A site of the job: executor, outbound filter, and the component that both read.

    validation: how it checks every revealed sum; schedule: how it trains; both count from the next restart on, as do
    settings: other arguments of its executor
    """

    synthetic = True
    settings: ClassVar[dict[str, Any]] = {}
    schedule = Schedule(2, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine")
    validation: StepCheck | None = None

    def __init__(
        self,
        root: Path,
        name: str,
        job: str,
        promise: SecAggSpec,
        played: bool,
        private: Private | None = None,
        compression: Any = NONE,
    ) -> None:
        super().__init__(root, name, job)
        self.promise, self.private, self.compression = promise, private or Private(), compression
        self.hospital = PlayedHospital(name) if played else None
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not on disk, as a new process does."""
        self.outbound = Outbound(self.private.mechanism or NONE, self.compression, self.promise, MODALITIES)
        self.engine.components |= {ID: self.outbound}
        usual = {"scaling": self.private.scaling, "validation": self.validation, "schedule": self.schedule}
        self.executor = secagg_site(**usual | self.settings)
        self.executor.trainer.opened = self.hospital
        self.exit = OutboundFilter()

    @property
    def secure(self) -> SecAggSession:
        """Return this site's half of the sum."""
        assert self.outbound.session is not None
        return self.outbound.session

    def held(self) -> GlobalModel:
        """Return the global model as this site keeps it, once it has done a task."""
        assert self.executor.secagg_model is not None
        return self.executor.secagg_model.held(self.context())

    def answer(self, task: str, message: Shareable) -> Shareable:
        """Do a task and pass the exit, as NVFlare's client runner does."""
        fl_ctx = self.context(task)
        if self.hospital is not None:
            few_patients.keep(fl_ctx, few_patients.Patients(patients(self.name), 1, 2, synthetic=self.synthetic))
        reply = self.executor.execute(task, message, fl_ctx, Signal())
        try:
            return self.exit.process(reply, fl_ctx)
        except Refusal as refusal:
            self.exit.log_error(fl_ctx, f"the exit refused: {refusal}")
            return make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)

    @property
    def receipts(self) -> list[dict[str, Any]]:
        path = self.folder / "releases.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def model(self) -> dict[str, Any]:
        return checkpoint.load(self.folder / "final_model.npz", FINGERPRINT)[0]


def secagg_site(**changed: Any) -> SiteExecutor:
    promise = {
        "algorithm": FedAvg(),
        "sharing": EVERYTHING,
        "model": SPEC,
        "schedule": Schedule(2, 2, 0.05, 0.9, True, 0.0, 10.0, "cosine"),
        "sampling": Sampling((16, 16, 16), 2, 0.5, False),
        "model_selection": ModelSelection([0, 1], 0.01),
        "phantoms": Phantoms([24, 24, 24], 6),
        "seed": 0,
        "server_optimizer": Mean(1.0),
        "variables": ["model"],
    }
    return SiteExecutor(**promise | changed)


def first_model() -> dict[str, Any]:
    return in_variable("model", initial_arrays(SPEC, 0))


@dataclass(frozen=True)
class Asked:
    """One broadcast of the server."""

    task: str
    round: int
    attempt: int
    targets: tuple[str, ...]
    timeout: int


Before = Callable[[str, str, secagg_messages.Call], None]
Meddle = Callable[[str, str, secagg_messages.Call, Shareable], "Shareable | list[Shareable] | None"]


class Federation:
    """Sites in folders of their own and a server that can be started again and again.

    home: the roles of the blocks that no update holds
    """

    home: ClassVar[list[str]] = []

    def __init__(
        self,
        root: Path,
        kits: Path,
        mode: str,
        names: Sequence[str] = SITES,
        job: str = workspaces.SIMULATOR_JOB,
        played: bool = True,
        private: Private | None = None,
        compression: Any = NONE,
        **promised: Any,
    ) -> None:
        self.root, self.names, self.job = root, tuple(names), job
        self.promise, self.compression = secagg(mode, **promised), compression
        shutil.copytree(kits / "simulated_kits", root / "simulated_kits")
        for name in names:
            shutil.copytree(kits / name / "startup", root / name / "startup")
        self.sites = {name: Site(root / name, name, job, self.promise, played, private, compression) for name in names}
        self.messages: list[tuple[str, str, Shareable]] = []
        self.asked: list[Asked] = []
        self.restarting = False
        self.begin()

    def begin(self, **changed: Any) -> None:
        """Make a server's process; what it knows is what its folder holds."""
        mode = SecAggJobServer(self.promise, SPEC, ["model"], self.home, [], self.compression)
        settings = {"mode": mode, "num_rounds": 2, "about": ABOUT}
        settings |= {"round_timeout_s": 60, "step_timeout_s": 30, "wait_time_after_min_received": 60}
        self.server = Party(self.root / "server", "server", self.job)
        self.server.engine.clients = [SimpleNamespace(name=name) for name in self.names]
        self.controller = ServerController(**settings | changed)
        self.controller.communicator = self
        self.abort = Signal()

    def run(self, before: Before | None = None, meddle: Meddle | None = None) -> Federation:
        """Play the whole run. before: sees every call at its site | meddle: has every reply in its hands; None: silence."""
        self._before, self._meddle = before, meddle
        fl_ctx = self.server.context()
        self.controller.initialize(fl_ctx)
        if not self.panics:
            self.controller.control_flow(self.abort, fl_ctx)
        return self

    def cancel_task(self, task: Any, completion_status: Any, fl_ctx: FLContext) -> None:
        task.completion_status = completion_status

    def broadcast(self, task: Any, fl_ctx: FLContext, targets: list[str], min_responses: int, wait: int) -> None:
        """Be NVFlare's communicator."""
        assert min_responses == len(targets) > 0
        call = secagg_calls.read_call(copy.deepcopy(task.data))
        self.asked.append(Asked(task.name, call.moment.round, call.moment.attempt, tuple(targets), task.timeout))
        for name in targets:
            message = travelled(task.data)
            self.messages.append((task.name, "server", message))
            if self.restarting:
                self.sites[name].restart()
            if self._before is not None:
                self._before(task.name, name, call)
            reply = travelled(self.sites[name].answer(task.name, message))
            self.messages.append((task.name, name, reply))
            found = reply if self._meddle is None else self._meddle(task.name, name, call, reply)
            for one in found if isinstance(found, list) else [found]:
                if one is not None and not self.abort.triggered:
                    client_task = ClientTask(Client(name, "token"), task)
                    client_task.result = one
                    task.result_received_cb(client_task=client_task, fl_ctx=fl_ctx)
        task.completion_status = TaskCompletionStatus.TIMEOUT

    @property
    def panics(self) -> list[str]:
        """Return why the run was told to end as a failure."""
        return [words for event, words in self.server.engine.events if event == EventType.FATAL_SYSTEM_ERROR]

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.server.folder / "run.json").read_text())

    @property
    def problems(self) -> list[str]:
        return self.record["problems"]

    def models(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """Return the digest of every site's final model."""
        return {name: digest(self.sites[name].model()) for name in names or self.names}

    def tasks(self) -> list[str]:
        return [one.task for one in self.asked]


def travelled(message: Shareable) -> Shareable:
    """Return the message as the other end gets it."""
    return fobs.loads(fobs.dumps(message))


def make_kits(root: Path, names: Sequence[str]) -> Path:
    """Make the kits of one simulated project once: RSA keys are slow."""
    for name in names:
        simulated_kits.site_kit(root / "simulated_kits", name, root / name / "startup")
    return root
