"""What became personal, and since when: kept through restarts and repeats, shown at the hospital, told by name only."""

from __future__ import annotations

import pytest
import torch

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import first_variables
from wardround.algorithms.klmask import KLMask, by_value
from wardround.algorithms.schedule import Schedule
from wardround.core.arrays import Layout
from wardround.training.mask_history import history_of, note, since

MASKS = KLMask("kl", (), every=1, warm_up=0, rho=0.5, enter=1.0, leave=0.5, most=0.6, batches=1)
SCHEDULE = Schedule(3, 4, 0.05, 0.9, True, 0.0, 10.0, "cosine")
LAYOUT = Layout(("a.w", "a.b", "c.w"), ((2, 2), (2,), (3,)))
BLOCKS = {"a.w": "a", "a.b": "a", "c.w": "c"}


def memory(personal, **shares):
    mask = by_value(LAYOUT, BLOCKS, dict.fromkeys(personal, 1.0))
    return {"mask": mask, "attention": by_value(LAYOUT, BLOCKS, shares)} if shares else {"mask": mask}


def test_nothing_is_written_without_a_mask(tmp_path):
    note(tmp_path, 0, {"home": torch.zeros(9)}, LAYOUT, BLOCKS)
    assert history_of(tmp_path) == {}
    assert since({}) is None


def test_since_counts_from_the_last_time_it_became_personal(tmp_path):
    for round_, personal in enumerate([["a"], ["a", "c"], ["c"], ["a", "c"]]):
        note(tmp_path, round_, memory(personal, a=0.75, c=0.25), LAYOUT, BLOCKS)
    history = history_of(tmp_path)
    assert [history[r]["personal"] for r in range(4)] == [["a"], ["a", "c"], ["c"], ["a", "c"]]
    assert history[1]["attention"] == {"a": 0.75, "c": 0.25}
    assert since(history) == {"a": 3, "c": 1}


def test_a_repeated_round_replaces_its_line_and_what_came_after(tmp_path):
    for round_, personal in ((0, ["a"]), (1, ["c"]), (2, ["c"]), (1, [])):
        note(tmp_path, round_, memory(personal), LAYOUT, BLOCKS)
    assert history_of(tmp_path) == {0: {"personal": ["a"], "attention": {}}, 1: {"personal": [], "attention": {}}}
    assert since(history_of(tmp_path)) == {}


def test_a_hospital_keeps_shows_and_tells_it(opened, tmp_path):
    changed = {"sharing": MASKS, "schedule": SCHEDULE}
    hospital = opened(**changed)
    weights = first_variables(FedAvg(), hospital.site.layout.unflatten(hospital.initial.numpy().copy()))
    deltas = []
    for round_ in range(2):
        delta, _ = opened(**changed).train(weights, round_)
        weights = {name: block + delta[name] for name, block in weights.items()}
        deltas.append(delta)
    history = history_of(hospital.states)
    assert sorted(history) == [0, 1]
    personal = history[1]["personal"]
    assert personal
    assert sum(history[1]["attention"].values()) == pytest.approx(1, abs=1e-4)
    blocks = hospital.site.blocks
    zero = {name.removeprefix("model:") for name, block in deltas[1].items() if not block.any()}
    assert {blocks[name] for name in zero} >= set(personal)
    evaluation = opened(**changed).evaluate(weights, 2)
    assert evaluation.numbers["personal"] == since(history)
    hospital.keep(evaluation, tmp_path / "out", "a job")
    page = (tmp_path / "out" / "site_report.html").read_text()
    assert "Personal blocks" in page
    assert all(block in page for block in personal)
