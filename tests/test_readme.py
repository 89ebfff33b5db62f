"""The README's code, followed line by line: its algorithm trains in process, and its row becomes a job."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from wardround.cli.main import main
from wardround.jobs import fragments, job_classes

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LONGEST = 135
SNIPPET_LINES = 25


@pytest.fixture(scope="module")
def blocks(repository: Path) -> dict[str, str]:
    """The fenced blocks of the README: language -> text; there is one of each."""
    page = (repository / "README.md").read_text(encoding="utf-8")
    found = BLOCK.findall(page)
    assert len({language for language, _ in found}) == len(found)
    return dict(found)


@pytest.fixture
def place(blocks: dict[str, str], tmp_path: Path) -> Path:
    """A folder that holds the README's module."""
    (tmp_path / "mine.py").write_text(blocks["python"], encoding="utf-8")
    return tmp_path


def test_it_stays_short(repository: Path, blocks: dict[str, str]) -> None:
    assert len((repository / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST
    code = [line for line in blocks["python"].splitlines()[1:] if line.strip()]
    assert len(code) <= SNIPPET_LINES


def test_its_algorithm_trains_on_four_synthetic_hospitals(place: Path) -> None:
    """The same file with less work: every hospital has a Dice for each of its three models."""
    text = (place / "mine.py").read_text(encoding="utf-8")
    (place / "mine.py").write_text(text.replace("num_rounds=3, work=20", "num_rounds=1, work=1"), encoding="utf-8")
    done = subprocess.run([sys.executable, "mine.py"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    assert [site for site, _, _ in lines] == ["site-1", "site-2", "site-3", "site-4"]
    for _, _, dice in lines:
        scores = json.loads(dice.replace("'", '"'))
        assert set(scores) == {"local", "federated", "tuned"}
        assert all(0 <= score <= 1 for score in scores.values())


def test_its_rows_become_a_job(
    place: Path, blocks: dict[str, str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = shutil.copytree(repository / "app_configs", place / "app_configs")
    page = yaml.safe_load((configs / "jobs.yaml").read_text(encoding="utf-8"))
    for group, rows in yaml.safe_load(blocks["yaml"]).items():
        page[group] |= rows
    (configs / "jobs.yaml").write_text(yaml.safe_dump(page), encoding="utf-8")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(fragments, "_root", lambda: configs)
    job_classes.shipped.cache_clear()
    try:
        assert main(["jobs", "write", "brats_half_way", "--out", "my_jobs"]) == 0
    finally:
        job_classes.shipped.cache_clear()
        sys.modules.pop("mine", None)
    folder = place / "my_jobs" / "brats_half_way"
    client: dict[str, Any] = json.loads((folder / "app/config/config_fed_client.json").read_text(encoding="utf-8"))
    executor = client["executors"][0]["executor"]["args"]
    assert executor["algorithm"] == {"path": "mine.HalfWay", "args": {"share": 0.5}}
    assert "**Half way**" in (folder / "CARD.md").read_text(encoding="utf-8")
