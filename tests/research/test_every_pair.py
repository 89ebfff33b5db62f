"""Every algorithm of app_configs/ with every way to share: two rounds at two tiny hospitals, or the refusal that a job gives."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wardround.algorithms.federation import SiteSide, begin, run
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.train_only import TrainOnly
from wardround.core.errors import ConfigRefused
from wardround.data.cache import open_cohort
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.jobs import fragments
from wardround.jobs.building import build
from wardround.models.nets import UNet3d
from wardround.models.roles import stays_home
from wardround.training.segmentation import Sampling, SegmentationSite

PAGE = fragments.table()
WORK = 4
PLAN = Schedule(2, WORK, 0.05, 0.9, True, 0.0, 10.0, "cosine")
# With adapters, so that every role of models/roles.py is there.
SPEC = UNet3d(channels=(4, 8), residual_units=1, norm="instance", dropout=0.0, adapter_rank=2)
MASKS = {name for name in PAGE["sharings"] if name.startswith("klmask")}
REFUSED = {
    *((algorithm, sharing) for algorithm in ("scaffold", "mrmtl") for sharing in MASKS),
    ("alternating", "everything"),
    ("alternating", "klmask"),
}
# One step of all hospitals together leaves no block at home (they are refused in the round that would start from one).
STEPS = "joint_steps"
TOGETHER = {"everything", "affine_alone"}


def algorithms():
    """Return name -> (algorithm, server optimizer) of every row, and of the second-order form of Per-FedAvg."""
    found = {}
    for name, row in PAGE["algorithms"].items():
        rule = build(PAGE["server_optimizers"][row["server_optimizer"]]["part"], "server optimizer")
        found[name] = build(row["site"], "algorithm"), rule
        if "hessian" in row["site"]["args"]:
            second = row["site"] | {"args": row["site"]["args"] | {"hessian": "HF"}}
            found[f"{name}_hf"] = build(second, "algorithm"), rule
    return found


ALGORITHMS = algorithms()
SHARINGS = {name: build(row["part"], "sharing") for name, row in PAGE["sharings"].items()}


class Counted:
    """An objective that counts gradient evaluations, and is otherwise the one inside."""

    def __init__(self, inner, spent):
        self._inner, self._spent = inner, spent

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def value_and_grad(self, w, batch):
        self._spent.append(batch)
        return self._inner.value_and_grad(w, batch)


@pytest.fixture(scope="module")
def hospitals(cohorts, tmp_path_factory):
    found = {}
    for profile, place in cohorts.items():
        cohort = open_cohort(SiteConfig(data=place), tmp_path_factory.mktemp(f"cache-{profile}"))
        name, sampling = f"site-{profile}", Sampling((8, 8, 8), 2, tumour_probability=0.5, augment=False)
        split = split_patients(cohort.patients)
        found[name] = SegmentationSite(name, cohort, split, SPEC, sampling, 0, "cpu")
    return SimpleNamespace(sites=found, initial=next(iter(found.values())).model.vector.clone())


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pair_trains_or_is_refused(algorithm, sharing, hospitals):
    method, rule = ALGORITHMS[algorithm]
    shared = SHARINGS[sharing]
    if (algorithm, sharing) in REFUSED:
        with pytest.raises(ConfigRefused):
            begin(method, shared, PLAN.steps(0))
        return
    begin(method, shared, PLAN.steps(0))
    spent = {name: [] for name in hospitals.sites}
    sides = {
        name: SiteSide(
            lambda round_, one=one, name=name: Counted(one.objective("train", round_), spent[name]),
            float(one.train_patients),
            one.layout,
            one.roles,
        )
        for name, one in hospitals.sites.items()
    }
    layout, roles = next((one.layout, one.roles) for one in hospitals.sites.values())
    first = layout.unflatten(hospitals.initial.numpy().copy())
    if algorithm == STEPS and sharing not in TOGETHER:
        with pytest.raises(ConfigRefused, match="keeps as its own"):
            # Masks are chosen after a round, and only the next one starts from them.
            run(sides, method, rule, replace(PLAN, num_rounds=4), first, sharing=shared)
        return
    result = run(sides, method, rule, PLAN, first, sharing=shared)

    # The unit of work is the gradient evaluation, whatever the algorithm and the sharing.
    work = 1 if algorithm == STEPS else WORK
    assert {name: len(calls) for name, calls in spent.items()} == dict.fromkeys(spent, PLAN.num_rounds * work)
    home = {name for name in layout.names if stays_home(name, roles[name], shared.home_roles)}
    for name in layout.names:
        block = result.variables[f"model:{name}"]
        assert np.isfinite(block).all()
        if name in home:
            np.testing.assert_array_equal(block, first[name])
    travelling = [name for name in layout.names if name not in home]
    assert any((result.variables[f"model:{name}"] != first[name]).any() for name in travelling)
    own = [result.personal(method, name, side) for name, side in sides.items()]
    assert all(torch.isfinite(w).all() and not torch.equal(w, hospitals.initial) for w in own)
    if home:
        kept = torch.from_numpy(layout.mask(sorted(home)))
        # Blocks that nobody trains are the same everywhere.
        assert torch.equal(own[0][kept], own[1][kept]) == isinstance(shared, TrainOnly)


def test_every_refused_pair_is_one_of_the_page():
    assert {algorithm for algorithm, _ in REFUSED} <= ALGORITHMS.keys()
    assert {sharing for _, sharing in REFUSED} <= SHARINGS.keys()
    assert len(MASKS) == 2
