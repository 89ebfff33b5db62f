"""What lets a hospital of ours work under NVFlare's STOCK CKKS components: two translators, a seal check, a first model.

    server -> site   HEModelDecryptor (stock), FromStock                           -> SiteTrainer, as in every job
    site -> server   Release, ToStock, HEModelEncryptor (stock), OnlyCiphertexts   -> ScatterAndGather (stock)

Release stays the one exit: it reads strictly and writes the receipt. ToStock then drops everything but the weights and the
number of training patients, and OnlyCiphertexts lets only ciphertexts go. The wire names are ours (`model:block`).
Keys: stock_keys.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_locator import ModelLocator
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_opt.he.decomposers import CKKSVectorDecomposer
from nvflare.app_opt.he.homomorphic_encrypt import serialize_nested_dict
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
from nvflare.fuel.utils.log_utils import get_obj_logger

from wardround.arrays import Array, Arrays, in_bank
from wardround.errors import ConfigRefused, ModelRefused, ReleaseRefused
from wardround.flare import wire
from wardround.flare.places import run_folder
from wardround.hospital.global_model import initial_arrays
from wardround.models.nets import Network

CIPHERTEXT: type = CKKSVectorDecomposer().supported_type()
FINAL = "final"
_ENCRYPTION = {MetaKey.PROCESSED_KEYS, MetaKey.PROCESSED_ALGORITHM}
_OUT_META = _ENCRYPTION | {MetaKey.NUM_STEPS_CURRENT_ROUND, MetaKey.FILTER_HISTORY}


@dataclass(frozen=True)
class StockCkks:
    """Release's mechanism where NVFlare encrypts after the exit: the update is not changed here, the receipt says why."""

    def release(self, delta: Arrays) -> tuple[Arrays, dict[str, float | str]]:
        guarantee = "the server adds ciphertexts; every site of the run holds the key to each of them"
        return delta, {"mechanism": "CKKS by NVFlare's HEModelEncryptor", "guarantee": guarantee}


class FromStock(Filter):  # type: ignore[misc]
    """Task-data filter after HEModelDecryptor: stock weights (flat lists once decrypted) become wire.py's order.

    rounds: of the job; a server that runs another number is refused | finish: the order of round `rounds`
    weights still encrypted, other blocks or sizes than `model` has: ModelRefused | no round, another task: ConfigRefused
    """

    def __init__(self, model: Network, rounds: int) -> None:
        super().__init__()
        if not (model and rounds):
            raise _incomplete(f"model {model}, rounds {rounds}")
        self.model, self.rounds = model, rounds
        self._shapes: dict[str, tuple[int, ...]] = {}

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return the same message (its cookies go back with the answer) with an order in it."""
        task, rounds = fl_ctx.get_prop(FLContextKey.TASK_NAME), self.rounds
        round_: Any = rounds
        if task == wire.TRAIN:
            round_ = shareable.get_header(AppConstants.CURRENT_ROUND)
            rounds = shareable.get_header(AppConstants.NUM_ROUNDS)
        if task not in (wire.TRAIN, wire.FINISH) or not isinstance(round_, int) or rounds != self.rounds:
            raise ConfigRefused(
                "a task of the stock workflow",
                found=f"task {str(task)[:40]!r}, round {str(round_)[:9]} of {str(rounds)[:9]}",
                expected=f"train with a round of {self.rounds}, or finish",
                fix="run the same job on the server and at every site",
            )
        dxo = from_shareable(shareable)
        order = wire.order_message(wire.Order(self._blocks(dxo), round_, self.rounds))
        return from_shareable(order).update_shareable(shareable)

    def _blocks(self, dxo: DXO) -> dict[str, Array]:
        if not self._shapes:
            first = in_bank("model", initial_arrays(self.model, 0))
            self._shapes = {name: block.shape for name, block in first.items()}
        blocks = dxo.data if isinstance(dxo.data, dict) and dxo.data_kind == DataKind.WEIGHTS else {}
        if blocks.keys() != self._shapes.keys():
            raise _other_model(f"kind {str(dxo.data_kind)[:20]!r} with other blocks")
        return {name: _block(name, blocks[name], shape) for name, shape in self._shapes.items()}


class ToStock(Filter):  # type: ignore[misc]
    """Task-result filter between Release and HEModelEncryptor: an update becomes what stock aggregators expect.

    update: weight differences and NUM_STEPS_CURRENT_ROUND = training patients; numbers and facts stay here
    a refusal: passed on as Release built it | anything else: ReleaseRefused
    """

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return a new message; the encryptor's log, which shows the range of the plain values, is closed before."""
        get_obj_logger(HEModelEncryptor).setLevel(logging.WARNING)
        if not wire.is_reply(shareable):
            return shareable
        update = wire.read_update(shareable)
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: update.weight}
        return DXO(DataKind.WEIGHT_DIFF, data=dict(update.delta), meta=meta).to_shareable()


class OnlyCiphertexts(Filter):  # type: ignore[misc]
    """The last task-result filter: an update whose blocks are not all ciphertexts is refused, nothing leaves."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return the message as it is."""
        if not wire.is_reply(shareable):
            return shareable
        dxo = from_shareable(shareable)
        blocks = dxo.data if isinstance(dxo.data, dict) else {}
        sealed = [name for name, block in blocks.items() if isinstance(block, CIPHERTEXT)]
        unknown = len(set(dxo.meta) - _OUT_META)
        if not blocks or len(sealed) < len(blocks) or unknown or dxo.data_kind != DataKind.WEIGHT_DIFF:
            raise ReleaseRefused(
                "an update behind the encryptor",
                found=f"{len(sealed)} of {len(blocks)} blocks encrypted, {unknown} unknown entries",
                expected="ciphertexts only",
                fix="print the job anew: the filters are Release, ToStock, HEModelEncryptor, OnlyCiphertexts",
            )
        return shareable


class SeededModel(ModelPersistor):  # type: ignore[misc]
    """The server's model: the first weights come from the job's seed, every later one is written as it is, encrypted.

    file: `encrypted_model.npz` in the run folder, one uint8 array per block (a serialised CKKS vector)
    filter_id: the id of HEModelSerializeFilter | a block in the clear: ModelRefused, nothing written
    """

    def __init__(self, model: Network, seed: int, filter_id: str) -> None:
        super().__init__(filter_id)
        if not model or seed is None or not filter_id:
            raise _incomplete(f"model {model}, seed {seed}, filter_id {filter_id!r}")
        self.model, self.seed = model, seed

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """Return the weights of round 0, which everybody who has the job knows."""
        return make_model_learnable(in_bank("model", initial_arrays(self.model, self.seed)), {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """Write the model of this round over the one before."""
        blocks = model[ModelLearnableKey.WEIGHTS]
        if not all(isinstance(block, bytes) for block in blocks.values()):
            raise _other_model("a block in the clear on the server")
        path = run_folder(fl_ctx) / "encrypted_model.npz"
        written = path.with_name(f".{path.name}")
        entries: dict[str, Any] = {name: np.frombuffer(block, np.uint8) for name, block in blocks.items()}
        with written.open("wb") as file:
            np.savez(file, **entries)
        written.replace(path)


class FinalModel(ModelLocator):  # type: ignore[misc]
    """Gives CrossSiteModelEval the model of the last round, so that the sites can judge it."""

    def get_model_names(self, fl_ctx: FLContext) -> list[str]:
        return [FINAL]

    def locate_model(self, model_name: str, fl_ctx: FLContext) -> DXO:
        """Return the model as it lies in the workflow's context, its ciphertexts serialised."""
        model = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        meta = {key: value for key, value in model[ModelLearnableKey.META].items() if key in _ENCRYPTION}
        return DXO(DataKind.WEIGHTS, data=serialize_nested_dict(dict(model[ModelLearnableKey.WEIGHTS])), meta=meta)


def _block(name: str, values: Any, shape: tuple[int, ...]) -> Array:
    """Return decrypted values (a flat list) or plain ones as float32 of the model's shape."""
    if not isinstance(values, list | np.ndarray) or np.size(values) != int(np.prod(shape)):
        raise _other_model(f"{type(values).__name__} for block {name!r}")
    return np.asarray(values, np.float32).reshape(shape)


def _other_model(found: str) -> ModelRefused:
    return ModelRefused(
        "the weights of the stock workflow",
        found=found,
        expected="the blocks of the job's network, decrypted at a site and encrypted on the server",
        fix="run the same job everywhere; keys of one HEBuilder run in every startup kit",
    )


def _incomplete(found: str) -> ConfigRefused:
    return ConfigRefused("the job's settings", found=found, expected="every one", fix="print the job anew")
