"""Whole simulator processes: our FedAvg job against NVFlare's stock FedAvg recipe, same network, two sites, two threads.

    stock   FedAvgRecipe (FedAvg controller, PTFileModelPersistor, in-process client API), exported; every round its script
            loads the weights, takes one SGD step (one thread) on a fixed random batch, returns the weights. No data to open
    ours    the job that the recipe prints, work = 1: every round a site scores the incoming model on its validation
            patients, takes one step, writes its state. Phantoms of 32^3 voxels, written and decoded before the clock starts

Both as `python -m nvflare.private.fed.app.simulator.simulator` (what SimEnv starts) with the settings they come with: stock
asks for tasks every 2 s, ours every 0.1 s. After its last round ours also evaluates the models (local baseline, fine-tuning of
0 and 1 steps, test patients) and writes the reports; nothing is subtracted for that, it counts as start.

    per round = (seconds of R rounds - seconds of 1 round) / (R - 1)      start = seconds of 1 round - per round

Rounds are also read off the log: from the line that begins a round to the line that begins the next.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from overhead_data import median, phantom_folder

SITES = ("site-1", "site-2")
CLIENT = '''"""One step a round, as in NVFlare's PyTorch examples."""
import nvflare.client as flare
import torch
from monai.networks.nets import UNet

torch.set_num_threads(1)  # two clients share the machine; more threads would only slow them down
net = UNet(**{network})
optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
images, targets = torch.rand(2, 8, 32, 32, 32), torch.zeros(2, 3, 32, 32, 32)
flare.init()
while flare.is_running():
    received = flare.receive()
    net.load_state_dict(received.params)
    optimiser.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(net(images), targets)
    loss.backward()
    optimiser.step()
    flare.send(flare.FLModel(params=net.state_dict(), metrics={{"accuracy": 0.0}}, meta={{"NUM_STEPS_CURRENT_ROUND": 1}}))
'''
BEGINS = {"ours": re.compile(r"round \d+/\d+ begins"), "stock": re.compile(r"Round \d+ started")}
ENDS = {"ours": re.compile(r"every site now evaluates"), "stock": re.compile(r"Finished FedAvg")}
LAST = {"ours": re.compile(r"INFO - open this: "), "stock": re.compile(r"Finished FedAvg")}
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")


def measure(folder: Path, *, num_rounds: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return the medians of both, and their ratios; rounds == 2: one run each, both at the same time, rounds read off the log.

    ours, stock: total_s of the run with `rounds` rounds, start_s, round_s, log_round_s (rounds after the first), finish_s
    """
    lengths = (num_rounds,) if num_rounds == 2 else (1, num_rounds)
    jobs = {(name, r): write_job(name, folder / f"{name}_{r}", r) for name in ("ours", "stock") for r in lengths}
    variables = os.environ | {"WARDROUND_SITES": str(prepare_sites(folder / "data"))}
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
    for repeat in range(repeats):
        order = ("ours", "stock") if repeat % 2 == 0 else ("stock", "ours")

        def both(name: str) -> dict[int, dict[str, float]]:
            return {r: run(name, jobs[name, r], r, variables) for r in lengths}

        with ThreadPoolExecutor(2 if num_rounds == 2 else 1) as workers:
            done = dict(zip(order, workers.map(both, order), strict=True))
        for name, runs in done.items():
            whole = runs[num_rounds]
            per_round = (whole["wall_s"] - runs[1]["wall_s"]) / (num_rounds - 1) if 1 in runs else whole["log_round_s"]
            start = runs[1]["wall_s"] - per_round if 1 in runs else whole["wall_s"] - num_rounds * per_round
            rows[name].append(
                {"total_s": whole["wall_s"], "start_s": start, "round_s": per_round}
                | {key: whole[key] for key in ("log_round_s", "finish_s")}
            )
    result = {name: {key: median([row[key] for row in found]) for key in found[0]} for name, found in rows.items()}
    pairs = list(zip(rows["ours"], rows["stock"], strict=True))
    ratios = {key: median([ours[key] / stock[key] for ours, stock in pairs]) for key in ("start_s", "round_s")}
    return result | {"ratio": ratios | {"log_round_s": median([a["log_round_s"] / b["log_round_s"] for a, b in pairs])}}


def write_job(name: str, folder: Path, num_rounds: int) -> Path:
    """Write the job folder of one side and return it."""
    return write_ours(folder, num_rounds) if name == "ours" else write_stock(folder, num_rounds)


def write_ours(folder: Path, num_rounds: int) -> Path:
    """Print our FedAvg job with next to no work: one step a round, fine-tuning of 0 and 1 steps."""
    from wardround.jobs.folder import write
    from wardround.jobs.recipes import job

    settings = [f"num_rounds={num_rounds}", "work=1", "model_selection.steps=[0, 1]"]
    return write(job("brats_fedavg", settings, SITES), folder)


def write_stock(folder: Path, num_rounds: int) -> Path:
    """Export NVFlare's FedAvg recipe with our default network."""
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe

    folder.mkdir(parents=True)
    script = folder / "client.py"
    script.write_text(CLIENT.format(network=network()), encoding="utf-8")
    model = {"class_path": "monai.networks.nets.UNet", "args": network()}
    recipe = FedAvgRecipe(
        name="stock", model=model, min_clients=len(SITES), num_rounds=num_rounds, train_script=str(script)
    )
    recipe.export(str(folder / "job"))
    return folder / "job" / "stock"


def network() -> dict[str, object]:
    """Return the arguments of MONAI's U-Net that our default network has."""
    from wardround.models.nets import AFFINE_INSTANCE, UNet3d

    ours = UNet3d()
    return {
        "spatial_dims": 3,
        "in_channels": ours.in_channels,
        "out_channels": ours.out_channels,
        "channels": list(ours.channels),
        "strides": [2] * (len(ours.channels) - 1),
        "num_res_units": ours.residual_units,
        "norm": list(AFFINE_INSTANCE),
    }


def prepare_sites(folder: Path) -> Path:
    """Write and decode five phantom patients per site; return the file for WARDROUND_SITES."""
    from wardround.data.cache import open_cohort
    from wardround.data.site_config import SiteConfig

    entries = {}
    for index, site in enumerate(SITES):
        data = phantom_folder(folder, 5, index, (32, 32, 32))
        entries[site] = {"data": str(data), "cache": str(folder / f"cache_{site}")}
        open_cohort(SiteConfig(data=data), folder / f"cache_{site}")
    path = folder / "sites.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def run(name: str, job: Path, num_rounds: int, variables: dict[str, str]) -> dict[str, float]:
    """Run one job in the simulator; return wall_s, log_round_s (0 with one round) and finish_s.

    The exit status of the simulator says little: a run whose log does not show every round and its end is an error.
    """
    with tempfile.TemporaryDirectory(prefix="overhead-") as workspace:
        module = "nvflare.private.fed.app.simulator.simulator"
        command = [sys.executable, "-m", module, str(job), "-w", workspace, "-n", "2", "-t", "2"]
        begun = time.perf_counter()
        done = subprocess.run(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wall = time.perf_counter() - begun
    return {"wall_s": wall} | read_log(name, done.stdout, num_rounds)


def read_log(name: str, log: str, num_rounds: int) -> dict[str, float]:
    """Return log_round_s (median over the rounds after the first) and finish_s from the simulator's own time stamps."""
    begins, end, last, now = [], None, None, 0.0
    for line in log.splitlines():
        if STAMP.match(line):
            now = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        if BEGINS[name].search(line):
            begins.append(now)
        if ENDS[name].search(line):
            end = now
        if LAST[name].search(line):
            last = now
    if len(begins) != num_rounds or end is None or last is None or "LOST" in log:
        raise RuntimeError(f"the {name} job did {len(begins)} of {num_rounds} rounds:\n{log[-3000:]}")
    edges = [*begins, end]
    later = [b - a for a, b in itertools.pairwise(edges[1:])]
    return {"log_round_s": median(later) if later else 0.0, "finish_s": last - end}
