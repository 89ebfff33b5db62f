"""NVFlare's own homomorphic encryption on a model: bytes per parameter and seconds of one round, beside the same round in plain.

Everything measured is NVFlare's: contexts from the HEBuilder with its defaults (CKKS, degree 8192, moduli [60, 40, 40],
scale 2^40, written to files as a startup kit has them), and the parts that its FedAvgRecipeWithHE wires together:
HEModelEncryptor, HEInTimeAccumulateWeightedAggregator, HEModelShareableGenerator, HEModelDecryptor. The plain round is
its InTimeAccumulateWeightedAggregator and FullModelShareableGenerator. Messages are FOBS, as NVFlare's cells encode them.

    up      a site's update (WEIGHT_DIFF); one ciphertext vector per tensor, each with a copy of the public context
    down    the new global model, which the server holds encrypted; one vector per tensor, without the context
    encrypt a site: filter and serialise | add: the server, per site: deserialise and accept
    step    the server, once: divide, add to the global model, serialise | decrypt: a site: deserialise and filter

Not measured: sockets, TLS, headers that the cells add, the files that the persistor writes, the first round's plain model.
Contexts are unsigned here, so SECURE_MODE is off; checking a signature costs a site one RSA verification per job.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common import Part, Table, arguments, command, finish, kept, known, one_settings, show, table
from overhead_data import median

Weights = dict[str, np.ndarray]
MODELS = ("unet-144k", "unet-1.2m", "segresnet-4.7m")
STEPS = 10  # of local training; NVFlare's encryptor multiplies an update by it
TOLERANCE = 1e-6  # of the mean, absolute: CKKS at scale 2^40 errs by about 2e-8 here


def models() -> dict[str, Weights]:
    """Return random small updates in the shapes of three networks: 143,685, 1,194,972 and 4,703,955 parameters."""
    from wardround.models.nets import SegResNet3d, UNet3d

    specs = (UNet3d(), UNet3d(channels=(16, 32, 64, 128), residual_units=2), SegResNet3d(filters=16))
    rng = np.random.default_rng(0)
    return {
        name: {
            block: 0.001 * rng.standard_normal(tuple(parameter.shape), np.float32)
            for block, parameter in spec.build(0).named_parameters()
        }
        for name, spec in zip(MODELS, specs, strict=True)
    }


def measure(weights: Weights, sites: int) -> dict[str, float]:
    """Return what a round of `sites` sites costs under NVFlare's homomorphic encryption.

    Seconds are medians over the sites, but for the server's step, which happens once.
    Keys: parameters, tensors, up_bytes_per_param, down_bytes_per_param, encrypt_s, add_s, step_s, decrypt_s.
    the mean that a site decrypts is not the mean of the updates: RuntimeError
    """
    from nvflare.app_opt.he.intime_accumulate_model_aggregator import HEInTimeAccumulateWeightedAggregator
    from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
    from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
    from nvflare.app_opt.he.model_shareable_generator import HEModelShareableGenerator

    with startup_kit(), without_warnings():
        parts = Parts(
            HEModelEncryptor(weigh_by_local_iter=True),
            HEInTimeAccumulateWeightedAggregator(weigh_by_local_iter=False),
            HEModelShareableGenerator(),
            HEModelDecryptor(),
        )
        return one_round(weights, sites, parts)


def plain(weights: Weights, sites: int = 3) -> dict[str, float]:
    """Return what the same round costs without encryption: same keys, where encrypt_s and decrypt_s only (de)serialise."""
    from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
    from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator

    parts = Parts(None, InTimeAccumulateWeightedAggregator(), FullModelShareableGenerator(), None)
    with without_warnings():
        return one_round(weights, sites, parts)


@dataclass(frozen=True)
class Parts:
    """NVFlare's components of one round; a filter that is None is absent."""

    encryptor: Any
    aggregator: Any
    generator: Any
    decryptor: Any


def one_round(weights: Weights, sites: int, parts: Parts) -> dict[str, float]:
    """Play one round, message by message, and return its bytes and seconds."""
    from nvflare.apis.dxo import from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_constant import ReservedKey
    from nvflare.apis.utils.decomposers import flare_decomposers
    from nvflare.app_common.abstract.model import make_model_learnable
    from nvflare.app_common.app_constant import AppConstants
    from nvflare.app_common.decomposers import common_decomposers
    from nvflare.fuel.utils import fobs

    flare_decomposers.register()
    common_decomposers.register()
    site_ctx, server_ctx = context("site-1", "server"), context("server", "site-1")
    for ctx, used in (
        (site_ctx, [parts.encryptor, parts.decryptor]),
        (server_ctx, [parts.aggregator, parts.generator]),
    ):
        for part in filter(None, used):
            part.handle_event(EventType.START_RUN, ctx)
    zeros = {name: np.zeros_like(block) for name, block in weights.items()}
    server_ctx.set_prop(AppConstants.GLOBAL_MODEL, make_model_learnable(zeros, {}), private=True, sticky=False)

    encrypt, add, decrypt = [], [], []
    for site in range(sites):
        update = result({name: np.float32((site + 1) ** 2) * block for name, block in weights.items()})
        seconds, sent = timed(lambda update=update: encoded(filtered(parts.encryptor, update, site_ctx)))
        encrypt.append(seconds)
        message, peer = b"".join(sent), {ReservedKey.IDENTITY_NAME: f"site-{site + 1}"}
        seconds, accepted = timed(lambda sent=message, peer=peer: accept(parts.aggregator, sent, peer, server_ctx))
        add.append(seconds)
        if not accepted:
            raise RuntimeError(f"NVFlare's aggregator rejected the update of site-{site + 1}")
        up_bytes = len(message)
        del sent, message, update

    step_s, sent = timed(lambda: step(parts, server_ctx))
    message = b"".join(sent)
    for _ in range(sites):
        seconds, model = timed(lambda: from_shareable(filtered(parts.decryptor, fobs.loads(message), site_ctx)).data)
        decrypt.append(seconds)
    require_mean(model, weights, (sites + 1) * (2 * sites + 1) / 6)
    parameters = sum(block.size for block in weights.values())
    return {
        "parameters": parameters,
        "tensors": len(weights),
        "up_bytes_per_param": up_bytes / parameters,
        "down_bytes_per_param": len(message) / parameters,
        "encrypt_s": median(encrypt),
        "add_s": median(add),
        "step_s": step_s,
        "decrypt_s": median(decrypt),
    }


def result(update: Weights) -> Any:
    """Return a site's answer to the training task of round 0."""
    from nvflare.apis.dxo import DXO, DataKind, MetaKey
    from nvflare.app_common.app_constant import AppConstants

    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS}
    shareable = DXO(DataKind.WEIGHT_DIFF, data=update, meta=meta).to_shareable()
    shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
    return shareable


def filtered(part: Any, shareable: Any, ctx: Any) -> Any:
    return shareable if part is None else part.process(shareable, ctx)


def encoded(shareable: Any) -> list[bytes]:
    """Return the message as NVFlare's cells hand it to the socket: a list of buffers."""
    from nvflare.fuel.utils import fobs

    return list(fobs.dumps(shareable, buffer_list=True))


def accept(aggregator: Any, message: bytes, peer: dict[str, str], ctx: Any) -> bool:
    from nvflare.fuel.utils import fobs

    shareable = fobs.loads(message)
    shareable.set_peer_props(peer)
    return bool(aggregator.accept(shareable, ctx))


def step(parts: Parts, ctx: Any) -> list[bytes]:
    """Return the next round's task: the global model with the mean added, as ScatterAndGather makes it."""
    model = parts.generator.shareable_to_learnable(parts.aggregator.aggregate(ctx), ctx)
    return encoded(parts.generator.learnable_to_shareable(model, ctx))


def require_mean(found: Mapping[str, Any], weights: Weights, factor: float) -> None:
    """Raise unless the decrypted model is `factor` times the weights, the mean of squares: then every site was added, once."""
    for name, block in weights.items():
        error = float(np.abs(np.ravel(found[name]) - factor * np.ravel(block)).max())
        if not error <= TOLERANCE:
            raise RuntimeError(
                f"block {name!r}: the decrypted mean is off by {error:.2g}, expected {TOLERANCE} at most"
            )


class Engine:
    """As much of NVFlare's engine as its components ask for here: events go nowhere."""

    def fire_event(self, event_type: str, fl_ctx: Any) -> None:
        pass


def context(me: str, peer: str) -> Any:
    """Return a context of round 0 in which `me` talks to `peer`."""
    from nvflare.apis.fl_constant import FLContextKey, ReservedKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_common.app_constant import AppConstants

    def named(name: str) -> FLContext:
        found = FLContext()
        found.set_prop(ReservedKey.IDENTITY_NAME, name, private=False, sticky=False)
        found.set_prop(ReservedKey.RUN_NUM, "benchmark", private=False, sticky=False)
        return found

    ctx = named(me)
    ctx.set_peer_context(named(peer))
    ctx.set_prop(ReservedKey.ENGINE, Engine(), private=True, sticky=False)
    ctx.set_prop(FLContextKey.SECURE_MODE, False, private=True, sticky=False)
    ctx.set_prop(AppConstants.CURRENT_ROUND, 0, private=True, sticky=False)
    return ctx


@contextmanager
def startup_kit() -> Iterator[None]:
    """Make the files that NVFlare's provisioning puts into the startup folders, and have its filters find them there."""
    from nvflare.fuel.sec.security_content_service import SecurityContentManager, SecurityContentService
    from nvflare.lighter.constants import ProvFileName
    from nvflare.lighter.impl.he import HEBuilder

    builder = HEBuilder()
    builder.initialize(None, None)
    before = SecurityContentService.security_content_manager
    with tempfile.TemporaryDirectory() as folder:
        for name, is_client in (
            (ProvFileName.CLIENT_CONTEXT_TENSEAL, True),
            (ProvFileName.SERVER_CONTEXT_TENSEAL, False),
        ):
            (Path(folder) / name).write_bytes(builder.get_serialized_context(is_client=is_client))
        SecurityContentService.security_content_manager = SecurityContentManager(folder)
        try:
            yield
        finally:
            SecurityContentService.security_content_manager = before


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop what C++ prints (TenSEAL warns on stdout about every vector above one ciphertext) and NVFlare's warnings."""
    kept, nowhere, before = os.dup(1), os.open(os.devnull, os.O_WRONLY), logging.root.manager.disable
    os.dup2(nowhere, 1)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return the one table, NVFlare's encryption beside plain."""
    one_settings(parts)
    known(parts, "model", MODELS)
    columns = ("up_bytes_per_param", "down_bytes_per_param", "encrypt_s", "add_s", "step_s", "decrypt_s")
    found = {part.key["model"]: part.numbers for part in parts}
    rows = [
        [name, *(f"{found[name]['encrypted'][key]:.3g} / {found[name]['plain'][key]:.3g}" for key in columns)]
        for name in MODELS
        if name in found
    ]
    return {"stock": table(["model, encrypted / plain", *columns], rows, parts)}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = arguments(__doc__ or "")
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="measure only these")
    found.add_argument("--sites", type=int, default=4, help="sites of the round, one after the other")
    return found


def main() -> None:
    """Measure, print the table, and the JSON line if asked for."""
    args = parser().parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # the stock parts warn about every default
    names, sites = (args.models[:1], 2) if args.quick else (args.models, args.sites)
    with kept("secure_sum_rival", args) as parts:
        for name in () if args.show else names:
            parts.measure({"model": name}, {"sites": sites}, partial(one_model, models()[name], sites))
        done = parts.read()
    show(tables(done))
    finish({part.name: part.numbers for part in done}, as_json=args.json)


def one_model(weights: Weights, sites: int) -> dict[str, dict[str, float]]:
    """Return what a round costs with NVFlare's encryption, and in plain."""
    return {"encrypted": measure(weights, sites), "plain": plain(weights, sites)}


if __name__ == "__main__":
    command(main)
