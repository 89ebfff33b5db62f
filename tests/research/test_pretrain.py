"""Pretraining: broken and continued equals unbroken, the rate, Adam as torch has it, and a label that says what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.models.flat import FlatModel
from wardround.models.nets import UNet3d
from wardround.models.weights_file import digest_of
from wardround.research import pretrain, pretrained_file
from wardround.research.pretrain import Plan, Progress

SPEC = UNet3d(channels=(4, 8))
PLAN = Plan(steps=6, seed=3, batch=2)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "POOL", 4)
    monkeypatch.setattr(pretrain, "PATCHES", ((16, 16, 16), (24, 24, 8)))


def trained(plan: Plan, progress: Progress, state: Path, minutes: float | None = None, clock: object = None) -> bool:
    more = {} if clock is None else {"clock": clock}
    return pretrain.train(SPEC, plan, progress, state, lambda _: None, minutes, **more)  # type: ignore[arg-type]


def test_broken_and_continued_equals_unbroken(tmp_path: Path) -> None:
    whole = pretrain.begin(SPEC, PLAN)
    assert trained(PLAN, whole, tmp_path / "whole.npz")
    # A clock that moves a minute with every look: the run stops long before its end.
    minutes = iter(range(10_000))
    part = pretrain.begin(SPEC, PLAN)
    assert not trained(PLAN, part, tmp_path / "part.npz", 3, lambda: 60.0 * next(minutes))
    assert 0 < part.done < PLAN.steps
    again = pretrain.resume(tmp_path / "part.npz", SPEC, PLAN)
    assert trained(PLAN, again, tmp_path / "part.npz")
    for name in ("w", "first", "second"):
        assert torch.equal(getattr(whole, name), getattr(again, name))
    assert (again.done, again.pending) == (whole.done, whole.pending)
    assert not torch.equal(whole.w, pretrain.begin(SPEC, PLAN).w)


def test_another_plan_is_not_continued_and_more_steps_are_before_the_rate_falls(tmp_path: Path) -> None:
    progress = pretrain.begin(SPEC, PLAN)
    progress.done = 3
    pretrain.save(tmp_path / "s.npz", SPEC, PLAN, progress)
    assert pretrain.resume(tmp_path / "s.npz", SPEC, replace(PLAN, steps=600)).done == 3
    for plan in (replace(PLAN, seed=4), replace(PLAN, steps=3)):
        with pytest.raises(ConfigRefused, match=r"(?s)done 3.*another --out"):
            pretrain.resume(tmp_path / "s.npz", SPEC, plan)
    with pytest.raises(ModelRefused, match="fingerprint"):
        pretrain.resume(tmp_path / "s.npz", UNet3d(channels=(4, 6)), PLAN)


def test_the_rate_rises_stays_and_falls() -> None:
    plan = Plan(steps=1000, lr=0.01)
    rates = [plan.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01 / pretrain.WARM_UP)
    assert set(rates[pretrain.WARM_UP : 850]) == {0.01}
    assert rates[925] == pytest.approx(0.005)
    assert 0 < rates[999] < 0.0001
    # Up to 85 % of the smaller number, both plans have the same rates.
    other = Plan(steps=2000, lr=0.01)
    assert other.continues(plan, 850)
    assert [other.rate(step) for step in range(850)] == rates[:850]
    assert not other.continues(plan, 851)


def test_adam_is_that_of_torch() -> None:
    theirs = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    mine, first, second = theirs.detach().clone(), torch.zeros(7), torch.zeros(7)
    optimizer = torch.optim.Adam([theirs], lr=0.03, betas=pretrain.BETAS, eps=pretrain.EPSILON)
    for step in range(5):
        gradient = torch.sin(theirs.detach() * (step + 2))
        theirs.grad = gradient.clone()
        optimizer.step()
        pretrain.adam(mine, gradient, first, second, step, 0.03)
    assert torch.allclose(mine, theirs.detach(), atol=1e-6)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"seed": -1}, {"batch": 0}, {"lr": 0.0}, {"clip_norm": 0.0}])
def test_a_plan_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """A negative seed would be that of the held-out patients."""
    with pytest.raises(ConfigRefused, match="seed 0 or more"):
        replace(PLAN, **wrong)  # type: ignore[arg-type]


def test_file_and_label(tmp_path: Path) -> None:
    progress = pretrain.begin(SPEC, PLAN)
    scores = pretrain.held_out(SPEC, progress.w, 2)
    assert set(scores) == {"dice_mean", "dice_ET", "dice_TC", "dice_WT"}
    out = tmp_path / "w.safetensors"
    digest = pretrained_file.write(out, SPEC, PLAN, progress, scores, 2)
    label = json.loads(out.with_suffix(".json").read_text())
    assert label["sha256"] == digest == digest_of(out)
    assert "synthetic patients only" in label["what"]
    assert (label["data"], label["steps"], label["seed"], label["held_out_dice"]) == ("synthetic", 6, 3, scores)
    # The same weights give the same bytes, and half of them per value.
    assert pretrained_file.write(tmp_path / "again.safetensors", SPEC, PLAN, progress, scores, 2) == digest
    started = FlatModel(replace(SPEC, weights={"file": str(out), "sha256": digest}).build(99)).vector
    assert torch.equal(started, progress.w.half().float())
