"""Who takes part and how long the server waits is checked before anything is written or started."""

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.jobs import recipes
from wardround.jobs.building import require_buildable


@pytest.mark.parametrize("name", recipes.names())
def test_every_job_can_run_with_its_sites_and_with_everybody(name):
    require_buildable(recipes.job(name))
    require_buildable(recipes.job(name, sites=["@ALL"]))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("federation.min_clients=0", "1 or more"),
        ("federation.min_clients=2.5", "a whole number"),
        ("federation.min_clients=true", "a whole number"),
        ("federation.round_timeout_s=-5", "whole seconds"),
        ("federation.step_timeout_s=-1", "whole seconds"),
        ("federation.sites=[a,a]", "different names"),
        ("federation.sites=[../x,b]", "different names"),
        ("federation.sites=[server,b]", "none of them `server`"),
        ("federation.sites=['@ALL',b]", "@ALL alone"),
        ("federation.sites=[]", "different names"),
        (f"federation.sites=[{'x' * 101},b]", "different names"),
        ("federation.task_request_interval_s=.nan", "0.01 to 3600"),
        ("federation.task_request_interval_s=0", "0.01 to 3600"),
        ("task.seed=1e23", "a whole number, 0 or more"),
        ("task.seed=-1", "a whole number, 0 or more"),
    ],
)
def test_a_federation_that_cannot_run_is_refused_and_nothing_is_written(setting, words, tmp_path, capsys):
    with pytest.raises(ConfigRefused, match=words):
        require_buildable(recipes.job("brats_fedavg", [setting]))
    assert main(["jobs", "write", "brats_fedavg", "--out", str(tmp_path), "--set", setting]) != 0
    assert words in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
