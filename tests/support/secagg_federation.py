"""A whole run of a secure sum in one process and without NVFlare: the server's generator, and real sites.

Masks, encryption, signatures and sums are real. Played are the network (every answer comes at once,
and passes through the test's hands), and the training behind each site: its update depends on the
site, the round and every weight that it was handed, so that sites with different models are found out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from server_play import Refuses, play

from wardround import __version__
from wardround.aggregation.secagg_run import SecAggRun
from wardround.aggregation.secagg_state import SecAggState
from wardround.compression import linear
from wardround.compression.chosen import Compression
from wardround.compression.linear import cycle_of
from wardround.core.arrays import Layout, digest
from wardround.core.attendance import Attendance
from wardround.core.errors import Refusal, RoundRefused
from wardround.core.rng import stream
from wardround.core.run_log import RunLog, remarks
from wardround.core.stages import Ask, Update
from wardround.messages import statements
from wardround.messages.identity import Authority, Identity
from wardround.messages.secagg import FINISH, HOP, JOIN, PREPARE, TRAIN, UNMASK, Call, Reply
from wardround.secagg.client import SecAggClient
from wardround.secagg.fixed_point import fields_of
from wardround.secagg.incoming_hop import Incoming
from wardround.secagg.key_agreement import KeyAgreement
from wardround.secagg.server import SecAggServer
from wardround.secagg.spec import SecAggSpec

SITES = ("site-1", "site-2", "site-3", "site-4")
FIVE = (*SITES, "site-5")
JOB = "0b" * 32
FINGERPRINT = "5acd15f8a253db65"
ABOUT = {"job": "brats_fedavg_secagg", "algorithm": "FedAvg", "num_rounds": 2}
MODES = {
    "fixed": {"masks": False, "encryption": False, "ring": False},
    "masked": {"masks": True, "encryption": False, "ring": False},
    "he": {"masks": False, "encryption": True, "ring": False},
    "he with masks": {"masks": True, "encryption": True, "ring": False},
    "ring": {"masks": True, "encryption": True, "ring": True},
}
SECAGG = tuple(mode for mode in MODES if mode != "fixed")
MASKED = ("masked", "he with masks", "ring")


def secagg(mode: str, **changed: Any) -> SecAggSpec:
    promise = {"sites": 16, "min_clients": 3, "bits": 8, "weights": "patients_in_sum", "reference_patients": 32}
    return SecAggSpec(**promise | {"threshold": 0} | MODES[mode] | changed)


def patients(site: str) -> int:
    """Return how many training patients a hospital has: site-1 has 3, site-2 has 4, and so on."""
    return 2 + int(site[-1])


def first_model() -> dict[str, Any]:
    """Return the job's first weights: one large and one small block."""
    rng = np.random.default_rng(0)
    conv = rng.normal(0, 0.05, (20, 5, 5)).astype(np.float32)
    return {"model:conv": conv, "model:bias": np.zeros(20, np.float32)}


def facts_of(site: str) -> dict[str, Any]:
    return {
        "label": f"hospital of {site}",
        "cases": {"train": patients(site), "val": 1, "test": 2},
        "modalities": {"t1": 9},
        "label_kind": "brats",
        "device": "cpu",
        "phantoms": True,
        "version": __version__,
        "fingerprint": FINGERPRINT,
    }


@dataclass
class Hospital:
    """Trains at once. trained: the rounds in which it did; spoil: turns an update into another one."""

    name: str
    trained: list[int] = field(default_factory=list)
    spoil: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def update(self, weights: Mapping[str, Any], round_: int) -> dict[str, Any]:
        rng = stream(int(digest(weights)[:12], 16), self.name, round_)
        return {name: rng.normal(0, 0.01, block.shape).astype(np.float32) for name, block in weights.items()}

    def train(self, weights: Mapping[str, Any], round_: int) -> dict[str, Any]:
        self.trained.append(round_)
        delta = self.update(weights, round_)
        return self.spoil(delta) if self.spoil else delta


class Site:
    """One site: everything that it knows beside its kit lies in its folder.

    key: the seed of the sum key, None without encryption; key_id: what it says of it
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        promise: SecAggSpec,
        identity: Identity,
        authority: Authority,
        key: bytes | None,
        compression: Compression | None = None,
    ) -> None:
        self.promise, self.name, self.folder, self.key = promise, name, folder, key
        self.compression = compression
        # What it owes, and what is public: a compressed run is not restarted here.
        self.owed, self.public = dict[str, Any](), dict[str, Any]()
        self.identity, self.authority = identity, authority
        self.key_id = "ab" * 16 if key else ""
        self.hospital = Hospital(name)
        self.facts = facts_of(name)
        self.job = JOB
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not on disk, as a new process does."""
        args = (self.promise, self.identity, self.authority, self.key_id, self.folder, self.job)
        coding = {} if self.compression is None else {"cycle": cycle_of(self.compression), "carries": False}
        self.secure = SecAggClient(self.promise, KeyAgreement(*args), self.key, self.folder, seed=0, **coding)
        self.round, self.weights = 0, first_model()
        if (path := self.folder / "model.npz").is_file():
            with np.load(path) as file:
                self.round = int(file["round"])
                self.weights = {name: file[name] for name in self.weights}

    def keep(self) -> None:
        """Write the global model down."""
        np.savez(self.folder / "model.npz", round=self.round, **self.weights)

    def answer(self, task: str, call: Call) -> Reply:
        """Do one task; what this site refuses: a Refusal."""
        agreement, moment = self.secure.agreement, call.moment
        if task == JOIN:
            return Reply(agreement.join(moment.run), b"", {})
        if task == PREPARE:
            return Reply(agreement.prepare(moment, call.joins), b"", {})
        if task == TRAIN:
            return self._train(call)
        if task == HOP:
            incoming = Incoming(call.ready, call.done, call.hop, call.payload)
            return Reply(*self.secure.hop(moment, call.prepares, incoming), {})
        if task == UNMASK and call.complaints:
            return Reply(agreement.justify(moment, call.prepares, call.complaints), b"", {})
        if task == UNMASK:
            return Reply(agreement.unmask(moment, call.joins, call.prepares, call.survivors), b"", {})
        assert task == FINISH
        self._apply(call)
        said = {"model": digest(self.weights), "job": agreement.job}
        scores = {"candidates": {}, "deploy": "fedavg", "val_score": self._score(moment.round)}
        return Reply(statements.sign(agreement.identity, "judged", moment, **said), b"", {"scores": scores})

    def _train(self, call: Call) -> Reply:
        self._apply(call)
        round_ = call.moment.round
        if not self.secure.holds(round_):
            delta = self.hospital.train(self.weights, round_)
            said = {"numbers": {"loss": 1.5, "val_score": self._score(round_), "seconds": 1.0}, "facts": self.facts}
            self._hold(round_, delta, said | {"model": digest(self.weights)})
        said = self.secure.said(round_)
        meta = {"numbers": said["numbers"], "facts": said["facts"]}
        # What the integers were made from; a site that lies about its model lies here too.
        if self.promise.ring:
            return Reply(self.secure.ready(call.moment, call.prepares, said["model"]), b"", meta)
        return Reply(*self.secure.submit(call.moment, call.prepares, said["model"]), meta)

    def _hold(self, round_: int, delta: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        count = patients(self.name)
        if self.compression is None:
            self.secure.hold(round_, delta, count, first_model(), said)
            return
        stage = linear.stage_of(self.compression, Layout.of(delta))
        sent, _ = stage.outbound(Update(delta, 1.0), round_, self.owed)
        self.secure.hold(round_, sent.params, count, linear.first(self.compression, first_model(), 0, {}), said)
        stage.put_back(self.secure.left(round_, count), round_, self.owed)

    def _opened(self, mean: Mapping[str, Any], round_: int) -> Mapping[str, Any]:
        if self.compression is None:
            return mean
        found = linear.opened(self.compression, Layout.of(first_model()), mean, round_, self.public)
        for later in range(1, self.secure.cycle if round_ == 0 else 0):
            self.secure.begin(linear.first(self.compression, first_model(), later, self.public), later)
        self.owed |= self.public
        return found

    def _apply(self, call: Call) -> None:
        for one in call.revealed:
            if one.moment.round != self.round:
                continue
            if self.round == 0:
                first = self.weights
                self.secure.begin(first if self.compression is None else linear.first(self.compression, first, 0, {}))
            mean, _ = self.secure.reveal(one.moment, one.sites, one.payload, 1.0, one.roster)
            mean = self._opened(mean, self.round)
            self.weights = {name: block + mean[name] for name, block in self.weights.items()}
            self.round += 1
            self.keep()
        if self.round != call.moment.round:
            found, expected = f"a model after {self.round} rounds", f"one after {call.moment.round}"
            raise RoundRefused("the global model", found=found, expected=expected, fix="look at the server")

    @staticmethod
    def _score(round_: int) -> float:
        return 0.1 + 0.1 * round_


@dataclass
class Asked:
    """One Ask of the server, and the sites that it went to, in order."""

    ask: Ask
    targets: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        return self.ask.task

    @property
    def call(self) -> Call:
        assert isinstance(self.ask.message, Call)
        return self.ask.message

    @property
    def round(self) -> int:
        return self.call.moment.round


Before = Callable[[str, str, Call], None]
Meddle = Callable[[str, str, Call, Reply], "Reply | list[Reply] | None"]
Kits = Callable[[str], tuple[Identity, Authority, bytes]]


class Federation:
    """Sites in folders of their own, and a server that can be started again and again.

    kits: by site, who it is, the root of its project, and the seed of the project's sum key
    """

    def __init__(
        self,
        root: Path,
        kits: Kits,
        mode: str,
        names: Sequence[str] = SITES,
        compression: Compression | None = None,
        **promised: Any,
    ) -> None:
        self.root, self.names, self.promise = root, tuple(names), secagg(mode, **promised)
        self.compression = compression
        self.sites: dict[str, Site] = {}
        for name in names:
            identity, self.authority, seed = kits(name)
            key = seed if self.promise.encryption else None
            self.sites[name] = Site(name, root / name, self.promise, identity, self.authority, key, compression)
        self.asked: list[Asked] = []
        self.messages: list[tuple[str, str, Reply]] = []
        self.restarting = False
        self.away: Callable[[str, Call], bool] = lambda site, call: False
        self.begin()

    def begin(self, num_rounds: int = 2, **about: Any) -> None:
        """Start the server's process: what it knows is what its folder holds."""
        whole = Layout.of(first_model())
        found = [whole] if self.compression is None else linear.layouts(self.compression, whole)
        fields = [fields_of(one, self.promise.bits, weighted=self.promise.weighted) for one in found]
        secagg_server = SecAggServer(self.promise, self.authority, *fields)
        folder = self.root / "server"
        folder.mkdir(parents=True, exist_ok=True)
        state = SecAggState.open(folder, ABOUT | about)
        log = RunLog.begin(ABOUT | about, {"fingerprint": FINGERPRINT}, True, state.history, clock=lambda: 7.0)
        key_id = "ab" * 16 if self.promise.encryption else ""
        self.server = SecAggRun(self.promise, secagg_server, key_id, state, log, num_rounds, FINGERPRINT)
        self.attendance = Attendance(self.names, num_rounds, log)
        self.rejected: list[str] = []
        self.stopping = False
        self.finished = False

    def run(self, before: Before | None = None, meddle: Meddle | None = None) -> Federation:
        """Play the whole run.

        before: sees every call at its site
        meddle: has every answer in its hands; None: the server hears nothing
        """
        self._before, self._meddle = before, meddle
        answers = {site: partial(self._answer, site) for site in self.names}
        played = play(
            self.server, answers, self.server.num_rounds, abort=lambda ask: self.stopping, there=self.attendance
        )
        self.finished = bool(played.whole)
        self.rejected += played.rejected
        if played.stopped is not None:
            self.server.record.problem(f"{played.stopped.what} ({played.stopped.found})")
        return self

    def _answer(self, site: str, ask: Ask) -> Any:
        """Ask one site; return what the server hears of it."""
        if not (self.asked and self.asked[-1].ask is ask):
            self.asked.append(Asked(ask))
        self.asked[-1].targets += (site,)
        if self.stopping or self.away(site, ask.message):
            return None
        if self.restarting:
            self.sites[site].restart()
        if self._before is not None:
            self._before(ask.task, site, ask.message)
        try:
            reply = self.sites[site].answer(ask.task, ask.message)
        except Refusal as refusal:
            self.rejected.append(str(refusal))
            return Refuses(refusal.code)
        self.messages.append((ask.task, site, reply))
        return reply if self._meddle is None else self._meddle(ask.task, site, ask.message, reply)

    @property
    def record(self) -> dict[str, Any]:
        """Return the run's log as it would be written down."""
        return json.loads(json.dumps(self.server.record.run))

    @property
    def num_rounds(self) -> list[dict[str, Any]]:
        return self.record["rounds"]

    @property
    def problems(self) -> list[str]:
        """Return why the run is incomplete."""
        return [*self.record["problems"], *(f"{site} is in no round" for site in self.server.record.never())]

    @property
    def remarks(self) -> list[str]:
        return remarks(self.num_rounds, self.record["lost"])

    def models(self, names: Sequence[str] | None = None) -> dict[str, str]:
        """Return the digest of every site's final model."""
        return {name: digest(self.sites[name].weights) for name in names or self.names}

    def tasks(self) -> list[str]:
        return [one.task for one in self.asked]


def silent(*names: str, task: str, round_: int = 0, attempt: int = 0) -> Meddle:
    """Let these sites not answer one task."""

    def meddle(asked: str, site: str, call: Call, reply: Reply) -> Reply | None:
        at = (asked, max(0, call.moment.round), call.moment.attempt) == (task, round_, attempt)
        return None if site in names and at else reply

    return meddle


def flipped(data: bytes, bit: int = 7777) -> bytes:
    """Return the data with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


def altered(reply: Reply, **statement: Any) -> Reply:
    """Return a reply whose statement was changed on its way."""
    return replace(reply, statement=replace(reply.statement, **statement))
