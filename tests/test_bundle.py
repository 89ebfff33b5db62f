"""The bundle's label (meta.json) and the packaging say what the code is."""

import json
import re

import pytest

from wardround import __version__
from wardround.data.layouts import MODALITIES
from wardround.flare import plaintext_messages
from wardround.jobs import recipes
from wardround.models.nets import SegResNet3d, UNet3d
from wardround.tasks.brain_tumours import REGIONS


@pytest.fixture
def label(repository):
    return json.loads((repository / "meta.json").read_text(encoding="utf-8"))


@pytest.fixture
def project(repository):
    return (repository / "pyproject.toml").read_text(encoding="utf-8")


def test_the_label_has_these_entries(label):
    assert set(label) == {
        "format",
        "name",
        "version",
        "license",
        "description",
        "nvflare",
        "tasks",
        "intended_use",
        "leaves_a_hospital",
        "never_leaves_a_hospital",
        "jobs",
    }
    assert label["format"] == "wardround bundle 1"
    assert all(label[key] for key in label)


def test_version_name_and_licence_agree(label, project, repository):
    assert re.findall(r'^version = "(.+)"$', project, re.MULTILINE) == [label["version"]] == [__version__]
    assert f'name = "{label["name"]}"' in project
    assert f'license = "{label["license"]}"' in project
    assert f'"nvflare{label["nvflare"]}"' in project
    assert "Apache License" in (repository / "LICENSE").read_text()
    assert f"## {__version__}" in (repository / "CHANGELOG.md").read_text()


def test_jobs_are_the_jobs(label):
    assert label["jobs"] == recipes.names()


def test_channels_are_those_of_the_networks(label):
    task, *others = label["tasks"]
    inputs, outputs = task["network_inputs"], task["network_outputs"]
    assert [one["channel"] for one in inputs] == list(range(UNet3d.in_channels))
    assert [one["name"] for one in inputs] == [*MODALITIES, *(f"{name} present" for name in MODALITIES)]
    assert [one["channel"] for one in outputs] == list(range(UNet3d.out_channels))
    assert [one["name"] for one in outputs] == list(REGIONS.names)
    assert (SegResNet3d.in_channels, SegResNet3d.out_channels) == (UNet3d.in_channels, UNet3d.out_channels)
    more = [part for other in others for key in ("network_inputs", "network_outputs") for part in other[key]]
    assert all(one["units"] for one in (*inputs, *outputs, *more))
    assert {one["name"] for one in label["tasks"]} == {recipes.job(name).task["name"] for name in recipes.names()}


def test_intended_use_excludes_the_clinic(label):
    assert "Not a medical device" in label["intended_use"]


def test_what_leaves_is_named(label):
    """Every number and fact that plaintext_messages.py lets through has words on the label; a new one needs new words here and
    there."""
    words = {
        "loss": "mean loss",
        "val_score": "mean validation score",
        "seconds": "seconds",
        "label": "display name",
        "cases": "patient counts",
        "classes?": "patients per class",
        "modalities": "which sequences exist",
        "label_kind": "label kind",
        "device": "device",
        "phantoms": None,
        "version": "version",
        "fingerprint": "fingerprint",
    }
    assert set(words) == set(plaintext_messages.NUMBERS) | set(plaintext_messages.SITE_FACTS)
    said = " ".join(label["leaves_a_hospital"])
    assert [word for word in words.values() if word and word not in said] == []


def test_every_package_is_installed(project, repository):
    """A package that pyproject.toml forgets works in the checkout and is missing after `pip install .`."""
    root = repository / "custom" / "wardround"
    found = {".".join(("wardround", *file.parent.relative_to(root).parts)) for file in root.rglob("__init__.py")}
    listed = re.search(r"^packages = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert set(re.findall(r'"(.+?)"', listed[1])) == found | {"wardround.app_configs", "wardround.poc_workspace"}
    assert {file.parent for file in root.rglob("*.py")} == {file.parent for file in root.rglob("__init__.py")}


def test_the_ci_runs_the_documented_command(repository):
    assert (repository / ".ci" / "run").stat().st_mode & 0o100


def test_the_build_system_knows_a_licence_by_its_name(project):
    """setuptools before 77 refuses such a licence (PEP 639), and says so in words that nobody understands."""
    assert 'license = "Apache-2.0"' in project
    (least,) = re.findall(r'^requires = \["setuptools>=(\d+)"\]$', project, re.MULTILINE)
    assert int(least) >= 77
