"""Lint and types of the whole checkout, with the settings of pyproject.toml."""

import importlib.util
import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy"])
def test_clean(command, repository):
    tool, *arguments = command.split()
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed: pip install '.[test]'")
    done = subprocess.run([sys.executable, "-m", tool, *arguments], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
