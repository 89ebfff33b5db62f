"""--set final_model=...: the server of a plaintext job and the sites of a secure sum form the same final model."""

import pytest

from wardround.core.errors import ConfigRefused
from wardround.flare.job_settings import require_same
from wardround.jobs import folder, recipes
from wardround.jobs.building import require_buildable

MEAN = "final_model=mean_of_last_third"


@pytest.mark.parametrize(
    ("name", "at_server"), [("brats_fedavg", True), ("brats_dp_patient", True), ("brats_fedavg_secagg", False)]
)
def test_the_setting_stands_where_the_model_is(name, at_server):
    made = recipes.job(name, [MEAN, "num_rounds=6"])
    require_buildable(made)
    server, client = folder.server_config(made), folder.client_config(made)
    mode = server["workflows"][0]["args"]["mode"]["args"]
    assert mode.get("final_model") == ("mean_of_last_third" if at_server else None)
    schedule = client["executors"][0]["executor"]["args"]["schedule"]["args"]
    assert schedule["final_model"] == server["workflows"][0]["args"]["about"]["final_model"] == "mean_of_last_third"
    require_same(server, client)


def test_a_server_that_ends_with_another_model_than_the_report_says_is_refused():
    made = recipes.job("brats_fedavg", [MEAN])
    server, client = folder.server_config(made), folder.client_config(made)
    server["workflows"][0]["args"]["mode"]["args"]["final_model"] = "last"
    with pytest.raises(ConfigRefused, match="final_model"):
        require_same(server, client)


def test_another_final_model_is_refused_when_a_job_is_printed():
    with pytest.raises(ConfigRefused, match="final_model=last"):
        require_buildable(recipes.job("brats_fedavg", ["final_model=mean"]))
