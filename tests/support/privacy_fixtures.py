"""Hospitals and a server around the real protocol, without NVFlare: every message passes through the test's hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wardround.core.arrays import Layout
from wardround.messages.identity import Authority, Identity
from wardround.messages.statements import Moment, Signed
from wardround.secagg import encryption_key, simulated_kits
from wardround.secagg.client import SecAggClient
from wardround.secagg.fixed_point import fields_of
from wardround.secagg.incoming_hop import Incoming
from wardround.secagg.key_agreement import KeyAgreement
from wardround.secagg.roster import ring_order
from wardround.secagg.server import SecAggServer
from wardround.secagg.spec import SecAggSpec

RUN, JOB = "ab" * 16, "0b" * 32
MODES = {
    "fixed": {"masks": False, "encryption": False, "ring": False},
    "masked": {"masks": True, "encryption": False, "ring": False},
    "he": {"masks": False, "encryption": True, "ring": False},
    "he with masks": {"masks": True, "encryption": True, "ring": False},
    "ring": {"masks": True, "encryption": True, "ring": True},
}


def fields(promise: SecAggSpec) -> int:
    """Return how many integers an update of `initial` has."""
    layout = Layout(("model:conv", "model:bias"), ((40, 5, 5), (40,)))
    return fields_of(layout, promise.bits, weighted=promise.weighted)


def secagg(mode: str, **changed: Any) -> SecAggSpec:
    promise = {
        "sites": 8,
        "min_clients": 3,
        "bits": 8,
        "weights": "patients_in_sum",
        "reference_patients": 8,
        "threshold": 0,
    }
    return SecAggSpec(**promise | MODES[mode] | changed)


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kits(site) -> the startup folder of a site of one project"""
    root = tmp_path_factory.mktemp("kits")

    def kit(site: str) -> Path:
        simulated_kits.site_kit(root / "common", site, root / site)
        return root / site

    return cache(kit)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Files are written a thousand times here, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def identity(kits: Callable[[str], Path]) -> Callable[[str], Identity]:
    """identity(site) -> who it is in that project (loaded once: checking an RSA key takes a tenth of a second)"""
    return cache(lambda site: Identity.load(kits(site), site))


@pytest.fixture(scope="session")
def authority(kits: Callable[[str], Path]) -> Authority:
    """The root of that project."""
    return Authority.load(kits("s1"))


@pytest.fixture(scope="session")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Somebody who calls himself s2, with a certificate in that name from another project."""
    root = tmp_path_factory.mktemp("another")
    simulated_kits.site_kit(root / "common", "s2", root / "s2")
    return Identity.load(root / "s2", "s2")


@pytest.fixture(scope="session")
def promise() -> Callable[..., SecAggSpec]:
    """promise(mode, **changed) -> what a job promises"""
    return secagg


@pytest.fixture
def going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site takes no more in a job whose sum it refused; here it is handed many wrong sums, one after the other."""
    monkeypatch.setattr(KeyAgreement, "stop", lambda self: None)


@dataclass
class Hall:
    """One run: sites, server, and every message that was sent, in order (kind, site, statement, payload)."""

    promise: SecAggSpec
    sites: dict[str, SecAggClient]
    secagg_server: SecAggServer
    patients: dict[str, int]
    sent: list[tuple[str, str, Signed, bytes]] = field(default_factory=list)
    joins: list[Signed] = field(default_factory=list)
    prepares: list[Signed] = field(default_factory=list)

    def moment(self, round_: int = 0, attempt: int = 0) -> Moment:
        return Moment(RUN, round_, attempt)

    def join(self, names: list[str] | None = None) -> None:
        self.joins = [self.sites[name].agreement.join(RUN) for name in names or sorted(self.sites)]

    def prepare(self, moment: Moment, names: list[str] | None = None) -> None:
        who = names or sorted(self.sites)
        prepared = [self.sites[name].agreement.prepare(moment, self.joins) for name in who if self.promise.masks]
        self.prepares = prepared if self.promise.masks else list(self.joins)
        self.secagg_server.begin(moment, self.prepares)

    def hold(self, round_: int, updates: dict[str, Any], initial: Any) -> None:
        for name, update in updates.items():
            self.sites[name].hold(round_, update, self.patients[name], initial, {})

    def submit(self, moment: Moment, names: list[str]) -> None:
        for name in names:
            signed, payload = self.sites[name].submit(moment, self.prepares, "00")
            self.sent.append(("submit", name, signed, payload))
            self.secagg_server.submit(name, signed, payload)

    def around(self, moment: Moment, ready: list[str], silent: tuple[str, ...] = ()) -> None:
        """Pass the sum round the ring; the silent ones trained and then do not answer."""
        last, payload, done = None, b"", ()
        for name in ring_order(ready, self.prepares):
            if name in silent:
                continue
            incoming = Incoming(tuple(ready), done, last, payload)
            last, payload = self.sites[name].hop(moment, self.prepares, incoming)
            self.sent.append(("hop", name, last, payload))
            self.secagg_server.hop(name, last, payload)
            done = (*done, name)

    def unmask(self, moment: Moment, answering: list[str] | None = None) -> list[str]:
        if not self.promise.masks:
            return []
        inside = self.secagg_server.added
        answers = {
            name: self.sites[name].agreement.unmask(moment, self.joins, self.prepares, inside)
            for name in answering or inside
        }
        return self.secagg_server.unmask(answers)

    def whole(self, round_: int, updates: dict[str, Any], initial: Any, silent: tuple[str, ...] = ()) -> Any:
        """Run one round with everybody but the silent ones; return every site's mean (they must be equal)."""
        moment = self.moment(round_)
        self.prepare(moment)
        self.hold(round_, updates, initial)
        inside = [name for name in sorted(updates) if name not in silent]
        if self.promise.ring:
            self.around(moment, sorted(updates), silent)
        else:
            self.submit(moment, inside)
        self.unmask(moment)
        payload, added = self.secagg_server.payload(), list(self.secagg_server.added)
        means = [self.sites[name].reveal(moment, added, payload, 1.0)[0] for name in inside]
        for other in means[1:]:
            for block in means[0]:
                np.testing.assert_array_equal(means[0][block], other[block])
        return means[0]


@pytest.fixture
def hall(
    kits: Callable[[str], Path], identity: Callable[[str], Identity], authority: Authority, tmp_path: Path
) -> Callable[..., Hall]:
    """hall(mode, count=4, **changed promises) -> Hall with sites s1 .. sN that have 2, 4, 6, ... patients; joined"""
    made = []

    def make(mode: str, count: int = 4, **changed: Any) -> Hall:
        promise = secagg(mode, **changed)
        made.append(mode)
        sites = {}
        for number in range(1, count + 1):
            name = f"s{number}"
            kit, folder = kits(name), tmp_path / f"{len(made)}-{mode}" / name
            seed = encryption_key.read_site(kit) if promise.encryption else None
            key_id = encryption_key.key_id(seed) if seed else ""
            agreement = KeyAgreement(promise, identity(name), authority, key_id, folder, JOB)
            sites[name] = SecAggClient(promise, agreement, seed, folder, seed=0)
        secagg_server = SecAggServer(promise, authority, fields(promise))
        found = Hall(promise, sites, secagg_server, {f"s{n}": 2 * n for n in range(1, count + 1)})
        found.join()
        return found

    return make


@pytest.fixture
def initial() -> dict[str, Any]:
    """First weights: one large and one small block."""
    rng = np.random.default_rng(0)
    return {
        "model:conv": rng.normal(0, 0.05, (40, 5, 5)).astype(np.float32),
        "model:bias": np.zeros(40, np.float32),
    }


@pytest.fixture
def updates(initial: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """updates(count=4, seed=1) -> site -> update"""

    def make(count: int = 4, seed: int = 1) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        return {
            f"s{n}": {name: rng.normal(0, 0.01, b.shape).astype(np.float32) for name, b in initial.items()}
            for n in range(1, count + 1)
        }

    return make
