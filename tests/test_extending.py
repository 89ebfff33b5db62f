"""docs/extending.md, followed line by line: its files are written, its commands run, and what they print is built."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_round
from wardround.cli.main import main
from wardround.core.arrays import Layout
from wardround.jobs import fragments, job_classes

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
CLIENT = "app/config/config_fed_client.json"


class Slope:
    """An oracle whose gradient is 1 everywhere."""

    def sample(self, count: int) -> tuple[int, ...]:
        return tuple(range(count))

    def value_and_grad(self, w: torch.Tensor, batch: Any) -> tuple[float, torch.Tensor]:
        return 0.0, torch.ones_like(w)


def merged(before: Any, change: Any) -> Any:
    if not isinstance(before, dict) or not isinstance(change, dict):
        return change
    return before | {key: merged(before.get(key), value) for key, value in change.items()}


@pytest.fixture(scope="module")
def followed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder in which the page was followed."""
    place = tmp_path_factory.mktemp("followed")
    configs = shutil.copytree(repository / "app_configs", place / "app_configs")
    page = (repository / "docs" / "extending.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        patch.setattr(fragments, "_root", lambda: configs)
        job_classes.shipped.cache_clear()
        for language, text in BLOCK.findall(page):
            first = text.splitlines()[0].removeprefix("# ").partition(":")[0]
            if language == "python":
                (place / first).parent.mkdir(exist_ok=True)
                (place / first).write_text(text)
            elif first == "app_configs/jobs.yaml":
                rows = yaml.safe_load((place / first).read_text())
                (place / first).write_text(yaml.safe_dump(merged(rows, {"jobs": yaml.safe_load(text)})))
            elif language == "yaml":
                before = yaml.safe_load((configs / "task" / "tumour_type.yaml").read_text())
                (place / first).write_text(yaml.safe_dump(merged(before, yaml.safe_load(text))))
            else:
                for line in text.splitlines():
                    assert main(shlex.split(line.removeprefix("$ "))[1:]) == 0, line
        yield place
    job_classes.shipped.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def executor(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / CLIENT).read_text())
    found: dict[str, Any] = config["executors"][0]["executor"]["args"]
    return found


def test_every_command_wrote_its_job(followed: Path) -> None:
    written = {path.parent.parent.name for path in followed.glob("*/*/meta.json")}
    assert written == {
        "my_jobs",
        "attention",
        "dynunet",
        "segresnet",
        "thin",
        "cautious",
        "mine_written",
        "personal",
        "later",
        "robust",
        "mixed",
        "smaller",
    }


def test_the_models_to_choose_from_are_in_the_config_and_on_the_card(followed: Path) -> None:
    job = followed / "mixed" / "brats_perfedavg"
    found = executor(job)["model_selection"]["args"]
    assert found["blend"] == found["interpolate"] == [0.25, 0.5, 0.75]
    assert found["rule"] == "cautious"
    card = " ".join((job / "CARD.md").read_text().split())
    assert "takes the mean of its own model's and a shared model's probabilities as one more candidate" in card


def test_an_algorithm_of_ones_own_is_in_the_config_the_card_and_the_report(followed: Path) -> None:
    job = followed / "my_jobs" / "brats_fedavg"
    assert executor(job)["algorithm"] == {"path": "mine.algorithms.HalfWay", "args": {"share": 0.5}}
    about = json.loads((job / "app/config/config_fed_server.json").read_text())["workflows"][0]["args"]["about"]
    assert (about["algorithm"], about["algorithm_class"]) == ("Half way", "mine.algorithms.HalfWay")
    assert about["algorithm_settings"] == {"share": 0.5}
    assert "**Half way**" in (job / "CARD.md").read_text()


def test_a_sharing_of_ones_own_is_in_the_config_and_trains_two_rounds(followed: Path) -> None:
    """Two rounds in process: the head leaves in the first round and stays in the second, at every site alike."""
    import importlib

    job = followed / "later" / "brats_fedprox"
    assert executor(job)["sharing"] == {"path": "mine.sharing.HeadFromRound", "args": {"first": 1}}
    assert "FedProx, head at home later" in (job / "CARD.md").read_text()
    kind = importlib.import_module("mine.sharing").HeadFromRound
    layout, roles = Layout(("body", "head"), ((2,), (2,))), {"body": "body", "head": "head"}
    memory: dict[str, Any] = {}
    for round_, stays in ((0, False), (1, True)):
        received = {"model": torch.ones(4)}
        steps = Steps(1, 0.1, round=round_)
        update, memory, _ = local_round(FedAvg(), kind(1), received, memory, layout, roles, Slope(), steps)
        assert update["model:body"].all()
        assert update["model:head"].any() != stays


# The two MONAI networks go the same way; that such networks are built and trained is tested in tests/models.
NIGHTLY = [pytest.param(name, marks=pytest.mark.nightly) for name in ("dynunet", "attention")]


@pytest.mark.parametrize("name", [*NIGHTLY, "thin", "my_jobs"])
def test_a_hospital_trains_it_once_its_own_list_says_so(
    followed: Path, provisioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Preflight's round: the job's own network and algorithm on a hospital's images; nothing before the list names them.

    A network of MONAI needs no line of its own: the class that loads it is on every list from the start.
    """
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    kit = shutil.copytree(provisioned / "site-1", tmp_path / "site-1")
    write_cohort(tmp_path / "data", hospital(0), seed=0, shape=(32, 32, 32), patients=5)
    (kit / "local" / "wardround.json").write_text(json.dumps({"data": str(tmp_path / "data"), "device": "cpu"}))
    job = followed / name / "brats_fedavg"
    shutil.rmtree(job / "app" / "custom", ignore_errors=True)
    words = ["preflight", str(kit), "--only", "code,round", "--job", str(job)]
    assert main(["sites", "harden", str(kit)]) == 0
    ours = name in ("dynunet", "attention")
    assert main(words) == (0 if ours else 1)
    if ours:
        return
    assert main(["sites", "allow-list", str(job), "--out", str(tmp_path / "list.json")]) == 0
    assert main(["sites", "harden", str(kit), "--allow", str(tmp_path / "list.json")]) == 0
    capsys.readouterr()
    assert main(words) == 0, capsys.readouterr().out
