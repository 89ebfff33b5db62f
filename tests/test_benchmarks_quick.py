"""Every benchmark runs to its end with --quick and keeps what it measured; where real data is missing it says what to do."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402

STARTED = {path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
SCRIPTS = sorted(STARTED - {"render.py"})
REAL = {
    "joining.py": [],
    "joint_privacy.py": [],
    "phantom_spread.py": [],
    "value_of_joining.py": [],
    "segmentation.py": ["--data", "lgg"],
    "fixed_point_dice.py": ["--data", "lgg"],
    "tune.py": [],
    "tumour_types.py": [],
    "tune_types.py": [],
    "epsilon_dice.py": ["--level", "patient", "--data", "lgg"],
    "fusion.py": ["--data", "mhh"],
}
# Twenty seconds or more each: their --quick runs in a night, and every day they are imported and started.
LONG = (
    "overhead.py",
    "secure_sum.py",
    "fusion.py",
    "tumour_types.py",
    "dp_step.py",
    "joint_privacy.py",
    "adaptive_noise_dice.py",
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """run("x.py", "--quick") -> exit code, stdout, stderr.

    The scripts run in this process: eighteen processes that import torch and NVFlare would take
    longer than what they then measure. Each sets the number of threads, which is put back.
    """
    threads = torch.get_num_threads()
    monkeypatch.chdir(BENCHMARKS)

    def started(script: str, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [script, *words])
        code: Any = 0
        try:
            common.command(importlib.import_module(script.removesuffix(".py")).main)
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return 0 if code is None else code, said.out, said.err

    yield started
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "script", [pytest.param(one, marks=pytest.mark.nightly) if one in LONG else one for one in SCRIPTS]
)
def test_quick_measures_prints_tables_and_ends_with_its_json(script: str, run: Run, tmp_path: Path) -> None:
    code, out, err = run(script, "--quick", "--json", "--out", str(tmp_path))
    assert code == 0, err[-3000:]
    *tables, last = out.splitlines()
    assert json.loads(last, parse_constant=pytest.fail), "the JSON line holds nothing"
    assert any(line.startswith("|---|") for line in tables)
    parts = [json.loads(file.read_text()) for file in tmp_path.iterdir()]
    assert parts, "no part was kept"
    for part in parts:
        assert part.keys() == {"key", "commit", "settings", "seconds", "numbers"}
        assert part["numbers"], part["key"]


def test_every_script_that_can_read_real_data_is_tried_without_it() -> None:
    readers = {name for name in SCRIPTS if "root_option(" in (BENCHMARKS / name).read_text()}
    assert readers == set(REAL)


@pytest.mark.parametrize("script", REAL)
def test_absent_real_data_is_refused_with_what_to_do(script: str, run: Run, tmp_path: Path) -> None:
    code, _, err = run(script, *REAL[script], "--root", str(tmp_path), "--out", str(tmp_path / "parts"))
    assert code == 2, err[-3000:]
    for word in ("found:", "expected:", "to do:", "docs/benchmark-data.md", "--root DIR"):
        assert word in err


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_flags_that_every_benchmark_has(script: str, run: Run) -> None:
    code, out, _ = run(script, "--help")
    assert code == 0
    for flag in ("--quick", "--json", "--out", "--show"):
        assert flag in out


def test_there_are_scripts() -> None:
    assert {"fixed_point_dice.py", "overhead.py", "segmentation.py"} <= set(SCRIPTS)


def test_a_script_runs_as_a_command() -> None:
    """What the others do in this process, once as a user does it."""
    done = subprocess.run(
        [sys.executable, "canary.py", "--quick", "--json"], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["mu_claimed"] == 2.0
