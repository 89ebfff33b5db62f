"""The server's side of a round, alone in a fresh process: decode, check and add one site's update after the other, then step.

The updates are generated and serialised (FOBS) outside the clock, one at a time, as they would arrive. Inside the clock:
deserialise, strict reading, and what the plaintext run does with an update; then the mean and GlobalModel.step, which writes
the new weights to disk. The network itself (sockets, TLS) is NVFlare's and not measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from overhead_data import median, peak_rss_mb

CHANNELS = (16, 32, 64, 128)


def measure(sites: int, num_rounds: int, channels: Sequence[int] = CHANNELS) -> dict[str, float]:
    """Return peak memory before the first round and at the end, seconds per round (median), and the network's size."""
    from nvflare.apis.utils.decomposers import flare_decomposers
    from nvflare.app_common.decomposers import common_decomposers
    from nvflare.fuel.utils import fobs

    from wardround.aggregation.mean import WeightedMean
    from wardround.aggregation.plaintext_run import PlaintextRun
    from wardround.algorithms.server_optimizers import Mean
    from wardround.core.attendance import Attendance
    from wardround.core.run_log import RunLog
    from wardround.core.stages import Replies
    from wardround.flare import plaintext_messages
    from wardround.models.nets import UNet3d
    from wardround.training.global_model import GlobalModel

    flare_decomposers.register()
    common_decomposers.register()
    spec = UNet3d(channels=tuple(channels), residual_units=2)
    names, seconds = [f"site-{number}" for number in range(sites)], []
    about = {"job": "overhead", "algorithm": "FedAvg"}
    with tempfile.TemporaryDirectory() as folder:
        server = GlobalModel.open(Path(folder), spec, Mean(server_lr=1.0), ["model"], 0, about)
        record = RunLog.begin(about, server.facts, True, [])
        run = PlaintextRun(server, server.travelling([]), WeightedMean(), record, num_rounds, sites, Path(folder))
        steps = run.run(Attendance(names, num_rounds, record))
        before = peak_rss_mb()
        ask = next(steps)
        for round_ in range(num_rounds):
            spent = 0.0
            for number, site in enumerate(names):
                arrived = message(server.wire(), server.facts["fingerprint"], round_ * sites + number)
                begun = time.perf_counter()
                ask.take(site, plaintext_messages.read_update(fobs.loads(arrived)))
                spent += time.perf_counter() - begun
            begun = time.perf_counter()
            ask = steps.send(Replies(tuple(names)))
            seconds.append(spent + time.perf_counter() - begun)
        steps.close()
        return {
            "start_rss_mb": before,
            "peak_rss_mb": peak_rss_mb(),
            "round_s": median(seconds),
            "parameters": server.facts["parameters"],
        }


def message(weights: dict[str, Any], fingerprint: str, seed: int) -> bytes:
    """Return one site's update, serialised: small random changes of every block."""
    from nvflare.fuel.utils import fobs

    from wardround import __version__
    from wardround.data.layouts import MODALITIES
    from wardround.flare import plaintext_messages

    rng = np.random.default_rng(seed)
    delta = {name: 0.001 * rng.standard_normal(block.shape, np.float32) for name, block in weights.items()}
    facts = {
        "label": "generated",
        "cases": {"train": 10, "val": 2, "test": 2},
        "modalities": dict.fromkeys(MODALITIES, 14),
        "label_kind": "brats",
        "device": "cpu",
        "phantoms": True,
        "version": __version__,
        "fingerprint": fingerprint,
    }
    update = plaintext_messages.Update(delta, 10.0, {"loss": 1.0, "val_score": 0.5, "seconds": 1.0}, facts)
    return bytes(fobs.dumps(plaintext_messages.update_message(update)))
