"""Every benchmark runs to its end with --quick, and says in the house's words what is missing where real data is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text())
REAL = {
    "segmentation.py": ["--data", "lgg"],
    "fixed_point_dice.py": ["--data", "lgg"],
    "tune.py": [],
    "tumour_types.py": [],
    "epsilon_dice.py": ["--level", "patient", "--data", "lgg"],
    "fusion.py": ["--data", "mhh"],
}


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *words]
    return subprocess.run(command, cwd=BENCHMARKS, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_quick_ends_with_its_json(script: str) -> None:
    done = run(script, "--quick", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1], parse_constant=pytest.fail)
    assert found, "the JSON line holds nothing"


def test_every_script_that_can_read_real_data_is_tried_without_it() -> None:
    readers = {name for name in SCRIPTS if "root_option(" in (BENCHMARKS / name).read_text()}
    assert readers == set(REAL)


@pytest.mark.parametrize("script", REAL)
def test_absent_real_data_is_refused_with_what_to_do(script: str, tmp_path: Path) -> None:
    done = run(script, *REAL[script], "--root", str(tmp_path))
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    for word in ("found:", "expected:", "to do:", "docs/benchmark-data.md", "--root DIR"):
        assert word in done.stderr
