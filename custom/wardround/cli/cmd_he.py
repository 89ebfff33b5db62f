"""`wardround he cost` estimates the bytes and seconds of secure aggregation, before
anyone provisions.
"""

from __future__ import annotations

import argparse
from typing import Any

from wardround.core.terminal import DONE, command, positive, table

TEXT = """
Estimate what secure aggregation costs one hospital in one round: bytes sent and received, and seconds on this machine.
Nothing is provisioned, trained or sent. MODEL is the name of a job (its network is used) or a number of parameters.

  wardround he cost brats_fedavg_he --sites 16
  wardround he cost 4700000 --sites 8 --bits 16
  wardround he cost brats_fedavg --sites 4 --set model.channels=[16,32,64,128]

In bytes per parameter, plaintext float32 is 4 up and 4 down. `hide` is everything that a hospital does before it sends, `add`
is the server's work for each hospital, and `reveal` is what every hospital does with the sum. In the ring a hospital passes
the sum on.
"""
MODES = {
    "fixed (readable)": {"masks": False, "encryption": False, "ring": False},
    "masked": {"masks": True, "encryption": False, "ring": False},
    "he": {"masks": False, "encryption": True, "ring": False},
    "he with masks": {"masks": True, "encryption": True, "ring": False},
    "ring": {"masks": True, "encryption": True, "ring": True},
}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "cost",
        "bytes and seconds per round of every secure sum",
        TEXT,
        cost,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="name of a job, or a number of parameters",
    )
    parser.add_argument(
        "--sites",
        type=positive,
        default=16,
        metavar="N",
        help="most hospitals in a sum; default 16",
    )
    parser.add_argument(
        "--bits",
        type=positive,
        default=8,
        metavar="B",
        help="payload per value, 4 to 16; default 8",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="change a setting of the job",
    )


def cost(args: argparse.Namespace) -> int:
    """Print one row for each mode of secure aggregation."""
    from wardround.secagg import cost as costs
    from wardround.secagg.spec import SecAggSpec

    weights = _weights(args.model, args.set)
    rows, parameters = [], 0
    for name, mode in MODES.items():
        promise = SecAggSpec(
            args.sites,
            3,
            args.bits,
            "patients_in_sum",
            32,
            **mode,
            threshold=0,
        )
        found, spent = costs.cost(promise, weights), costs.seconds(promise, weights)
        parameters = found.parameters
        bytes_ = [f"{found.up / 1e6:.2f} MB", f"{found.down / 1e6:.2f} MB"]
        ratios = [f"{found.up / parameters:.2f}", f"{found.down / parameters:.2f}"]
        times = [f"{spent[key]:.3f} s" for key in ("hide_s", "add_s", "reveal_s")]
        rows.append([name, *bytes_, *ratios, *times])
    clear = f"{4 * parameters / 1e6:.2f} MB"
    rows.append(["float32, in plaintext", clear, clear, "4.00", "4.00", "-", "-", "-"])
    print(
        f"{parameters:,} parameters, {args.bits} bits each, up to {args.sites} hospitals in a sum; per hospital and round:"
    )
    print(
        table(
            ["sum", "up", "down", "up/param", "down/param", "hide", "add", "reveal"],
            rows,
        ),
    )
    return DONE


def _weights(model: str, settings: list[str]) -> Any:
    import numpy as np

    from wardround.jobs import recipes
    from wardround.jobs.building import build

    if model.isdecimal():
        size = max(1, int(model))
        return {"model:all": np.full(size, 0.05, np.float32)}
    job = recipes.job(model, settings)
    network = build(job.task["model"], "model").build(0)
    blocks = {name: block.detach().numpy() for name, block in network.named_parameters()}
    return {f"{variable}:{name}": block for variable in job.variables for name, block in blocks.items()}
