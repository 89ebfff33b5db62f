"""The two configs of a job whose encryption is done by NVFlare's own CKKS components. Pure; same shape as folder.py's.

Server: ScatterAndGather with the HE aggregator, generator and serialiser, then HECrossSiteModelEval, which sends the final
model once more so that every site judges it. Site: our trainer and exit between NVFlare's decryptor and encryptor.
"""

from __future__ import annotations

from wardround.errors import ConfigRefused
from wardround.jobs.recipes import Job, Json
from wardround.jobs.words import words

HE, OURS = "nvflare.app_opt.he", "wardround.flare.stock_ckks"
SITE_FILE, SERVER_FILE = "client_context.tenseal", "server_context.tenseal"
WHOLE_MODEL = ("fedavg.FedAvg", "fedprox.FedProx", "per_fedavg.PerFedAvg")
MEAN = {"path": "wardround.algorithms.rules.Mean", "args": {"server_lr": 1.0}}


def require_possible(job: Job) -> None:
    """Raise ConfigRefused unless the job is one that NVFlare's components can do: the plain mean of one whole model."""
    algorithm = job.algorithm["site"]["path"].removeprefix("wardround.algorithms.")
    if algorithm not in WHOLE_MODEL or job.rule != MEAN or job.banks != ["model"] or job.sharing["args"]:
        raise ConfigRefused(
            f"job {job.name} under NVFlare's CKKS components",
            found=f"{algorithm} with {job.rule['path'].rpartition('.')[2]} {job.rule['args']}, banks {job.banks}",
            expected=f"one of {', '.join(WHOLE_MODEL)}, rule Mean with server_lr 1, no rival",
            fix="`--set rival=false`, another algorithm, or another privacy fragment",
        )


def server_config(job: Job) -> Json:
    """Return config_fed_server.json.

    a site that answers with an error ends the run (ignore_result_error false); one that does not answer is waited for
    `round_timeout_s` twice at most: for the first `min_sites` answers, then for the others
    a job that these components cannot do: ConfigRefused
    """
    require_possible(job)
    timeout_s, here = job.federation["round_timeout_s"], {"tenseal_context_file": SERVER_FILE}
    rounds = {
        "min_clients": job.federation["min_sites"],
        "num_rounds": job.schedule["rounds"],
        "start_round": 0,
        "wait_time_after_min_received": timeout_s,
        "aggregator_id": "aggregator",
        "persistor_id": "persistor",
        "shareable_generator_id": "shareable_generator",
        "train_task_name": "train",
        "train_timeout": timeout_s,
        "ignore_result_error": False,
        "allow_empty_global_weights": False,
        "task_check_period": 0.1,
        "persist_every_n_rounds": 1,
        "snapshot_every_n_rounds": 1,
        "memory_gc_rounds": 1,
        "enable_tensor_disk_offload": False,
    }
    judgement = {
        **here,
        "task_check_period": 0.1,
        "cross_val_dir": "judgement",
        "submit_model_timeout": timeout_s,
        "validation_timeout": timeout_s,
        "model_locator_id": "final_model",
        "formatter_id": "",
        "submit_model_task_name": "",
        "validation_task_name": "finish",
        "cleanup_models": False,
        "participating_clients": None,
        "wait_for_clients_timeout": 300,
    }
    aggregator: Json = {
        "exclude_vars": None,
        "aggregation_weights": {},
        "expected_data_kind": "WEIGHT_DIFF",
        "weigh_by_local_iter": False,
    }
    model = {"model": job.task["model"], "seed": job.task["seed"], "filter_id": "serializer"}
    return {
        "format_version": 2,
        "server": {"heart_beat_timeout": 600, "task_request_interval": job.federation["task_request_interval_s"]},
        "task_data_filters": [],
        "task_result_filters": [],
        "components": [
            _keys(SERVER_FILE),
            {"id": "serializer", "path": f"{HE}.model_serialize_filter.HEModelSerializeFilter", "args": here},
            {"id": "persistor", "path": f"{OURS}.SeededModel", "args": model},
            {
                "id": "shareable_generator",
                "path": f"{HE}.model_shareable_generator.HEModelShareableGenerator",
                "args": here,
            },
            {
                "id": "aggregator",
                "path": f"{HE}.intime_accumulate_model_aggregator.HEInTimeAccumulateWeightedAggregator",
                "args": aggregator,
            },
            {"id": "final_model", "path": f"{OURS}.FinalModel", "args": {}},
        ],
        "workflows": [
            {
                "id": "rounds",
                "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
                "args": rounds,
            },
            {"id": "judgement", "path": f"{HE}.cross_site_model_eval.HECrossSiteModelEval", "args": judgement},
        ],
    }


def client_config(job: Job) -> Json:
    """Return config_fed_client.json: the trainer of every job, our exit, then NVFlare's encryptor and the seal."""
    require_possible(job)
    tasks, here = ["train", "finish"], {"tenseal_context_file": SITE_FILE}
    incoming = [
        {
            "path": f"{HE}.model_decryptor.HEModelDecryptor",
            "args": {**here, "data_kinds": ["WEIGHTS", "WEIGHT_DIFF"]},
        },
        {"path": f"{OURS}.FromStock", "args": {"model": job.task["model"], "rounds": job.schedule["rounds"]}},
    ]
    exit_args = {"mechanism": job.privacy["mechanism"], "words": words(job)}
    release = {"path": "wardround.flare.release.Release", "args": exit_args}
    encryptor: Json = {
        **here,
        "encrypt_layers": None,
        "aggregation_weights": {},
        "weigh_by_local_iter": True,
        "data_kinds": ["WEIGHTS", "WEIGHT_DIFF"],
    }
    sealing = [
        {"path": f"{OURS}.ToStock", "args": {}},
        {"path": f"{HE}.model_encryptor.HEModelEncryptor", "args": encryptor},
        {"path": f"{OURS}.OnlyCiphertexts", "args": {}},
    ]
    return {
        "format_version": 2,
        "executors": [{"tasks": tasks, "executor": {"path": "wardround.flare.site.SiteTrainer", "args": job.trainer}}],
        "task_data_filters": [{"tasks": tasks, "filters": incoming}],
        "task_result_filters": [
            {"tasks": ["train"], "filters": [release, *sealing]},
            {"tasks": ["finish"], "filters": [release]},
        ],
        "components": [_keys(SITE_FILE)],
    }


def _keys(context_file: str) -> Json:
    ckks = {"poly_modulus_degree": 8192, "coeff_mod_bit_sizes": [60, 40, 40], "scale_bits": 40}
    return {
        "id": "keys",
        "path": "wardround.flare.stock_keys.StockKeys",
        "args": {"context_file": context_file, **ckks},
    }
