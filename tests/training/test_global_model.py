import numpy as np
import pytest

from wardround.algorithms.final_model import FinalModel
from wardround.algorithms.server_optimizers import FedAdam, FedAvgM, FedYogi, Mean
from wardround.core.arrays import from_variable
from wardround.core.errors import ModelRefused, RoundRefused
from wardround.models import checkpoint
from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.models.roles import block_roles
from wardround.models.specs import rebuild
from wardround.training.global_model import GlobalModel, initial_arrays, patch_of

SPEC = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)
PROMISE = {"job": "brats_fedavg", "lr": 0.05, "sampling.patch": [16, 16, 8]}
BANKS = ["model", "control", "fedavg"]


def opened(folder, server_optimizer=None, variables=("model",), seed=0, promise=None):
    return GlobalModel.open(folder, SPEC, server_optimizer or Mean(1.0), list(variables), seed, promise or PROMISE)


def mean_of(server, value):
    return {name: np.full_like(block, value) for name, block in server.wire().items()}


def entry(round_, val_score):
    return {"round": round_, "val_score": val_score, "facts": {}, "sites": {}}


def states(folder):
    return sorted(path.name for path in folder.glob("round-*.npz"))


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_every_bank_starts_at_the_model_and_control_at_zero(tmp_path):
    server, first = opened(tmp_path, variables=BANKS), initial_arrays(SPEC, 0)
    assert same(from_variable("model", server.wire()), first)
    assert same(from_variable("fedavg", server.wire()), first)
    assert same(from_variable("control", server.wire()), {name: np.zeros_like(block) for name, block in first.items()})
    assert not same(from_variable("model", opened(tmp_path, seed=1).wire()), first)


def test_facts_count_the_model_once(tmp_path):
    facts = opened(tmp_path, variables=BANKS).facts
    size = sum(block.size for block in initial_arrays(SPEC, 0).values())
    assert facts == {"name": "UNet3d", "parameters": size, "fingerprint": fingerprint(SPEC)}


def test_a_step_is_the_rule(tmp_path):
    server = opened(tmp_path, Mean(0.5))
    before = dict(server.wire())
    server.step(mean_of(server, 2.0), 1.0, entry(0, 0.1))
    assert server.round == 1
    assert same(server.wire(), {name: block + np.float32(1.0) for name, block in before.items()})


def test_what_a_step_leads_to_is_known_before_it_is_taken(tmp_path):
    server = opened(tmp_path, FedAdam(0.01, 0.9, 0.99, 0.001))
    for round_ in range(2):
        before, mean = dict(server.wire()), mean_of(server, 0.5 - round_)
        expected = server.after(mean, 1.0)
        assert (server.round, len(states(tmp_path))) == (round_, round_), "nothing was changed or written"
        assert same(server.wire(), before)
        server.step(mean, 1.0, entry(round_, 0.1))
        assert same(server.wire(), expected)


def test_two_rounds_are_kept(tmp_path):
    server = opened(tmp_path)
    kept = []
    for round_ in range(4):
        server.step(mean_of(server, 0.1), 1.0, entry(round_, 0.1))
        kept.append(states(tmp_path))
    assert kept[0] == ["round-00001.npz"]
    assert kept[3] == ["round-00003.npz", "round-00004.npz"]


@pytest.mark.parametrize(
    "server_optimizer",
    [FedAdam(0.01, 0.9, 0.99, 0.001), FedYogi(0.01, 0.9, 0.99, 0.001), FedAvgM(0.5, 0.9)],
    ids=lambda one: type(one).__name__,
)
def test_a_resumed_server_is_the_server_that_lived(tmp_path, server_optimizer):
    """The server optimizer's moments are state too: the next round is the same, bit by bit."""
    lived = opened(tmp_path, server_optimizer, BANKS)
    for round_, dice in ((0, 0.1), (1, 0.4)):
        lived.step(mean_of(lived, 0.3 + round_), 1.0, entry(round_, dice))
    resumed = opened(tmp_path, server_optimizer, BANKS)
    assert (resumed.round, resumed.best, resumed.history, resumed.facts) == (2, lived.best, lived.history, lived.facts)
    for server in (lived, resumed):
        server.step(mean_of(server, -0.2), 0.5, entry(2, 0.2))
    assert same(lived.wire(), resumed.wire())


def averaged(folder, restarts=()):
    """Return a server after six rounds that add 1 and a little, begun again before the rounds in `restarts`."""

    def begun():
        final = FinalModel("mean_of_last_third", 6)
        return GlobalModel.open(folder, SPEC, Mean(1.0), BANKS, 0, PROMISE, None, final)

    held = begun()
    for round_ in range(6):
        held = begun() if round_ in restarts else held
        held.step(mean_of(held, 1.0 + 1e-3 * round_), 1.0, entry(round_, 0.1))
    return begun() if 6 in restarts else held


def test_the_mean_of_the_last_third_is_what_is_evaluated_and_written(tmp_path):
    """The models after rounds 5 and 6 lie 5.01 and 6.015 above the first one."""
    held, first = averaged(tmp_path / "state"), initial_arrays(SPEC, 0)
    model, control = (from_variable(variable, held.final()) for variable in ("model", "control"))
    for name, block in first.items():
        np.testing.assert_allclose(model[name], block + 5.5125, atol=2e-6)
        np.testing.assert_allclose(control[name], 5.5125, atol=2e-6)
        np.testing.assert_allclose(held.wire()[f"model:{name}"], block + 6.015, atol=2e-6)
    held.finish(0.9, tmp_path)
    for file in ("final_model.npz", "best_model.npz"):
        assert same(checkpoint.load(tmp_path / file)[0], model), "its score is the best, and it is what was evaluated"


@pytest.mark.parametrize("restarts", [(4,), (5,), (6,), range(7)], ids=str)
def test_the_mean_of_the_last_third_survives_restarts(tmp_path, restarts):
    whole, broken = averaged(tmp_path / "whole"), averaged(tmp_path / "broken", restarts)
    assert same(whole.final(), broken.final())
    assert same(whole.wire(), broken.wire())


def test_the_state_of_another_job_is_refused(tmp_path):
    server = opened(tmp_path)
    server.step(mean_of(server, 0.1), 1.0, entry(0, 0.1))
    with pytest.raises(RoundRefused, match="another job") as caught:
        opened(tmp_path, promise=PROMISE | {"lr": 0.1})
    assert caught.value.found == "other settings for lr"


def test_the_state_of_another_network_is_refused(tmp_path):
    server = opened(tmp_path)
    server.step(mean_of(server, 0.1), 1.0, entry(0, 0.1))
    with pytest.raises(ModelRefused, match="another architecture"):
        GlobalModel.open(tmp_path, UNet3d((4, 4)), Mean(1.0), ["model"], 0, PROMISE)


def test_the_best_model_is_the_one_that_was_evaluated(tmp_path):
    """val_score of round r belongs to the model BEFORE the step of round r."""
    out, server, before = tmp_path / "out", opened(tmp_path / "state"), {}
    for round_, dice in enumerate((0.2, 0.6, 0.3)):
        before[round_] = dict(server.wire())
        server.step(mean_of(server, 0.1), 1.0, entry(round_, dice))
    server.finish(0.5, out)
    assert server.best == {"round": 1, "val_score": 0.6}
    best, meta = checkpoint.load(out / "best_model.npz", fingerprint(SPEC))
    assert same(best, from_variable("model", before[1]))
    assert (meta["round"], meta["val_score"]) == (1, 0.6)
    final, meta = checkpoint.load(out / "final_model.npz", fingerprint(SPEC))
    assert same(final, from_variable("model", server.wire()))
    assert (meta["round"], meta["val_score"]) == (3, 0.5)


def test_the_final_model_can_be_the_best(tmp_path):
    server = opened(tmp_path)
    server.step(mean_of(server, 0.1), 1.0, entry(0, 0.2))
    server.finish(0.9, tmp_path)
    best, meta = checkpoint.load(tmp_path / "best_model.npz")
    assert same(best, from_variable("model", server.wire()))
    assert meta["round"] == 1


def test_without_a_judgement_the_final_model_is_written_all_the_same(tmp_path):
    server = opened(tmp_path)
    server.step(mean_of(server, 0.1), 1.0, entry(0, 0.2))
    server.finish(None, tmp_path)
    assert server.best == {"round": 0, "val_score": 0.2}
    assert checkpoint.load(tmp_path / "final_model.npz")[1]["val_score"] is None


def test_a_saved_model_can_be_rebuilt_and_says_its_patch(tmp_path):
    server = opened(tmp_path)
    server.finish(0.5, tmp_path)
    _, meta = checkpoint.load(tmp_path / "final_model.npz")
    assert rebuild(meta["model"], "here") == SPEC
    assert meta["patch"] == [16, 16, 8]
    assert patch_of({}) is None


def test_only_this_architecture_and_these_blocks_fit(tmp_path):
    server = opened(tmp_path)
    name, block = next(iter(server.wire().items()))
    good, only = fingerprint(SPEC), {name}
    server.require_fits("site-1", good, {name: block}, only)
    with pytest.raises(ModelRefused, match="site-1"):
        server.require_fits("site-1", "0" * 16, {name: block}, only)
    with pytest.raises(RoundRefused, match="site-1"):
        server.require_fits("site-1", good, {name: block, "model:other": block}, only)
    with pytest.raises(RoundRefused, match="shape"):
        server.require_fits("site-1", good, {name: block[..., None]}, only)


def test_the_columns_of_the_record_go_with_the_weights(tmp_path):
    from wardround.data.ehr_text import words_of
    from wardround.synthetic.phantom_ehr import COLUMNS
    from wardround.training.prediction import read_weights

    spec = UNet3d((4, 8), ehr_columns=len(COLUMNS.features))
    promise = PROMISE | {"sampling.columns": words_of(COLUMNS)}
    GlobalModel.open(tmp_path / "state", spec, Mean(1.0), ["model"], 0, promise).finish(0.5, tmp_path)
    for name in ("final_model.npz", "state/best_model.npz"):
        assert read_weights(tmp_path / name).table == COLUMNS


def test_an_update_holds_what_travels(tmp_path):
    server, good = opened(tmp_path, variables=BANKS), fingerprint(SPEC)
    whole = dict(server.wire())
    travels = server.travelling([])
    assert travels == whole.keys()
    server.require_fits("site-1", good, whole, travels)
    for left_out in whole:
        part = {key: block for key, block in whole.items() if key != left_out}
        with pytest.raises(RoundRefused, match="lacks blocks"):
            server.require_fits("site-1", good, part, travels)


def test_what_stays_home_by_its_role_does_not_travel(tmp_path):
    """The algorithm's own variables only: a rival beside it is FedAvg, and travels whole."""
    server = opened(tmp_path, variables=BANKS)
    roles = block_roles(SPEC.build(0))
    norms = {name for name, role in roles.items() if role == "norm"}
    assert norms
    lacking = server.wire().keys() - server.travelling(["norm"])
    assert lacking == {f"{variable}:{name}" for variable in ("model", "control") for name in norms}
    with pytest.raises(RoundRefused):
        server.require_fits("site-1", fingerprint(SPEC), dict(server.wire()), server.travelling(["norm"]))


def said(kind, phantoms):
    return {
        "label_kind": kind,
        "phantoms": phantoms,
        "modalities": {"t1": 3, "flair": 0},
        "cases": {"train": 6, "val": 2, "test": 2},
    }


def trained(folder, num_rounds):
    """Return what final_model.npz says after rounds of {site: facts}; a site in `left` did not get into the sum."""
    server = opened(folder / "state")
    for number, (facts, left) in enumerate(num_rounds):
        told = {"facts": facts, "aggregated": sorted(set(facts) - set(left))}
        server.step(mean_of(server, 0.0), 1.0, entry(number, 0.1 + number) | told)
    server.finish(9.0, folder / "out")
    return [checkpoint.load(folder / "out" / name)[1] for name in ("final_model.npz", "best_model.npz")]


@pytest.mark.parametrize(
    ("facts", "kind", "data", "sites"),
    [
        (
            {"a": said("whole_tumour", False), "b": said("whole_tumour", False)},
            "whole_tumour",
            "patients",
            {"patients": 2},
        ),
        ({"a": said("whole_tumour", True), "b": said("brats", True)}, "brats", "phantoms", {"phantoms": 2}),
        ({"a": said("brats", True), "b": said("brats", False)}, "brats", "mixed", {"phantoms": 1, "patients": 1}),
        ({"a": {}, "b": said("whole_tumour", False)}, "whole_tumour", "unknown", {"patients": 1, "unknown": 1}),
    ],
)
def test_shared_models_say_what_they_were_trained_on_and_which_regions(tmp_path, facts, kind, data, sites):
    for meta in trained(tmp_path, [(facts, ())]):
        assert meta["label_kind"] == kind
        assert meta["trained_on"] == {"data": data, "sites": sites}
        assert meta["card"]["hospitals"] == 2


def test_only_hospitals_whose_updates_count_have_a_say(tmp_path):
    facts = {"a": said("whole_tumour", False), "b": said("brats", True)}
    for meta in trained(tmp_path, [(facts, ["b"]), (facts, ["b"])]):
        assert meta["label_kind"] == "whole_tumour"
        assert meta["trained_on"] == {"data": "patients", "sites": {"patients": 1}}
        assert meta["card"]["patients"] == {"train": 6, "val": 2, "test": 2}
        assert meta["card"]["sequences"] == {"t1": 1}
    silent = {"a": said("brats", False) | {"cases": None}}
    assert trained(tmp_path / "dp", [(silent, ())])[0]["card"]["patients"] is None


def test_first_weights_were_trained_on_nothing(tmp_path):
    server = opened(tmp_path / "state")
    server.step(mean_of(server, 1.0), 1.0, entry(0, 0.9) | {"facts": {"a": said("brats", True)}, "aggregated": ["a"]})
    server.finish(0.1, tmp_path / "out")
    best = checkpoint.load(tmp_path / "out" / "best_model.npz")[1]
    assert best["trained_on"] == {"data": "nothing", "sites": {}}
    assert best["label_kind"] == "brats"


def test_hospitals_that_do_not_tell_small_numbers_end_with_a_model_too(tmp_path):
    """Under five patients a number stays at the hospital: a sum without it would be false, so the card holds none."""
    small = said("brats", False) | {"cases": {"train": 9, "val": None, "test": None}}
    for meta in trained(tmp_path, [({"a": said("brats", False), "b": small}, ())]):
        assert meta["card"]["patients"] == {"train": 15, "val": None, "test": None}
        assert meta["card"]["hospitals"] == 2


def test_what_an_aggregation_remembers_is_written_with_the_round(tmp_path):
    """Numbers and arrays; what it noted in a round that was never done is not there after a restart."""
    lived = opened(tmp_path)
    lived.memory["median_norm"] = 0.1 + 0.2
    lived.memory["point"] = np.arange(3, dtype=np.float32)
    lived.step(mean_of(lived, 0.1), 1.0, entry(0, 0.1))
    lived.memory["median_norm"] = 7.0
    resumed = opened(tmp_path)
    assert resumed.memory["median_norm"] == 0.1 + 0.2
    np.testing.assert_array_equal(resumed.memory["point"], np.arange(3))
    assert resumed.wire().keys() == lived.wire().keys()
