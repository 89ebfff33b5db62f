"""Every command of the documentation runs: here, in a scratch folder of phantoms, or in the test or drill that ELSEWHERE names.

A new command in a document fails this test until it runs in one of the two ways.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from documented import commands

from wardround.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
# command (a regular expression) -> (file, words in it that show that it is run there)
ELSEWHERE = {
    r"pip install '\.\[test\]' && pytest -n 2 --dist loadfile": (".ci/run", "README.md"),
    r"pip install \. && nvflare simulator jobs/brats_perfedavg": ("tests/e2e/conftest.py", '"flagless", None'),
    r"WARDROUND_SITES=\S+ nvflare simulator .*": ("tests/e2e/conftest.py", "WARDROUND_SITES=str(file)"),
    r"wardround jobs run brats_fedavg_he": ("tests/e2e/test_secagg_jobs.py", 'f"brats_fedavg_{mode}"'),
    r"wardround jobs run brats_dp_adaptive": ("tests/e2e/test_dp_adaptive.py", "dp_adaptive"),
    r"wardround report /tmp/run": ("tests/cli/test_cmd_report.py", '"report"'),
    r"nvflare provision -p poc_workspace/project.yml .*": ("tests/support/consortium.py", '"provision"'),
    r"wardround poc (up|down)": ("tests/e2e/test_poc.py", '"poc", "up"'),
    r"wardround poc run brats_perfedavg": ("tests/e2e/test_poc.py", '"poc", "down"'),
    r"wardround jobs submit brats_perfedavg( --all-sites .*)?": (
        "tests/e2e/test_poc.py",
        '"jobs", "submit", "brats_perfedavg"',
    ),
    r"nvflare job submit -j my_jobs/brats_perfedavg_he": ("tests/support/consortium.py", '"job", "submit"'),
    r"nvflare job monitor JOB_ID": ("tests/e2e/test_poc.py", '"job", "monitor"'),
    r"nvflare job download JOB_ID -o results": ("tests/support/consortium.py", '"job", "download"'),
    r"nvflare --format json job (submit|wait|meta|download) .*--startup-kit K": (
        "tests/support/consortium.py",
        '"--format", "json"',
    ),
    r"nvflare --format json job abort ID --startup-kit K": ("tests/e2e/test_poc.py", '"job", "abort"'),
    r"python tests/support/run_drills\.py( site_killed)?": ("tests/e2e/test_drills.py", "site_killed"),
    r"wardround report results": ("tests/cli/test_cmd_report.py", '"report"'),
    r"pip install \.": (".ci/run", "pip install"),
    r"wardround preflight .*": ("tests/e2e/test_hardened.py", '"preflight"'),
    r"wardround sites init .*": ("tests/cli/test_cmd_sites.py", '"sites", "init"'),
    r"docker (build|compose) .*": ("tests/test_container.py", "Dockerfile"),
    r"python -m monai.bundle run .*": ("tests/export/test_bundle.py", r"python (-m monai\.bundle run"),
    r"wardround export .*": ("tests/cli/test_cmd_export.py", '"export"'),
    r"wardround predict CASES? .*": ("tests/cli/test_cmd_predict.py", '"predict"'),
    r"wardround serve .*": ("tests/support/service_process.py", "serve"),
    r"curl .*/predict .*": ("tests/serving/test_service.py", "/predict"),
    r"wardround data check local/wardround.json --job .*": ("tests/cli/test_cmd_data.py", '"--job"'),
    r"pip install '\.\[cluster\]'": ("pyproject.toml", 'cluster = ["dask'),
    r"wardround sweep .*": ("tests/cli/test_cmd_sweep.py", '"sweep"'),
    r"wardround pretrain .*": ("tests/cli/test_cmd_pretrain.py", '"pretrain"'),
    r"wardround jobs run brats_fedavg --set model\.weights=.*": (
        "tests/jobs/test_first_weights.py",
        '"model.weights=small"',
    ),
    r"wardround compare .*": ("tests/cli/test_cmd_compare.py", '"compare"'),
}
# what stands in the documents -> what stands for it here
PLACES = {
    "/data/sites": "sites_out",
    "/data/lgg": "lgg",
    "/data/brats": "brats",
    "/data/cheng": SHARED / "cheng_brain_tumor_types",
    "/opt/nvflare": "kits",
    "/tmp/run": "run",  # noqa: S108 - as the README has it
}
LGG = {"/data/lgg": SHARED / "lgg_tcga_multisite_nc"}
TINY = ("model.channels=[4,8]", "sampling.patch=[16,16,16]", "work=2")
TINY_RUN = ("num_rounds=1", "model_selection.steps=[0,1]", "phantoms.shape=[24,24,24]", "phantoms.patients=6")
SMALL = {"scales": TINY, "jobs": (*TINY, *TINY_RUN)}


def here() -> list[str]:
    """Return them in the order of the documents: a later one may need what an earlier one wrote."""
    every = [one for found in commands(REPOSITORY).values() for one in found]
    return list(dict.fromkeys(one for one in every if not any(re.fullmatch(known, one) for known in ELSEWHERE)))


@pytest.fixture(scope="module")
def world(tmp_path_factory, provisioned):
    """A folder in which the documents' places exist: phantoms in BraTS layout, named like two hospitals' patients."""
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantoms import write_cohort

    root = tmp_path_factory.mktemp("documents")
    for number, prefix in enumerate(("TCGA_AA", "TCGA_BB", "TCGA_CC")):
        for folder in write_cohort(root / "brats", hospital(number), 0, (20, 20, 20), 4):
            for file in folder.iterdir():
                copy = root / "lgg" / f"{prefix}_{folder.name}" / f"{prefix}_{file.name}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    shutil.copytree(provisioned, root / "kits")
    return root


def one_benchmark(words: list[str]) -> None:
    """A benchmark takes hours: that it starts is tested in tests/test_benchmarks.py, that it has these options here."""
    script = REPOSITORY / next(word for word in words if word.endswith(".py"))
    parts = REPOSITORY / "custom" / "wardround" / "research" / "parts.py"
    declared = "".join(file.read_text(encoding="utf-8") for file in (script, script.parent / "common.py", parts))
    missing = [word for word in words if word.startswith("--") and f'"{word}"' not in declared]
    assert missing == []


@pytest.mark.parametrize("command", here())
def test_a_documented_command_runs(command, world, monkeypatch):
    monkeypatch.chdir(world)
    for part in command.split(" && "):
        words = shlex.split(part)
        if "python" in words:
            one_benchmark(words)
            continue
        for place, stand_in in {**PLACES, **(LGG if "labels" in words else {})}.items():
            words = [word.replace(place, str(world / stand_in)) for word in words]
        if any(word.startswith(str(SHARED)) for word in words) and not SHARED.is_dir():
            pytest.skip(f"no real data in {SHARED}")
        if words[0] == "cp":
            shutil.copy(REPOSITORY / words[1], words[2])
            continue
        assert words[0] == "wardround", "say in ELSEWHERE where this command runs"
        small = [] if words[2:3] in (["list"], ["settings"]) else SMALL.get(words[1], ())
        if "brats_dp_joint" in words or any(word.startswith("model.weights=") for word in words):
            # The network of the first weights.
            small = [setting for setting in small if not setting.startswith("model.channels=")]
        small = [word for setting in small for word in ("--set", setting)]
        assert main.main([*words[1:], *small]) == 0


@pytest.mark.parametrize("known", ELSEWHERE)
def test_what_runs_elsewhere_stands_in_a_document_and_runs_there(known):
    assert any(re.fullmatch(known, one) for found in commands(REPOSITORY).values() for one in found), known
    file, words = ELSEWHERE[known]
    assert words in (REPOSITORY / file).read_text(encoding="utf-8")


def test_commands_are_found():
    found = commands(REPOSITORY)
    assert "wardround poc run brats_perfedavg" in found["README.md"]
    assert "wardround jobs run brats_fedavg_he" in found["docs/threat-model.md"]
    assert json.dumps(found).count("wardround data check") >= 2
