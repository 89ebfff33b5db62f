"""Curves at the server: the receivers of a job, and one of them fed with what our sites stream."""

import pytest
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.fl_constant import FLContextKey, ProcessType, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.widgets.streaming import create_analytic_dxo

from wardround.core.errors import ConfigRefused
from wardround.jobs import recipes
from wardround.jobs.folder import server_config
from wardround.jobs.tracking import RECEIVERS, receivers


def test_tensorboard_is_there_by_default_in_every_job_of_ours():
    for name in recipes.names():
        made = recipes.job(name)
        assert RECEIVERS["tensorboard"] in [one["path"] for one in server_config(made)["components"]]


@pytest.mark.parametrize("tracking", ["[mlflow]", "[tensorboard, mlflow]", "[]"])
def test_receivers_are_a_setting(tracking):
    made = recipes.job("brats_fedavg", [f"federation.tracking={tracking}"])
    assert [one["id"] for one in receivers(made)] == [name.strip() for name in tracking.strip("[]").split(",") if name]


@pytest.mark.parametrize(
    "settings",
    [
        ["federation.tracking=[wandb]"],
        ["federation.tracking=tensorboard"],
        ["federation.tracking=[mlflow, mlflow]"],
        ["federation.mlflow_uri=http://tracker:5000"],
        ["federation.tracking=[mlflow]", "federation.mlflow_uri=3"],
    ],
)
def test_another_tracking_is_refused(settings):
    with pytest.raises(ConfigRefused, match="tracking"):
        receivers(recipes.job("brats_fedavg", settings))


class Engine:
    def __init__(self, root):
        self.root = root

    def get_workspace(self):
        return self

    def get_run_dir(self, job_id):
        return str(self.root)

    def get_clients(self):
        return [type("Client", (), {"name": site}) for site in ("site-1", "site-2")]


def test_mlflow_gets_one_curve_per_site(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    from nvflare.app_opt.tracking.mlflow.mlflow_receiver import MLflowReceiver

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    job = recipes.job("brats_fedavg", ["federation.tracking=[mlflow]", f"federation.mlflow_uri={uri}"])
    (made,) = receivers(job)
    receiver, fl_ctx = MLflowReceiver(**made["args"]), FLContext()
    fl_ctx.set_prop(ReservedKey.ENGINE, Engine(tmp_path), private=True, sticky=False)
    fl_ctx.set_prop(ReservedKey.RUN_NUM, "a-job", private=False, sticky=False)
    fl_ctx.set_prop(FLContextKey.PROCESS_TYPE, ProcessType.SERVER_JOB, private=True, sticky=False)
    receiver.initialize(fl_ctx)
    for site, values in {"site-1": (0.1, 0.3), "site-2": (0.2, 0.6)}.items():
        for round_, value in enumerate(values):
            dxo = create_analytic_dxo("val_score", value, AnalyticsDataType.SCALAR, global_step=round_)
            receiver.save(fl_ctx, dxo.to_shareable(), site)
    receiver.finalize(fl_ctx)
    client = mlflow.tracking.MlflowClient(uri)
    found = {}
    for run in client.search_runs([client.get_experiment_by_name("brats_fedavg").experiment_id]):
        points = client.get_metric_history(run.info.run_id, "val_score")
        found[run.info.run_name.split("-a-job")[0]] = [(point.step, point.value) for point in points]
    assert found == {"site-1": [(0, 0.1), (1, 0.3)], "site-2": [(0, 0.2), (1, 0.6)]}
