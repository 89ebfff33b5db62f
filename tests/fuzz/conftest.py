"""The kits of one project, and a site's context, for the doors that need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvflare_federation import SITES, Federation, Party, make_kits


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The startup kits of four sites in a simulator."""
    return make_kits(tmp_path_factory.mktemp("project"), SITES)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    for name in ("WARDROUND_STATE", "WARDROUND_SITES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def federation(project: Path, tmp_path: Path) -> Callable[..., Federation]:
    return lambda mode, **changed: Federation(tmp_path / "ws", project, mode, **changed)


@pytest.fixture
def party(tmp_path: Path) -> Callable[..., Any]:
    """party(**components) -> a site outside the simulator"""
    return lambda **components: Party(tmp_path / "party", "site-1", "a-job", **components)
