"""One thread per test process (set before anybody imports torch), and the job folders as data."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parents[1]
# Support code of the tests is imported by its name alone.
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))


@dataclass(frozen=True)
class Named:
    """A class that a job's configuration names, with its arguments as they stand in the JSON."""

    job: str
    path: str
    args: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.job}: {self.path}"

    @property
    def cls(self) -> type:
        module, _, name = self.path.rpartition(".")
        found: type = getattr(importlib.import_module(module), name)
        return found

    def build(self) -> Any:
        """Build it as NVFlare does: nested {"path", "args"} become objects, unless "config_type" says dict."""
        return self.cls(**{key: _built(self.job, value) for key, value in self.args.items()})


def _built(job: str, value: Any) -> Any:
    if isinstance(value, dict) and "path" in value:
        return Named(job, value["path"], value.get("args", {})).build()
    return [_built(job, part) for part in value] if isinstance(value, list) else value


def _named(job: str, value: Any) -> Iterator[Named]:
    if isinstance(value, list):
        for part in value:
            yield from _named(job, part)
    elif isinstance(value, dict) and value.get("config_type") != "dict":
        if "path" in value:
            yield Named(job, value["path"], value.get("args", {}))
        for part in value.values():
            yield from _named(job, part)


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """A run makes its process write for its owner only; the next test begins as a login shell does."""
    os.umask(0o022)
    yield
    os.umask(0o022)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The startup kits of poc_workspace/project.yml, as `nvflare provision` makes them; copy one before you change it."""
    root = tmp_path_factory.mktemp("provisioned")
    words = [sys.executable, "-m", "nvflare.cli", "provision", "-p", str(REPOSITORY / "poc_workspace" / "project.yml")]
    subprocess.run([*words, "-w", str(root)], stdin=subprocess.DEVNULL, capture_output=True, check=True, cwd=root)
    return root / "wardround" / "prod_00"


@pytest.fixture(scope="session")
def named() -> list[Named]:
    """Every class that some job names, as often as it is named."""
    configs = sorted((REPOSITORY / "jobs").glob("*/app/config/*.json"))
    return [one for path in configs for one in _named(path.parents[2].name, json.loads(path.read_text()))]
