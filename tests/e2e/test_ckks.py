"""One simulator run under NVFlare's CKKS components, beside the same work done in the clear in this process."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from wardround.arrays import digest, in_bank
from wardround.jobs import folder, recipes, stock

SITES = ("site-1", "site-2", "site-3")
TINY = (
    *("model.channels=[4,8]", "rounds=2", "work=4", "sampling.patch=[16,16,16]", "judging.steps=[0,1]"),
    *("phantoms.patients=6", "phantoms.shape=[24,24,24]"),
)
ERROR = 1e-5  # found: 1e-7; the second round starts from weights that differ by that much, and training can spread it

# Stands in the job's own folder: writes down what the server gets, before anything is done with it.
SPY = """
import json
from pathlib import Path

from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType


class Spy(FLComponent):
    def handle_event(self, event_type, fl_ctx):
        if event_type == AppEventType.BEFORE_CONTRIBUTION_ACCEPT:
            dxo = from_shareable(fl_ctx.get_prop(AppConstants.TRAINING_RESULT))
            line = {
                "kinds": sorted({type(block).__name__ for block in dxo.data.values()}),
                "blocks": sorted(dxo.data),
                "secret": any(block.context().is_private() for block in dxo.data.values() if hasattr(block, "context")),
                "meta": {key: value for key, value in dxo.meta.items() if isinstance(value, (int, float, str))},
            }
            place = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id()))
            with (place / "spy.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\\n")
"""


@pytest.fixture(scope="module")
def job(repository):
    privacy = yaml.safe_load((repository / "app_configs/privacy/stock_ckks.yaml").read_text())
    return replace(recipes.job("brats_fedavg", TINY, SITES), name="brats_fedavg_ckks", privacy=privacy)


@pytest.fixture(scope="module")
def ckks(simulator, job):
    """Three hospitals, one process each, no key prepared."""
    place = folder.write(job, simulator.root / "ckks_job" / job.name)
    server = folder.server_config(job)
    server["components"].append({"id": "spy", "path": "ckks_spy.Spy", "args": {}})
    for side, config in (("server", server), ("client", folder.client_config(job))):
        (place / f"app/config/config_fed_{side}.json").write_text(json.dumps(config))
    (place / "app/custom/ckks_spy.py").write_text(SPY)
    return simulator.run(place, "ckks", len(SITES))


def built(value):
    """Build what a config names, as NVFlare does."""
    if not isinstance(value, dict) or "path" not in value:
        return value
    module, _, name = value["path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**{key: built(part) for key, part in value["args"].items()})


@pytest.fixture(scope="module")
def in_the_clear(job, tmp_path_factory):
    """The job's rounds on the same phantoms without NVFlare: (each site's updates, weights after every round)."""
    import torch

    from wardround.hospital.global_model import initial_arrays
    from wardround.hospital.rounds import Hospital

    torch.set_num_threads(1)
    args = stock.client_config(job)["executors"][0]["executor"]["args"]
    settings = SimpleNamespace(**{key: built(value) for key, value in args.items()}, rival=None, private=None)
    hospitals = {}
    for site in SITES:
        place = tmp_path_factory.mktemp(site)
        (place / "states").mkdir()
        hospitals[site] = Hospital.open(
            site, place, place / "states", simulator=True, settings=settings, say=lambda text: None
        )
    weights = in_bank("model", initial_arrays(settings.model, settings.seed))
    updates, models = {site: [] for site in SITES}, []
    for round_ in range(settings.schedule.rounds):
        for site, hospital in hospitals.items():
            hospital.validate(weights, round_)
            updates[site].append(hospital.train(weights, round_)[0])
        total = sum(hospital.weight for hospital in hospitals.values())
        weights = {
            name: (
                block + sum(hospital.weight * updates[site][-1][name] for site, hospital in hospitals.items()) / total
            ).astype(np.float32)
            for name, block in weights.items()
        }
        models.append(weights)
    return updates, models


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def context_of(path):
    from nvflare.app_opt.he.decomposers import ts

    return ts.context_from(path.read_bytes())


def final_model(run):
    """Decrypt the server's model with a site's key: block name -> flat values."""
    from nvflare.app_opt.he.decomposers import ts

    secret = context_of(run.workspace / "site-1/startup/client_context.tenseal")
    with np.load(run.server / "wardround/encrypted_model.npz") as kept:
        return {name: np.array(ts.ckks_vector_from(secret, kept[name].tobytes()).decrypt()) for name in kept.files}


def test_it_runs_without_any_preparation(ckks):
    assert ckks.code == 0, ckks.said[-4000:]
    assert "ERROR" not in ckks.said
    log = (ckks.workspace / "server" / "log.txt").read_text(
        encoding="utf-8"
    )  # the console leaves NVFlare's own lines out
    assert log.count("ACCEPTED by the aggregator") == 2 * len(SITES)


def test_what_arrives_at_the_server_is_encrypted(ckks, in_the_clear):
    _, models = in_the_clear
    seen = lines(ckks.server / "spy.jsonl")
    assert len(seen) == 2 * len(SITES)
    for message in seen:
        assert message["kinds"] == ["CKKSVector"]
        assert message["secret"] is False
        assert message["blocks"] == sorted(models[-1])
        assert set(message["meta"]) == {"NUM_STEPS_CURRENT_ROUND", "PROCESSED_ALGORITHM"}


def test_the_final_model_is_the_weighted_mean_of_what_the_sites_released(ckks, in_the_clear):
    """The receipts prove that the clear run's first updates are the released ones, bit by bit."""
    updates, models = in_the_clear
    for site in SITES:
        first, *_ = (line for line in lines(ckks.site(site) / "wardround/releases.jsonl") if line["task"] == "train")
        assert first["sha256"] == digest(updates[site][0])
    found = final_model(ckks)
    assert set(found) == set(models[-1])
    assert max(np.abs(found[name] - models[-1][name].ravel()).max() for name in found) < ERROR
    assert max(np.abs(found[name] - models[0][name].ravel()).max() for name in found) > 10 * ERROR


def test_the_server_holds_no_secret_key(ckks):
    places = [ckks.workspace / "startup", ckks.workspace / "server"]
    found = [path for place in places for path in place.rglob("*.tenseal")]
    assert {path.name for path in found} == {"server_context.tenseal"}
    assert [path for path in found if context_of(path).is_private()] == []


def test_every_site_holds_the_one_key(ckks):
    files = [ckks.workspace / site / "startup/client_context.tenseal" for site in SITES]
    assert len({path.read_bytes() for path in files}) == 1
    assert context_of(files[0]).is_private()


def test_every_site_judged_the_final_model(ckks):
    from nvflare.apis.dxo import from_file

    from wardround.flare import wire

    for site in SITES:
        scores = wire.read_scores(
            from_file(ckks.server / f"judgement/result_shareables/{site}_SRV_final").to_shareable()
        )
        assert set(scores["candidates"]) == {"local", "fedavg", "fedavg_finetuned"}
        assert (ckks.site(site) / "wardround/site_report.html").is_file()
        assert [line["task"] for line in lines(ckks.site(site) / "wardround/releases.jsonl")] == [
            "train",
            "train",
            "finish",
        ]


def test_no_log_shows_the_range_of_the_values(ckks):
    words = "\n".join([ckks.said, *(ckks.words_of(party) for party in (*SITES, "server"))])
    assert "value range" not in words


def test_nothing_but_the_judgement_is_in_the_clear_on_the_server(ckks, in_the_clear):
    """No file of the server holds an update's bytes."""
    updates, _ = in_the_clear
    needles = [max(updates[site][0].values(), key=np.size).tobytes()[:64] for site in SITES]
    for path in Path(ckks.workspace / "server").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path.name
