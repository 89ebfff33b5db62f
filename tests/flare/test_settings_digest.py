"""What kept state and reservations are bound to: the same in every process, for every printed job; another for every change."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DIGESTS = """
import importlib, json, sys
from pathlib import Path

def build(value):
    if not (isinstance(value, dict) and "path" in value):
        return value
    module, _, name = value["path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**{key: build(one) for key, one in value["args"].items()})

found = {}
for file in sorted(Path(sys.argv[1]).glob("*/app/config/config_fed_client.json")):
    for one in json.loads(file.read_text())["executors"]:
        if one["executor"]["path"].startswith("wardround."):
            parts = json.loads(file.read_text())["components"]
            promised = next(build(part) for part in parts if part["id"] == "outbound")
            found[file.parents[2].name] = build(one["executor"]).settings(promised)
print(json.dumps(found))
"""


def digests(jobs):
    words = [sys.executable, "-c", DIGESTS, str(jobs)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def test_a_digest_is_of_the_settings_and_of_nothing_else():
    """Two processes, so that no address in memory and no hash seed is in it; jobs that train otherwise have others."""
    one, other = digests(REPOSITORY / "jobs"), digests(REPOSITORY / "jobs")
    assert one == other
    assert len(one) > 15
    assert (
        len({one[name] for name in ("brats_fedavg", "brats_fedprox", "brats_fedavg_secagg", "brats_dp_patient")}) == 4
    )
