"""What a simulator's console shows: a process with NVFlare's own configuration of logs, and a component that starts a run."""

import subprocess
import sys

import pytest

CONSOLE = """
import logging, sys
from nvflare.fuel.utils.log_utils import apply_log_config, default_log_dict
from wardround.flare import quiet
import os
os.chdir(sys.argv[1])
apply_log_config(default_log_dict, sys.argv[1])
sys.argv = ["nvflare", "simulator", "job", *sys.argv[2:]]
quiet.console()
logging.getLogger("nvflare.fuel.f3").info("set transaction info")
logging.getLogger("nvflare.fuel.f3").warning("a connection is gone")
logging.getLogger("wardround.aggregation.plaintext_run").info("round 1/2 begins")
"""


@pytest.mark.parametrize(("options", "all_lines"), [([], False), (["-l", "full"], True), (["--log_config", "x"], True)])
def test_nvflares_internals_stay_in_the_log_files_and_warnings_everywhere(tmp_path, options, all_lines):
    words = [sys.executable, "-c", CONSOLE, str(tmp_path), *options]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert ("set transaction info" in shown) is all_lines
    assert "a connection is gone" in shown
    assert "round 1/2 begins" in shown
    assert "set transaction info" in (tmp_path / "log.txt").read_text()
