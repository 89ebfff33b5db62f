"""Every benchmark runs to its end with --quick and keeps what it measured; where real data is missing it says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STARTED = {path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
SCRIPTS = sorted(STARTED - {"render.py"})
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
def test_quick_measures_prints_tables_and_ends_with_its_json(script: str, tmp_path: Path) -> None:
    done = run(script, "--quick", "--json", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    *tables, last = done.stdout.splitlines()
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
def test_absent_real_data_is_refused_with_what_to_do(script: str, tmp_path: Path) -> None:
    done = run(script, *REAL[script], "--root", str(tmp_path), "--out", str(tmp_path / "parts"))
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    for word in ("found:", "expected:", "to do:", "docs/benchmark-data.md", "--root DIR"):
        assert word in done.stderr
