"""What is the global model during a run, and how does it survive a restart?

Its variables, the server optimizer's state and the best model so far are on disk after
every round. In plaintext jobs the server holds it. In jobs with secure aggregation
every site holds it and the server never has it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wardround.algorithms.final_model import FinalModel
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.core.arrays import Array, Arrays, from_variable, in_variable, require_same_blocks
from wardround.core.errors import ModelRefused, RoundRefused
from wardround.messages.allowed_names import BRAIN_TUMOURS
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.roles import OWN_VARIABLES, block_roles, stays_home
from wardround.models.specs import describe
from wardround.training import origin, state

# Prefixes in the state file; wire names hold a colon, so they never collide.
_STATE, _MEMORY, _TAIL = "rule.", "memory.", "tail."
_PREFIXES = (_STATE, _MEMORY, _TAIL)
# The final model of a run is the last one, whatever the number of its rounds.
LAST = FinalModel("last", 1)


class GlobalModel:
    """Weights under wire names, their round, and the history of the run.

    round: The number of finished rounds; the weights are the start of this round.
    best: The model that the sites EVALUATED best on their validation patients.
    memory: Numbers and arrays that the aggregation keeps between rounds. They are
        written together with the round.
    """

    def __init__(
        self,
        folder: Path,
        spec: Any,
        server_optimizer: ServerOptimizer,
        weights: dict[str, Array],
        rule_state: dict[str, Array],
        meta: dict[str, Any],
        inputs: Mapping[str, Any] | None = None,
        final: FinalModel = LAST,
        tail: Mapping[str, Array] | None = None,
    ) -> None:
        self.inputs = inputs
        self._final = final
        self._tail = dict(tail or {})
        self.folder = folder
        self.server_optimizer = server_optimizer
        self._weights = weights
        self._rule_state = rule_state
        self._spec = spec
        self.memory: dict[str, Any] = meta["memory"]
        self.round: int = meta["round"]
        self.history: list[dict[str, Any]] = meta["history"]
        self.best: dict[str, Any] | None = meta["best"]
        self.facts: dict[str, Any] = meta["facts"]
        self._promise: Mapping[str, Any] = meta["promise"]

    @staticmethod
    def open(
        folder: Path,
        spec: Any,
        server_optimizer: ServerOptimizer,
        variables: list[str],
        seed: int,
        promise: Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        final: FinalModel = LAST,
    ) -> GlobalModel:
        """Resume the newest round in the folder, or start from the seed.

        inputs: What a weights file says about the network's inputs and outputs
            (`described` of a sampling); None writes nothing.
        final: Which model the run ends with.

        RoundRefused is raised when the folder belongs to a job with other settings.
        """
        identity, newest = fingerprint(spec), state.latest(folder)
        if newest:
            arrays, meta = state.load(folder, newest, identity)
            # A resumed run must be the same job: other settings would mix two
            # experiments in one history.
            if meta["promise"] != dict(promise):
                changed = sorted(key for key in promise if meta["promise"].get(key) != promise[key])
                raise RoundRefused(
                    "this state folder belongs to another job",
                    found=f"other settings for {', '.join(changed) or 'this job'}",
                    expected="the job that wrote it, unchanged",
                    fix="resume with the same job, or use another state folder",
                )
            rule_state, kept, tail = (_named(arrays, prefix) for prefix in _PREFIXES)
            weights = {name: block for name, block in arrays.items() if not name.startswith(_PREFIXES)}
            meta = meta | {"memory": meta["memory"] | kept}
            return GlobalModel(folder, spec, server_optimizer, weights, rule_state, meta, inputs, final, tail)
        model = initial_arrays(spec, seed)
        zero = {name: np.zeros_like(block) for name, block in model.items()}
        weights = {}
        for variable in variables:
            # SCAFFOLD's control variates start at zero; everything else starts at the
            # model.
            weights |= in_variable(variable, zero if variable == "control" else model)
        size = sum(int(block.size) for block in model.values())
        facts = {"name": type(spec).__name__, "parameters": size, "fingerprint": identity}
        meta = {"round": 0, "history": [], "best": None, "facts": facts, "promise": dict(promise), "memory": {}}
        return GlobalModel(
            folder, spec, server_optimizer, weights, server_optimizer.start(weights), meta, inputs, final
        )

    def wire(self) -> dict[str, Array]:
        """Return every variable under its wire names, as the next round starts from it."""
        return self._weights

    def final(self) -> dict[str, Array]:
        """Return every variable of the final model, once all rounds are done."""
        return dict(self._final.chosen(self._tail, self._weights, self.round))

    def travelling(self, home_roles: Sequence[str]) -> frozenset[str]:
        """Return the wire names that an update of this job holds.

        These are all blocks but those that stay at home. The variable of a baseline
        (core/arrays.py) has no home and travels whole.
        """
        roles = block_roles(self._spec.build(0))
        names = [name.partition(":") for name in self._weights]
        return frozenset(
            f"{variable}:{block}"
            for variable, _, block in names
            if variable not in OWN_VARIABLES or not stays_home(block, roles[block], home_roles)
        )

    def require_fits(self, site: str, found: str, delta: Arrays, travelling: Collection[str]) -> None:
        """Raise unless a site's update fits this model.

        ModelRefused is raised when the site trained another architecture. RoundRefused
        is raised unless the update holds exactly the blocks of `travelling`, in the
        server's shapes.
        """
        if found != self.facts["fingerprint"]:
            raise ModelRefused(
                f"the architecture of {site}",
                found=f"fingerprint {found}",
                expected=str(self.facts["fingerprint"]),
                fix="run the same job and the same wardround version at every site",
            )
        require_same_blocks(
            {name: self._weights[name] for name in travelling if name in delta}, delta, f"the update of {site}"
        )
        if lacking := sorted(set(travelling) - delta.keys()):
            raise RoundRefused(
                f"the update of {site} lacks blocks",
                found=f"{len(lacking)} are not there, first {lacking[0]!r}",
                expected="every block that travels in this job",
                fix="run the same job and the same wardround version at every site",
            )

    def after(self, mean: Mapping[str, Array], participation: float) -> Arrays:
        """Return the weights that `step` would lead to; nothing is changed."""
        return self._stepped(mean, participation)[0]

    def step(self, mean: Mapping[str, Array], participation: float, entry: dict[str, Any]) -> None:
        """Apply the rule to one round's mean update and write everything down; NaN or inf: RoundRefused, the model stays."""
        weights, rule_state = self._stepped(mean, participation)
        self._consider(entry["val_score"], entry, self._weights)
        self._weights, self._rule_state = weights, rule_state
        self.round += 1
        self._tail = self._final.followed(self._tail, weights, self.round)
        self.history.append(entry)
        # Arrays of the memory go into the .npz, numbers into its JSON; one file is
        # replaced atomically, so they never disagree.
        kept = {name: value for name, value in self.memory.items() if isinstance(value, np.ndarray)}
        arrays = self._weights | {_STATE + name: block for name, block in self._rule_state.items()}
        arrays = arrays | {_MEMORY + name: block for name, block in kept.items()}
        arrays = arrays | {_TAIL + name: block for name, block in self._tail.items()}
        meta = {"history": self.history, "best": self.best, "facts": self.facts, "promise": dict(self._promise)}
        meta["memory"] = {name: value for name, value in self.memory.items() if name not in kept}
        state.save(self.folder, self.round, arrays, self.facts["fingerprint"], meta)

    def _stepped(self, mean: Mapping[str, Array], participation: float) -> tuple[dict[str, Array], dict[str, Array]]:
        _require_finite(mean, "the mean update")
        weights, rule_state = self.server_optimizer.apply(self._weights, mean, self._rule_state, participation)
        _require_finite(weights, "the model")
        return weights, rule_state

    def finish(self, val_score: float | None, out: Path) -> None:
        """Write the final and the best `model` variable for `wardround predict`.

        val_score: The score of the final model.
        """
        final = self.final()
        self._consider(val_score, {}, final)
        self._write(out / "final_model.npz", val_score, {}, final)
        best = self.folder / "best_model.npz"
        if best.is_file() and best.parent != out:
            (out / best.name).write_bytes(best.read_bytes())

    def _consider(self, val_score: float | None, entry: Mapping[str, Any], weights: Arrays) -> None:
        if val_score is not None and (self.best is None or val_score > self.best["val_score"]):
            self.best = {"round": self.round, "val_score": val_score}
            self._write(self.folder / "best_model.npz", val_score, entry, weights)

    def _write(self, path: Path, val_score: float | None, entry: Mapping[str, Any], weights: Arrays) -> None:
        """Write the `model` variable of these weights.

        entry: The round that begins with these weights; its hospitals have not changed
            them yet. The regions named in the file are those that the hospitals of the
            model's rounds taught, or, for the first weights, those that the hospitals
            know.
        """
        task = (self.inputs or {}).get("task")
        kinds = tuple(task["outputs"]) if task else BRAIN_TUMOURS.label_kinds
        kind = origin.kind_of_rounds(self.history, kinds) or origin.kind_of_rounds([entry], kinds)
        meta = {
            "model": describe(self._spec),
            "patch": patch_of(self._promise),
            "columns": self._promise.get("sampling.columns", ""),
            "label_kind": "classes" if hasattr(self._spec, "classes") else kind,
            "trained_on": origin.of_rounds(self.history),
            "card": origin.card_of_rounds(self.history),
            "round": self.round,
            "val_score": val_score,
            "settings": dict(self._promise),
            **({} if self.inputs is None else {"inputs": dict(self.inputs)}),
        }
        checkpoint.save(path, from_variable("model", weights), self.facts["fingerprint"], meta)


def _named(arrays: Arrays, prefix: str) -> dict[str, Array]:
    """Return the arrays under a prefix, with the prefix removed."""
    return {name.removeprefix(prefix): block for name, block in arrays.items() if name.startswith(prefix)}


def _require_finite(arrays: Mapping[str, Array], what: str) -> None:
    for name, block in arrays.items():
        if not np.isfinite(block).all():
            raise RoundRefused(
                f"{what} of this round",
                found=f"NaN or inf in block {name!r}",
                expected="finite numbers: every hospital would refuse this model",
                fix="the model of the round before is kept; lower the learning rate, or leave out the hospital that "
                "sends huge updates, and start the job again",
            )


def patch_of(promise: Mapping[str, Any]) -> list[int] | None:
    """Return the patch that the job trains on, None if its settings do not say."""
    sizes = promise.get("sampling.patch")
    return [int(n) for n in sizes] if sizes else None


def initial_arrays(spec: Any, seed: int) -> dict[str, Array]:
    """Return the blocks of a freshly built network, float32."""
    return {
        name: parameter.detach().cpu().numpy().astype(np.float32)
        for name, parameter in spec.build(seed).named_parameters()
    }
