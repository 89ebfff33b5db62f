"""Every combination that the compatibility table allows runs two rounds: real stages, rules and sums, in one process.

Plaintext cells run one by one. A sum knows nothing of what its blocks are: all cells of one sum and one kind of privacy
run in one federation, each with blocks under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import secagg_federation
import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import first_variables, local_round, vectors
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.sharing import EVERYTHING
from wardround.compression.chosen import HalfPrecision, LargestValues, Projections, Quantisation, RandomSlices
from wardround.compression.opening import Opening
from wardround.core.arrays import Layout
from wardround.core.rng import stream
from wardround.core.stages import Aggregate, Replies, Update
from wardround.dp.dp_sgd import PatientDP, PrivateObjective
from wardround.dp.hospital_dp import HospitalDP, privatise
from wardround.dp.scales import isotropic
from wardround.jobs import compat
from wardround.secagg.client import SecAggClient

SITES = ("site-1", "site-2", "site-3", "site-4", "site-5")
LAYOUT = Layout(("body.weight", "norm.weight", "head.weight"), ((20, 20), (3,), (2, 2)))
ROLES = {"body.weight": "body", "norm.weight": "norm", "head.weight": "head"}
WORK = 2
COMPRESSIONS = {
    "half": HalfPrecision(),
    "quantise": Quantisation(8, 256, 0),
    "top_k": LargestValues(0.2),
    "rand_k": RandomSlices(2, 0),
    "low_rank": Projections(2, 0),
}
PATIENT = PatientDP(max_grad_norm=1.0, noise_multiplier=1.0, sample_rate=0.5, reference_patients=4)
MODES = {"he_masks": "he with masks", "weighted": "masked"}
ALLOWED = [cell for cell in compat.cells() if compat.why_not(cell) is None]


class Line:
    """Gradients towards a point of the site's own; also what KL masks drawn at random ask for."""

    def __init__(self, site: str) -> None:
        self.label, self.blocks = site, {name: name for name in LAYOUT.names}
        self._target = torch.from_numpy(stream(0, site).normal(0, 0.1, LAYOUT.total).astype(np.float32))

    def sample(self, count: int) -> tuple[int, ...]:
        return tuple(range(count))

    def value_and_grad(self, w: torch.Tensor, batch: int) -> tuple[float, torch.Tensor]:
        return 0.0, w - self._target + 0.01 * batch

    # ... and of four patients, for private gradients
    patients = ("a", "b", "c", "d")

    def gradients(self, w: torch.Tensor, batch: Sequence[str]) -> list[torch.Tensor]:
        return [torch.stack([self.value_and_grad(w, n)[1] for n, _ in enumerate(batch)])]


class Patients(Line):
    def sample(self, chosen: Any) -> Any:
        return chosen


class Trained:
    """What one cell trains at all sites: the names of its blocks begin with `prefix`."""

    def __init__(self, cell: compat.Cell, prefix: str = "") -> None:
        found = {axis: compat.options()[axis][name] for axis, name in cell.items()}
        self.algorithm, self.sharing = found["algorithm"], found["sharing"]
        if cell["sharing"] == "klmask":
            # The same traits as masks by divergence, without a network to probe.
            self.sharing = KLMask("random", (), every=1, warm_up=0, rho=0.5, enter=1.0, leave=0.5, most=0.6, batches=1)
        self.beside, self.private, self.prefix = cell["beside"] == "beside", cell["dp"] == "patient", prefix
        self._memories: dict[str, dict[str, Any]] = {site: {} for site in SITES}
        self._rounds: dict[str, int] = {}

    def first(self) -> dict[str, Any]:
        """Return the weights before the first round, by wire name."""
        model = LAYOUT.unflatten(stream(0, "first").normal(0, 0.1, LAYOUT.total).astype(np.float32))
        variables = first_variables(self.algorithm, model)
        variables |= {f"fedavg:{name}": block for name, block in model.items()} if self.beside else {}
        return {self.prefix + name: block for name, block in variables.items()}

    def travels(self) -> set[str]:
        """Return the names of the blocks of an update; a model beside is shared whole."""
        return {
            name
            for name in self.first()
            if ROLES[name.rpartition(":")[2]] not in self.sharing.home_roles or "fedavg:" in name
        }

    def update(self, site: str, weights: Mapping[str, Any], round_: int) -> dict[str, Any]:
        """Train one round; each round of a site once."""
        assert self._rounds.setdefault(site, 0) == round_
        self._rounds[site] = round_ + 1
        mine = {
            name.removeprefix(self.prefix): block for name, block in weights.items() if name.startswith(self.prefix)
        }
        steps = Steps(WORK, 0.1, round=round_)
        objective = PrivateObjective(Patients(site), PATIENT, WORK) if self.private else Line(site)
        received = vectors(self.algorithm, mine, LAYOUT)
        found, self._memories[site], _ = local_round(
            self.algorithm, self.sharing, received, self._memories[site], LAYOUT, ROLES, objective, steps
        )
        if self.beside:
            other = {name.replace("fedavg:", "model:"): one for name, one in mine.items() if name.startswith("fedavg:")}
            fedavg_baseline, _, _ = local_round(
                FedAvg(), EVERYTHING, vectors(FedAvg(), other, LAYOUT), {}, LAYOUT, ROLES, Line(site), steps
            )
            found |= {name.replace("model:", "fedavg:"): block for name, block in fedavg_baseline.items()}
        assert {self.prefix + name for name in found} == self.travels()
        return {self.prefix + name: block for name, block in found.items()}


class Context:
    """What a rule is handed of a round."""

    def __init__(self, need: int, memory: dict[str, Any], read: Any) -> None:
        self.message, self.need, self.memory, self.read = "order", need, memory, read


def run_plaintext(cell: compat.Cell) -> None:
    """Run one cell: chain at every site, messages opened by the server, the rule of the job, one step."""
    trained, rule = Trained(cell), compat.options()["aggregation"][cell["aggregation"]]
    weights, chosen, memory = trained.first(), COMPRESSIONS.get(cell["compression"]), dict[str, Any]()
    blocks = Layout.of({name: weights[name] for name in sorted(trained.travels())})
    stages = {site: chosen.stage(blocks, site) for site in SITES} if chosen else {}
    remembered: dict[str, dict[str, Any]] = {site: {} for site in SITES}
    opening = Opening(chosen, blocks, memory, 1e6) if chosen else None
    for round_ in range(2):
        sent, plain = {}, {}
        for number, site in enumerate(SITES):
            update = Update(trained.update(site, weights, round_), float(number + 2))
            plain[site] = update
            sent[site] = stages[site].outbound(update, round_, remembered[site])[0] if chosen else update

        def read(site: str, reply: Update, round_: int = round_) -> Update:
            params = opening.opened(site, reply.params, round_) if opening else reply.params
            return Update(params, reply.weight)

        rounds = rule.round(Context(len(SITES), memory, read))
        ask = next(rounds)
        for site, reply in sent.items():
            ask.take(site, reply)
        with pytest.raises(StopIteration) as end:
            rounds.send(Replies(SITES))
        aggregate = end.value.value
        if opening:
            opening.settle(SITES)
            for site in SITES:
                stages[site].settle(remembered[site], True)
        assert set(aggregate.params) == trained.travels()
        assert all(np.isfinite(block).all() for block in aggregate.params.values())
        if cell["aggregation"] == "mean" and not chosen:
            shares = np.array([one.weight for one in plain.values()]) / sum(one.weight for one in plain.values())
            for name, block in aggregate.params.items():
                mean = sum(p * one.params[name].astype(float) for p, one in zip(shares, plain.values(), strict=True))
                np.testing.assert_allclose(block, mean, atol=1e-6)
        assert any(np.any(block) for block in aggregate.params.values())
        weights = weights | {name: weights[name] + block for name, block in aggregate.params.items()}


@pytest.mark.parametrize("aggregation", list(compat.options()["aggregation"]))
def test_every_allowed_plaintext_cell_runs_two_rounds(aggregation):
    chosen = [cell for cell in ALLOWED if cell["secagg"] == "plaintext" and cell["aggregation"] == aggregation]
    assert len(chosen) > 30
    for cell in chosen:
        run_plaintext(cell)


ROWS = [row for row in compat.rows() if row[0] != "plaintext" and compat.row_misfit(row) is None]


def read_of(chosen: Any, like: Mapping[str, Any], means: Sequence[Any]) -> Any:
    """Return what two rounds of a linear compression read of the mean updates."""
    blocks, memory, found = Layout.of(like), dict[str, Any](), np.zeros(Layout.of(like).total)
    stage = chosen.stage(blocks, "")
    for round_, mean in enumerate(means):
        sent, _ = stage.outbound(Update(blocks.unflatten(mean.astype(np.float32)), 1.0), round_, memory)
        found = found + blocks.flatten(stage.inbound(Aggregate(sent.params, ()), round_, memory).params)
    return found


IN_SUMS = [
    (*row, name)
    for row in ROWS
    for name in compat.options()["compression"]
    if compat.why_not(compat.cell_of([*row, name])) is None
]


@pytest.mark.parametrize("row", IN_SUMS, ids=" ".join)
def test_all_allowed_cells_of_a_secure_sum_run_two_rounds_in_it(row, federation, monkeypatch):
    secagg, dp, compression = row
    cells = [cell for cell in ALLOWED if (cell["secagg"], cell["dp"], cell["compression"]) == row]
    assert len(cells) >= 4
    chosen = COMPRESSIONS.get(compression)
    trained = [Trained(cell, f"cell {number} ") for number, cell in enumerate(cells)]
    first = {name: one.first()[name] for one in trained for name in sorted(one.first())}
    travels = set().union(*(one.travels() for one in trained))
    monkeypatch.setattr(
        secagg_federation, "first_model", lambda: {name: first[name] for name in first if name in travels}
    )
    home = {name: block for name, block in first.items() if name not in travels}
    weights = "patients_in_sum" if secagg == "weighted" else "equal"
    mode = MODES.get(secagg, secagg)
    played = federation(mode, weights=weights, bits=16 if dp == "hospital" else 8, compression=chosen)
    promise = played.promise
    noise = None
    if dp == "hospital":
        sizes = {"sites": promise.sites, "min_clients": promise.min_clients, "bits": promise.bits}
        noise = HospitalDP(max_update_norm=1.0, noise_multiplier=2.0, colluders=0, distributed=promise.masks, **sizes)
    updates: dict[tuple[str, int], dict[str, Any]] = {}

    def train(site: str, held: Mapping[str, Any], round_: int) -> dict[str, Any]:
        found = {name: block for one in trained for name, block in one.update(site, home | dict(held), round_).items()}
        found = {name: found[name] for name in held}
        updates[site, round_] = found
        return privatise(noise, found, isotropic(Layout.of(found))).update if noise else found

    for site in played.sites.values():
        name = site.name
        site.hospital.train = lambda held, round_, name=name: train(name, held, round_)
        if noise:
            site.secure = SecAggClient(promise, site.secure.agreement, site.key, site.folder, seed=0, noise=noise)
    played.run()
    assert (played.finished, played.problems, played.rejected) == (True, [], [])
    assert len(set(played.models().values())) == 1
    final = next(iter(played.sites.values())).weights
    assert set(final) == travels
    moved = np.concatenate([(block - first[name]).ravel() for name, block in final.items()])
    assert np.isfinite(moved).all()
    assert moved.any()
    if noise is None:
        patients = {site: secagg_federation.patients(site) if promise.weighted else 1 for site in played.names}
        shares = {site: count / sum(patients.values()) for site, count in patients.items()}
        means = [
            sum(
                share * np.concatenate([updates[site, n][name].ravel() for name in final])
                for site, share in shares.items()
            )
            for n in range(2)
        ]
        mean = means[0] + means[1]
        if chosen is not None:
            mean = read_of(chosen, {name: first[name] for name in final}, means)
        assert np.linalg.norm(moved - mean) < 0.02 * np.linalg.norm(mean)
