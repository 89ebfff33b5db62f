"""Real NVFlare objects around a fake engine: contexts with a workspace, and messages as a site would send them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.workspace import Workspace
from nvflare_federation import SITES, Federation, make_kits

from wardround import __version__
from wardround.flare import few_patients, made_with, plaintext_messages, workspaces
from wardround.flare.workspaces import SIMULATOR_JOB
from wardround.messages import identity
from wardround.secagg import simulated_kits

DICE = {"value": 0.7, "low": 0.6, "high": 0.8, "cases": 12}
MANY = few_patients.Patients(train=30, val=12, test=12)


class Engine:
    """As much of NVFlare's engine as our components ask for; events are kept to be looked at."""

    def __init__(self, workspace: Workspace, **components: Any) -> None:
        self.workspace, self.events = workspace, []
        self.components = {made_with.ID: made_with.MadeWith(__version__, made_with.INSTALLED), **components}
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


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARDROUND_STATE", "WARDROUND_SITES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for folder in ("startup", "local"):
        (tmp_path / "party" / folder).mkdir(parents=True)
    return Workspace(str(tmp_path / "party"), "site-1")


@pytest.fixture
def context(workspace: Workspace) -> Callable[..., FLContext]:
    """context(task=None, job="simulate_job", party="site-1", **components) -> FLContext

    The site has MANY patients, unless it has said so already; few: nobody has counted them.
    """

    def make(
        task: str | None = None, job: str = SIMULATOR_JOB, party: str = "site-1", few=False, **components: Any
    ) -> FLContext:
        fl_ctx = FLContext()
        fl_ctx.set_prop(ReservedKey.ENGINE, Engine(workspace, **components), private=True, sticky=False)
        fl_ctx.set_prop(ReservedKey.RUN_NUM, job, private=False, sticky=False)
        fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, party, private=False, sticky=False)
        fl_ctx.set_prop(FLContextKey.TASK_NAME, task, private=True, sticky=False)
        if not few and not (workspaces.state_folder(fl_ctx) / few_patients.FILE).is_file():
            few_patients.keep(fl_ctx, MANY)
        return fl_ctx

    return make


@pytest.fixture
def facts() -> dict[str, Any]:
    """What a site says about itself, complete."""
    return {
        "label": "north",
        "cases": {"train": 30, "val": 12, "test": 12},
        "modalities": {"t1": 6, "t1ce": 6, "t2": 0, "flair": 6},
        "label_kind": "brats",
        "device": "cpu",
        "phantoms": True,
        "version": "0.1.0",
        "fingerprint": "5acd15f8a253db65",
    }


@pytest.fixture
def update(facts: dict[str, Any]) -> Callable[..., plaintext_messages.Update]:
    """update(blocks=None, weight=3.0, **changed facts) -> Update"""

    def make(blocks: dict[str, Any] | None = None, weight: float = 3.0, **changed: Any) -> plaintext_messages.Update:
        delta = {"model:w": np.ones((2, 3), np.float32)} if blocks is None else blocks
        numbers = {"loss": 1.5, "val_score": 0.25, "seconds": 2.0}
        return plaintext_messages.Update(delta, weight, numbers, facts | changed)

    return make


@pytest.fixture
def scores() -> dict[str, Any]:
    """One site's judgement: a local model and FedAvg, FedAvg better."""
    local = {"k": 0, "val": 0.5, "test": {"dice_mean": dict(DICE)}, "gain": None}
    fedavg = {"k": 0, "val": 0.7, "test": {"dice_mean": dict(DICE)}, "gain": {"value": 0.1, "low": None, "high": None}}
    return {"candidates": {"local": local, "fedavg": fedavg}, "deploy": "fedavg", "val_score": 0.7, "seconds": 1.0}


@pytest.fixture
def sent() -> Callable[[Shareable, str], Shareable]:
    """sent(message, site) -> the message as the server gets it from that site"""

    def send(message: Shareable, site: str) -> Shareable:
        message.set_peer_props({ReservedKey.IDENTITY_NAME: site})
        return message

    return send


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The startup kits of one project in a simulator: five sites, their root, their sum key."""
    return make_kits(tmp_path_factory.mktemp("project"), (*SITES, "site-5"))


@pytest.fixture
def federation(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Federation]:
    """federation(mode, names=four sites, job="simulate_job", played=True, **promises) -> Federation in a folder of its own

    To be quick, RSA keys are parsed once and nothing waits for the disk.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for module in (identity, simulated_kits):
        monkeypatch.setattr(module, "load_pem_private_key", parsed)

    def make(mode: str, **changed: Any) -> Federation:
        number = len(list(tmp_path.glob("ws*")))
        return Federation(tmp_path / f"ws{number}", project, mode, **changed)

    return make


@cache
def parsed(pem: bytes, password: bytes | None) -> Any:
    return load_pem_private_key(pem, password)
