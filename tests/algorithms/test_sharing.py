"""What stays at home: every algorithm with every way to share, the named combinations, and the ones that are not sound."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Steps, personal
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, begin, local_round, run, start_of
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.klmask import KLMask
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import Everything, Roles, parts, require_together
from wardround.core.errors import ConfigRefused
from wardround.core.traits import require_fit
from wardround.secagg.spec import ANY_SUM

NORMS, HEAD, SMALL = Roles(("norm",)), Roles(("head",)), Roles(("head", "body", "adapter"))
MASKS = KLMask("random", (), every=1, warm_up=0, rho=0.5, enter=1.0, leave=0.5, most=0.6, batches=1)
FIXED = KLMask("head", ("norm",), every=1, warm_up=1, rho=0.5, enter=1.0, leave=0.5, most=0.6, batches=1)
SHARINGS = [Everything(), NORMS, HEAD, SMALL, MASKS, FIXED]
ALGORITHMS = [
    FedAvg(),
    FedProx(0.1),
    Scaffold(),
    Ditto(0.5),
    PerFedAvg(0.1, "FO", 1e-3),
    PerFedAvg(0.1, "HF", 1e-3),
    Alternating(0.5),
]
STEPS = Steps(8, 0.05, momentum=0.9)
SCHEDULE = Schedule(3, 4, 0.1, 0.9, True, 1e-3, 5.0, "cosine")


@pytest.fixture
def sides(problem, layout, roles):
    """Return two sites whose oracles know the blocks of the test's model, which random masks ask for."""

    def make():
        objectives = [problem(n, torch.float32).noisy() for n in range(2)]
        for n, objective in enumerate(objectives):
            objective.label, objective.blocks = f"site-{n}", {name: name for name in layout.names}
        return {
            str(n): SiteSide(lambda round_, one=one: one, n + 1.0, layout, roles) for n, one in enumerate(objectives)
        }

    return make


def sound(algorithm, sharing):
    """The slow oracle: which combinations are refused, by name."""
    if isinstance(algorithm, Scaffold):
        return not isinstance(sharing, KLMask)
    return not isinstance(algorithm, Alternating) or bool(sharing.home_roles)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_every_algorithm_meets_every_sharing(problem, layout, roles, sides, algorithm, sharing):
    """What stays home is in no update and goes on from the site's own values; what is shared leaves, and comes back."""
    if not sound(algorithm, sharing):
        with pytest.raises(ConfigRefused):
            begin(algorithm, sharing, STEPS)
        return
    begin(algorithm, sharing, STEPS)
    side, memory, never = sides()["0"], {}, {name for name in layout.names if roles[name] in sharing.home_roles}
    for round_ in range(2):
        received = {variable: problem(9 + round_, torch.float32).point() for variable in algorithm.variables}
        before = dict(memory)
        begun = start_of(algorithm, sharing, received, before, layout, roles)
        update, memory, _ = local_round(
            algorithm, sharing, received, before, layout, roles, side.objective(0), Steps(8, 0.05, round=round_)
        )
        assert set(update) == {
            f"{variable}:{n}" for variable in algorithm.variables for n in layout.names if n not in never
        }
        kept = begun.home | (memory["mask"] > 0 if "mask" in memory else False)
        own = begun.variables["model"]
        if "home" in before:
            assert torch.equal(own[begun.home], before["home"][begun.home])
        assert torch.equal(own[~begun.home], received["model"][~begun.home])
        for name, block in update.items():
            stays = layout.unflatten(kept.numpy().astype(np.float32))[name.partition(":")[2]] > 0
            assert not block[stays].any(), name
            assert block[~stays].all(), name
    last = {variable: problem(20, torch.float32).point() for variable in algorithm.variables}
    placed = start_of(algorithm, sharing, last, memory, layout, roles)
    if "personal" not in memory:
        assert torch.equal(personal(placed)[placed.home], memory.get("home", last["model"])[placed.home])
        assert torch.equal(personal(placed)[~placed.home], last["model"][~placed.home])


NAMED = {  # norms of the shared model and of both sites' own, from the time when these three were classes of their own
    "FedBN": (FedAvg(), NORMS, [1.2105520, 0.5873828, 0.7420897]),
    "FedRep": (Alternating(0.5), HEAD, [1.4597876, 0.6703625, 1.3352631]),
    "FedSim": (FedAvg(), SMALL, [1.6879379, 0.7743616, 0.9316769]),
    "SCAFFOLD": (Scaffold(), Everything(), [0.5794159, 0.5794159, 0.5794159]),
    "Ditto": (Ditto(0.1), Everything(), [0.9369241, 1.1146233, 0.9506259]),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_combinations_are_what_they_were(problem, layout, sides, name):
    algorithm, sharing, expected = NAMED[name]
    model = layout.unflatten(problem(7, torch.float32).point().numpy())
    result = run(sides(), algorithm, Mean(1.0), SCHEDULE, model, sharing=sharing)
    shared = np.concatenate(
        [block.ravel() for variable, block in result.variables.items() if variable.startswith("model:")]
    )
    own = [float(result.personal(algorithm, site, side).norm()) for site, side in sides().items()]
    assert [float(np.linalg.norm(shared)), *own] == pytest.approx(expected, rel=1e-5)


def test_blocks_at_home_are_trained_by_scaffold_without_correction(problem, layout, roles):
    """With one site's exact gradients the norms walk as under FedAvg, whatever the server's variate is elsewhere."""
    norm = torch.from_numpy(layout.mask(["conv.norm"]))
    w, control = problem(1, torch.float32).point(), problem(2, torch.float32).point()
    hessian = torch.diag(torch.linspace(0.5, 2, layout.total))  # coordinates do not meet
    received, memory = {"model": w, "control": control}, {"control": problem(3, torch.float32).point()}
    ends = []
    for algorithm in (Scaffold(), FedAvg()):
        objective = problem(4, torch.float32).exact()
        objective.a = hessian[None]
        variables = {variable: received[variable] for variable in algorithm.variables}
        _, kept, _ = local_round(algorithm, NORMS, variables, dict(memory), layout, roles, objective, STEPS)
        ends.append(kept["home"])
    assert torch.equal(ends[0][norm], ends[1][norm])
    assert (ends[0][~norm] != ends[1][~norm]).all()


@pytest.mark.parametrize(
    ("home", "found"),
    [
        (["skull"], "skull"),
        ([None], "None"),
        ("brain", "brain"),
        ([], "no role"),
        (["head", "norm", "body", "adapter"], "every role"),
    ],
    ids=str,
)
def test_roles_that_keep_nothing_all_or_the_unknown_are_refused(home, found):
    with pytest.raises(ConfigRefused, match=found):
        Roles(home)


def test_a_job_s_list_is_the_same_value_in_any_order():
    assert Roles(["norm", "head"]) == Roles(("head", "norm"))
    assert repr(Roles(["norm", "head"])) == repr(Roles(("head", "norm")))
    assert Roles("norm").stays == "the normalisation layers"


def test_a_network_of_which_nothing_would_be_shared_is_refused(problem, layout, roles):
    with pytest.raises(ConfigRefused, match="adapter_rank"):
        local_round(
            FedAvg(),
            Roles(("head", "norm", "body")),
            {"model": problem(1, torch.float32).point()},
            {},
            layout,
            roles,
            problem(2, torch.float32).exact(),
            STEPS,
        )


def test_an_algorithm_that_still_says_home_roles_is_refused():
    class Old:
        name: ClassVar[str] = "Old"
        variables: ClassVar[tuple[str, ...]] = ("model",)
        home_roles: ClassVar[tuple[str, ...]] = ("norm",)

    with pytest.raises(ConfigRefused, match="would leave the hospital"):
        require_together(Old(), Everything())


def test_where_single_updates_are_hidden_fedavg_is_refused_beside_masks_that_sites_choose():
    with pytest.raises(ConfigRefused, match="FedAvg beside it"):
        require_fit(parts(FedAvg(), MASKS, beside=True), ANY_SUM)
    require_fit(parts(FedAvg(), MASKS, beside=False), ANY_SUM)
    for sharing in (FIXED, NORMS, Everything()):  # one mask for all
        require_fit(parts(FedAvg(), sharing, beside=True), ANY_SUM)
