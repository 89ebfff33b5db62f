"""KL masks on models whose outputs are known: what becomes personal, what leaves, and what the next round starts from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wardround.algorithms.base import Steps, personal
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, first_variables, local_round, run, start_of
from wardround.algorithms.klmask import KLMask, block_sizes, by_value, read
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import Everything
from wardround.core.errors import ConfigRefused

BLOCKS = {"conv.weight": "conv", "conv.norm": "norm", "out.weight": "head"}
KL = KLMask("kl", (), every=1, warm_up=0, rho=0.0, enter=1.5, leave=0.75, most=0.6, batches=2)
STEPS = Steps(4, 0.1)


class Probing:
    """Quadratics with outputs = weights; weights on their squared distance play the divergence."""

    def __init__(self, inner, layout, importance, better=True):
        self.inner, self.label, self.blocks = inner, "site", BLOCKS
        self.importance = by_value(layout, BLOCKS, importance)
        self.layout, self.better, self.asked = layout, better, 0

    def sample(self, count):
        return self.inner.sample(count)

    def value_and_grad(self, w, batch):
        return self.inner.value_and_grad(w, batch)

    def calibration(self, count):
        self.asked += 1
        return tuple(range(count))

    def held_out(self, count):
        return tuple(range(count))

    def near(self, w, other, batch):
        return lambda names: torch.where(torch.from_numpy(self.layout.mask(names)), other, w)

    def divergence(self, p, q, batch):
        return float((self.importance * (p - q) ** 2).sum())

    def loss(self, p, batch):
        """The own model is the first that is asked for; a swapped one is worse, unless `better` is False."""
        self.first = getattr(self, "first", p.clone())
        return 0.0 if torch.equal(p, self.first) else 1.0 if self.better else -1.0


@pytest.fixture
def probe(problem, layout):
    def make(seed=3, better=True, **importance):
        return Probing(
            problem(seed, torch.float32).exact(), layout, {"conv": 0.0, "norm": 0.0, "head": 0.0} | importance, better
        )

    return make


def mask_of(memory, layout):
    return {b for b, value in read(layout, BLOCKS, memory["mask"]).items() if value}


def round_(sharing, received, memory, layout, roles, objective, number=0):
    steps = replace(STEPS, round=number)
    return local_round(FedAvg(), sharing, {"model": received}, memory, layout, roles, objective, steps)


def test_vectors_and_blocks(layout):
    assert block_sizes(layout, BLOCKS) == {"conv": 4, "norm": 2, "head": 2}
    vector = by_value(layout, BLOCKS, {"conv": 0.5, "head": 2.0})
    assert vector.tolist() == [0.5] * 4 + [0.0] * 2 + [2.0] * 2
    assert read(layout, BLOCKS, vector) == {"conv": 0.5, "norm": 0.0, "head": 2.0}


def test_the_block_that_matters_becomes_personal_and_never_leaves(problem, layout, roles, probe):
    received = problem(1, torch.float32).point()
    update, memory, _ = round_(KL, received, {}, layout, roles, probe(head=1.0))
    assert mask_of(memory, layout) == {"head"}
    assert not update["model:out.weight"].any(), "not even in the round that it became personal"
    assert update["model:conv.weight"].any()
    other, head = problem(2, torch.float32).point(), torch.from_numpy(layout.mask(["out.weight"]))
    objective = probe(head=1.0)
    update, after, _ = round_(KL, other, memory, layout, roles, objective, 1)
    begun = objective.inner.path[0]
    assert torch.equal(begun[head], memory["home"][head])
    assert torch.equal(begun[~head], other[~head])
    assert not update["model:out.weight"].any()
    own = personal(start_of(FedAvg(), KL, {"model": received}, after, layout, roles))
    assert torch.equal(own[head], after["home"][head])
    assert torch.equal(own[~head], received[~head])


def test_divergence_is_measured_against_what_came_not_against_what_was_filled_in(problem, layout, roles, probe):
    """A personal block stays different from the received one, so it keeps its attention."""
    _, memory, _ = round_(KL, problem(1, torch.float32).point(), {}, layout, roles, probe(head=1.0))
    for number, seed in enumerate((5, 6, 7), 1):
        _, memory, _ = round_(KL, problem(seed, torch.float32).point(), memory, layout, roles, probe(head=1.0), number)
        assert mask_of(memory, layout) == {"head"}


def test_a_block_that_matters_no_more_is_shared_again_from_the_received_values(problem, layout, roles, probe):
    _, memory, _ = round_(KL, problem(1, torch.float32).point(), {}, layout, roles, probe(head=1.0))
    update, memory, _ = round_(KL, problem(2, torch.float32).point(), memory, layout, roles, probe(norm=1.0), 1)
    assert mask_of(memory, layout) == {"norm"}
    assert not update["model:out.weight"].any(), "its change began at the site's own values: not in this round"
    received = problem(4, torch.float32).point()
    objective = probe(norm=1.0)
    update, _, _ = round_(KL, received, memory, layout, roles, objective, 2)
    head = torch.from_numpy(layout.mask(["out.weight"]))
    assert torch.equal(objective.inner.path[0][head], received[head])
    assert update["model:out.weight"].any()


def test_a_block_whose_own_version_is_worse_stays_shared(problem, layout, roles, probe):
    _, memory, _ = round_(KL, problem(1, torch.float32).point(), {}, layout, roles, probe(head=1.0, better=False))
    assert mask_of(memory, layout) == set()


def test_warm_up_and_period(problem, layout, roles, probe):
    algorithm = replace(KL, warm_up=2, every=3)
    due = []
    for number in range(9):
        objective = probe(head=1.0)
        _, memory, _ = round_(algorithm, problem(1, torch.float32).point(), {}, layout, roles, objective, number)
        due.append(objective.asked > 0)
        assert ("mask" in memory) == due[-1]
    assert [number for number, yes in enumerate(due) if yes] == [2, 5, 8]


def test_attention_is_remembered_between_rounds(problem, layout, roles, probe):
    algorithm = replace(KL, rho=0.9)
    _, memory, _ = round_(algorithm, problem(1, torch.float32).point(), {}, layout, roles, probe(head=1.0))
    _, memory, _ = round_(algorithm, problem(2, torch.float32).point(), memory, layout, roles, probe(norm=1.0), 1)
    assert read(layout, BLOCKS, memory["attention"]) == pytest.approx({"conv": 0, "norm": 0.1, "head": 0.9})
    assert mask_of(memory, layout) == {"head"}


@pytest.mark.parametrize(("choose", "blocks"), [("norms", {"norm"}), ("head", {"head"})])
def test_fixed_controls(problem, layout, roles, probe, choose, blocks):
    update, memory, _ = round_(
        replace(KL, choose=choose), problem(1, torch.float32).point(), {}, layout, roles, probe(conv=1.0)
    )
    assert mask_of(memory, layout) == blocks
    assert {name for name, block in update.items() if not block.any()} == {
        f"model:{name}" for name, b in BLOCKS.items() if b in blocks
    }


def test_the_random_control_is_the_same_in_every_round_and_another_at_another_site(problem, layout, roles, probe):
    found = []
    for label in ("site", "site", *(f"site-{n}" for n in range(8))):
        objective = probe(conv=1.0)
        objective.label = label
        _, memory, _ = round_(
            replace(KL, choose="random"), problem(1, torch.float32).point(), {}, layout, roles, objective
        )
        found.append(frozenset(mask_of(memory, layout)))
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_without_masks_it_is_fedavg(problem, layout, roles, probe):
    received = problem(1, torch.float32).point()
    one, memory, _ = round_(replace(KL, choose="none"), received, {}, layout, roles, probe(head=1.0))
    other, _, _ = round_(Everything(), received, {}, layout, roles, probe(head=1.0))
    assert "mask" not in memory
    assert "home" not in memory
    assert all((one[name] == other[name]).all() for name in other)


def test_shared_blocks_move_by_the_sum_over_all_hospitals(problem, layout, roles, probe):
    """Two of three keep their head: the shared head moves by a third of the third hospital's change."""
    objectives = {"a": probe(3, head=1.0), "b": probe(4, head=1.0), "c": probe(5, conv=1.0)}
    sides = {name: SiteSide(lambda r, o=o: o, 1.0, layout, roles) for name, o in objectives.items()}
    model = layout.unflatten(problem(1, torch.float32).point().numpy())
    seen = []

    def after(number, result):
        seen.append({name: block.copy() for name, block in result.variables.items()})

    schedule = Schedule(2, 4, 0.1, 0.0, False, 0.0, 0.0, "constant")
    result = run(sides, FedAvg(), Mean(1.0), schedule, model, after, sharing=KL)
    assert {name: mask_of(memory, layout) for name, memory in result.memories.items()} == {
        "a": {"head"},
        "b": {"head"},
        "c": {"conv"},
    }
    received = torch.from_numpy(layout.flatten(model))
    alone, _, _ = round_(Everything(), received, {}, layout, roles, probe(5))
    moved = seen[0]["model:out.weight"] - first_variables(FedAvg(), model)["model:out.weight"]
    torch.testing.assert_close(torch.from_numpy(moved), torch.from_numpy(alone["model:out.weight"]) / 3)


def test_with_fedavg_beside_it_two_sums_would_tell_what_one_hospital_kept(problem, layout, roles, probe):
    """Why it is refused: the first round with masks, in which one of four keeps its head."""
    received, sums, alone = problem(1, torch.float32).point(), [0.0, 0.0], None
    for seed, kept in ((3, 0.0), (4, 0.0), (5, 0.0), (6, 1.0)):
        masked, _, _ = round_(KL, received, {}, layout, roles, probe(seed, head=kept))
        plain, _, _ = round_(Everything(), received, {}, layout, roles, probe(seed))
        sums = [total + update["model:out.weight"] for total, update in zip(sums, (plain, masked), strict=True)]
        alone = plain["model:out.weight"]
        assert masked["model:out.weight"].any() == (kept == 0)
    assert (sums[0] - sums[1]) == pytest.approx(alone, abs=1e-5)
    assert abs(alone).max() > 0.1


@pytest.mark.parametrize(
    "changed",
    [
        {"choose": "best"},
        {"choose": "norms", "home": ("head", "body", "adapter")},
        {"every": 0},
        {"every": 1.5},
        {"warm_up": -1},
        {"rho": 1.0},
        {"enter": 0.5},
        {"leave": 0.0},
        {"most": 1.0},
        {"batches": 0},
        {"rho": None},
    ],
    ids=str,
)
def test_senseless_settings_are_refused(changed):
    with pytest.raises(ConfigRefused, match="KL masks"):
        replace(KL, **changed)


def test_masks_choose_among_what_is_shared_at_all(problem, layout, roles, probe):
    """Only norms are shared: conv and head are home from the start, and no mask of theirs is needed."""
    algorithm = replace(KL, home=("head", "body", "adapter"), most=0.99)
    update, memory, _ = round_(
        algorithm, problem(1, torch.float32).point(), {}, layout, roles, probe(head=9.0, norm=1.0)
    )
    assert set(update) == {"model:conv.norm"}
    assert mask_of(memory, layout) == set(), "the only shared block cannot be more than 99 % of what is shared"
    update, _, _ = round_(KL, problem(1, torch.float32).point(), {}, layout, roles, probe(head=9.0, norm=1.0))
    assert len(update) == 3
