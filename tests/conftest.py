"""One thread per test process (set before anybody imports torch), and the job folders as data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parents[1]
# Support code of the tests is imported by its name alone.
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))

from named_parts import Named, named_in  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the long tests too, which repeat with other processes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests of what a shorter one covers to a night; a test that is named on the command line runs."""
    if config.getoption("--nightly") or any("::" in word for word in config.args):
        return
    skipped = pytest.mark.skip(reason="takes long, and a shorter test covers its rule: pytest --nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skipped)


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
    return [one for path in configs for one in named_in(path.parents[2].name, json.loads(path.read_text()))]
