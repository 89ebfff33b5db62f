"""A disk without a byte left, for real: a small file system in a name space of its own, and what users and sites then read."""

import shutil
import subprocess
import sys

import pytest

MOUNT = 'mount -t tmpfs -o size={size} tmpfs "$1" && cd "$1" && shift && exec "$@"'
CASES = """
import json, sys
from pathlib import Path
from wardround.data.cache import open_cohort
from wardround.data.site_config import SiteConfig
open_cohort(SiteConfig(data=Path(sys.argv[1])), Path("cache"))
"""
IMAGES = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from wardround.data.pack import Pictures, open_pack
from wardround.data.pictures import Grid
data = Path(sys.argv[1]) / "pictures"
data.mkdir(exist_ok=True)
Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(data / "a.png")
wanted = [Pictures(f"p{n}", (data / "a.png",)) for n in range(200)]
open_pack(wanted, GRID, Path("cache"), "x")
"""
WEIGHTS = """
import numpy as np
from pathlib import Path
from wardround.models import checkpoint
checkpoint.save(Path("model.npz"), {"a": np.zeros(100_000, np.float32)}, "f", {})
"""
STATE = """
from pathlib import Path
from wardround.core import files
files.write(Path("state.json"), bytes(1_000_000), private=True, durable=True)
"""
SHOW = """
from wardround.core.errors import Refusal
try:
    exec(compile(CODE, "code", "exec"))
except Refusal as refusal:
    print(refusal.code, refusal)
"""


def on_a_full_disk(tmp_path, *command, size="256k"):
    place = tmp_path / "disk"
    place.mkdir(exist_ok=True)
    words = ["unshare", "-rm", "bash", "-c", MOUNT.format(size=size), "-", str(place), *command]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def _name_spaces(tmp_path_factory):
    if shutil.which("unshare") is None or on_a_full_disk(tmp_path_factory.mktemp("try"), "true").returncode:
        pytest.skip("user name spaces with a mount of one's own (unshare -rm) are not to be had here")


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    root = tmp_path_factory.mktemp("patients")
    write_cohort(root, hospital(0), 0, (24, 24, 24), 4)
    return root


@pytest.mark.parametrize("code", [CASES, IMAGES, WEIGHTS, STATE], ids=["cases", "images", "weights", "state"])
def test_whatever_is_written_says_what_may_be_deleted_and_leaves_nothing_half_written(code, patients, tmp_path):
    """Not a traceback, and not the signal that a memory map of a file with holes ends in."""
    code = code.replace("GRID", "Grid(64)")
    listed = "from pathlib import Path; print('left', *Path().rglob('*new*'))"
    done = on_a_full_disk(tmp_path, sys.executable, "-c", f"CODE = {code!r}\n{SHOW}\n{listed}", str(patients))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("failure ")
    assert "No space left on device" in done.stdout
    assert "the ledger and kept state may not" in done.stdout
    assert "left\n" in done.stdout


def test_a_command_says_it_and_ends_with_code_2(tmp_path):
    words = ["phantoms", "out", "--sites", "1", "--patients", "4", "--shape", "40", "40", "40"]
    done = on_a_full_disk(tmp_path, sys.executable, "-m", "wardround", *words)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "No space left on device" in done.stderr
    assert "to do:    free space" in done.stderr
    assert "Traceback" not in done.stderr
