"""The printed configs of a stock CKKS job: everything named, everything there, the filters in the order that protects."""

import importlib
import inspect
import json
from dataclasses import replace

import pytest
import yaml
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
from nvflare.lighter.impl.he import HEBuilder

from wardround.errors import ConfigRefused
from wardround.flare import stock_keys
from wardround.jobs import recipes, stock

RELEASE, OURS = "wardround.flare.release.Release", "wardround.flare.stock_ckks"


@pytest.fixture
def job(repository):
    privacy = yaml.safe_load((repository / "app_configs/privacy/stock_ckks.yaml").read_text())
    made = recipes.job("brats_fedavg", ["rounds=5", "model.channels=[4,8]"], ["DU", "HT", "FG"])
    return replace(made, name="brats_fedavg_ckks", privacy=privacy)


def named(value):
    if isinstance(value, list):
        return [one for part in value for one in named(part)]
    if isinstance(value, dict):
        return ([value] if "path" in value else []) + [one for part in value.values() for one in named(part)]
    return []


def cls(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def built(value):
    """Build what a config names, as NVFlare does."""
    if isinstance(value, dict) and "path" in value:
        return cls(value["path"])(**{key: built(part) for key, part in value["args"].items()})
    return [built(part) for part in value] if isinstance(value, list) else value


def components(config):
    return {one["id"]: one for one in config["components"]}


def test_both_configs_are_json(job):
    for config in (stock.server_config(job), stock.client_config(job)):
        assert json.loads(json.dumps(config)) == config


def test_every_class_exists_and_every_argument_is_said(job):
    """A default of NVFlare that changes later changes nothing here; the rival is the one thing this job cannot have."""
    for config in (stock.server_config(job), stock.client_config(job)):
        for one in named(config):
            inspect.signature(cls(one["path"])).bind(**one["args"])
            missing = set(inspect.signature(cls(one["path"])).parameters) - set(one["args"])
            known = {
                "UNet3d": {"residual_units", "norm", "dropout"},
                "SiteTrainer": {"rival", "dp"},
                "Sampling": {"columns"},
            }
            assert missing <= known.get(one["path"].rpartition(".")[2], set()), one["path"]


def test_every_component_can_be_built(job):
    for config in (stock.server_config(job), stock.client_config(job)):
        for one in named(config):
            assert isinstance(built(one), cls(one["path"]))


def test_the_exit_comes_first_then_the_encryptor_and_the_seal(job):
    train, finish = stock.client_config(job)["task_result_filters"]
    assert (train["tasks"], finish["tasks"]) == (["train"], ["finish"])
    encryptor = f"{HEModelEncryptor.__module__}.HEModelEncryptor"
    paths = [one["path"] for one in train["filters"]]
    assert paths == [RELEASE, f"{OURS}.ToStock", encryptor, f"{OURS}.OnlyCiphertexts"]
    assert [one["path"] for one in finish["filters"]] == [RELEASE]
    assert train["filters"][0] == finish["filters"][0]


def test_all_layers_are_encrypted_and_weighed_once(job):
    """The site weighs before it encrypts, so the server must not weigh again."""
    (encryptor,) = (one for one in named(stock.client_config(job)) if one["path"].endswith(".HEModelEncryptor"))
    assert encryptor["args"]["encrypt_layers"] is None
    assert encryptor["args"]["weigh_by_local_iter"] is True
    aggregator = components(stock.server_config(job))["aggregator"]["args"]
    assert aggregator["weigh_by_local_iter"] is False
    assert aggregator["expected_data_kind"] == "WEIGHT_DIFF"


def test_tasks_are_named(job):
    config = stock.client_config(job)
    (executor,), (incoming,) = config["executors"], config["task_data_filters"]
    assert executor["tasks"] == incoming["tasks"] == ["train", "finish"]
    rounds, judgement = stock.server_config(job)["workflows"]
    assert [rounds["args"]["train_task_name"], judgement["args"]["validation_task_name"]] == ["train", "finish"]
    assert judgement["args"]["submit_model_task_name"] == ""
    assert "*" not in json.dumps(config)


def test_both_sides_agree(job):
    server, client = stock.server_config(job), stock.client_config(job)
    trainer = client["executors"][0]["executor"]["args"]
    model, rounds = components(server)["persistor"]["args"], server["workflows"][0]["args"]
    assert model["model"] == trainer["model"] == client["task_data_filters"][0]["filters"][1]["args"]["model"]
    assert model["seed"] == trainer["seed"]
    assert rounds["num_rounds"] == trainer["schedule"]["args"]["rounds"] == 5
    assert client["task_data_filters"][0]["filters"][1]["args"]["rounds"] == 5


def test_every_id_that_is_named_is_there(job):
    server = stock.server_config(job)
    rounds, judgement = (one["args"] for one in server["workflows"])
    ids = {rounds[key] for key in rounds if key.endswith("_id")} | {judgement["model_locator_id"]}
    assert ids | {"serializer", "keys"} == set(components(server))
    assert components(server)["persistor"]["args"]["filter_id"] == "serializer"


def test_the_keys_come_first_on_the_server(job):
    """Components hear START_RUN in this order, and all others read their context then."""
    assert stock.server_config(job)["components"][0]["id"] == "keys"


def test_each_side_reads_its_own_file(job):
    assert (stock.SITE_FILE, stock.SERVER_FILE) == (stock_keys.SITE_FILE, stock_keys.SERVER_FILE)
    assert stock.SITE_FILE not in json.dumps(stock.server_config(job))
    assert stock.SERVER_FILE not in json.dumps(stock.client_config(job))


def test_the_simulators_keys_are_as_strong_as_provisioned_ones(job):
    usual = HEBuilder()
    for config in (stock.server_config(job), stock.client_config(job)):
        args = components(config)["keys"]["args"]
        assert args["poly_modulus_degree"] == usual.poly_modulus_degree
        assert args["coeff_mod_bit_sizes"] == usual.coeff_mod_bit_sizes
        assert args["scale_bits"] == usual.scale_bits


def test_a_lost_site_ends_the_run(job):
    args = stock.server_config(job)["workflows"][0]["args"]
    assert args["ignore_result_error"] is False
    assert args["min_clients"] == job.federation["min_sites"]
    assert args["train_timeout"] == job.federation["round_timeout_s"]


def test_no_path_and_no_address_is_in_the_configs(job):
    text = json.dumps([stock.server_config(job), stock.client_config(job)])
    assert "/" not in text


@pytest.mark.parametrize(
    ("name", "settings", "possible"),
    [
        ("brats_fedprox", ["rival=false"], True),
        ("brats_perfedavg", ["rival=false"], True),
        ("brats_perfedavg", [], False),
        ("brats_scaffold", ["rival=false"], False),
        ("brats_fedopt", ["rival=false"], False),
        ("brats_fedbn", ["rival=false"], False),
        ("brats_fedrep", ["rival=false"], False),
        ("brats_ditto", ["rival=false"], False),
        ("brats_fedavg", ["rule.server_lr=0.5"], False),
    ],
)
def test_what_the_stock_components_cannot_do_is_refused(name, settings, possible, job):
    other = replace(recipes.job(name, settings), privacy=job.privacy)
    for config in (stock.server_config, stock.client_config):
        if possible:
            assert config(other)
            continue
        with pytest.raises(ConfigRefused, match="CKKS"):
            config(other)
