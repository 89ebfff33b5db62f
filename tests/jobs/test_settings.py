"""What a person may get wrong behind --set, and what is said before anything is written or started."""

import subprocess

import pytest

from wardround.cli.main import main
from wardround.jobs import recipes
from wardround.jobs.setting_descriptions import DERIVED, DESCRIPTIONS
from wardround.jobs.settings import listed

PYTHON = ("not supported between", "unexpected keyword", "object", "Traceback", "NoneType", "literal", "'str'", "'int'")


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """say(*words) -> (exit code, what the command wrote to stderr); nothing may be started or written"""

    def no_process(*words, **more):
        raise AssertionError(f"a process was started: {words}")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    monkeypatch.chdir(tmp_path)

    def said(*words):
        code = main(list(words))
        assert list(tmp_path.iterdir()) == []
        return code, capsys.readouterr().err

    return said


@pytest.mark.parametrize("command", [("jobs", "write"), ("jobs", "run")])
@pytest.mark.parametrize(
    ("job", "setting", "words"),
    [
        ("brats_perfedavg", "sampling.patch=[33,33,33]", "[32, 32, 32]"),
        ("brats_perfedavg", "work=5", "a multiple of 2"),
        ("brats_perfedavg", "algorithm.hessian=HF; work=6", "a multiple of 4"),
        ("brats_ditto", "work=41", "a multiple of 2"),
        ("brats_fedrep", "work=1", "at least 2"),
        ("brats_fedavg", "work=many", "found:    a word"),
        ("brats_fedavg", "work=2.5", "found:    a number"),
        ("brats_fedavg", "num_rounds=[3]", "found:    a list of numbers"),
        ("brats_fedavg", "num_rounds=true", "found:    true or false"),
        ("brats_fedavg", "lr=fast", "found:    a word"),
        ("brats_fedavg", "lr=null", "found:    null"),
        ("brats_fedavg", "nesterov=1", "found:    a whole number"),
        ("brats_fedavg", "fedavg_baseline=perhaps", "found:    a word"),
        ("brats_fedavg", "sampling.patch=[a,b,c]", "found:    a list of words"),
        ("brats_fedavg", "sampling.patch=32", "found:    a whole number"),
        ("brats_fedavg", "model.channels={a: 1}", "found:    a mapping"),
        ("brats_fedavg", "model.norm=batch", "its statistics differ between sites"),
        ("brats_fedavg", "model.ehr_columns=5", "model.ehr_columns"),
        ("brats_fedavg", "federation.min_clients=few", "found:    a word"),
        ("brats_dp_patient", "dp.max_grad_norm=small", "found:    a word"),
        ("tumour_type_fedavg", "model.classes=4", "4 classes"),
        ("tumour_type_fedavg", "model.stem=both", "'patch' or 'conv'"),
        ("tumour_type_fedavg", "sampling.augmentation={turn: 1}", "flip, shift, rotation"),
        ("tumour_type_fedavg", "sampling.balanced=true; privacy=dp_patient", "no patient's weight"),
        ("tumour_type_fedavg", "sampling.stratified=true; privacy=dp_patient", "patient-level privacy"),
        ("brats_ditto", "algorithm.lambda=1", "no such setting"),
        ("brats_fedavg", "model.filters=8", "unknown: filters"),
    ],
)
def test_what_needs_no_data_is_refused_before_anything_starts(say, command, job, setting, words):
    settings = [word for one in setting.split("; ") for word in ("--set", one)]
    code, text = say(*command, job, *settings)
    assert code == 2
    assert words in text
    assert "to do:" in text
    assert not [word for word in PYTHON if word in text]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("brats_fedavgg",), "did you mean brats_fedavg"),
        (("perfedavg",), "brats_perfedavg"),
        (("brats_fedavg", "--set", "round=6"), "did you mean num_rounds?"),
        (("brats_fedavg", "--set", "batch=4"), "sampling.batch"),
        (("brats_fedavg", "--set", "sampling.pach=[32,32,32]"), "did you mean sampling.patch"),
        (("brats_ditto", "--set", "algorithm.lamda=1"), "did you mean algorithm.lam"),
        (("brats_fedavg", "--set", "num_rounds"), "--set num_rounds=3"),
        (("brats_fedavg", "--set", "sampling.patch"), "--set sampling.patch=[32,32,32]"),
    ],
)
def test_a_typing_error_is_met_with_what_was_meant(say, words, near):
    code, text = say("jobs", "write", *words)
    assert code == 2
    assert near in text.partition("to do:")[2]


@pytest.mark.parametrize("job", recipes.names())
def test_every_setting_of_every_job_has_a_sentence(job):
    assert set(listed(recipes.job(job))) <= DESCRIPTIONS.keys() | DERIVED


def test_the_settings_of_a_job_are_a_page(capsys):
    assert main(["jobs", "settings", "brats_perfedavg"]) == 0
    page = capsys.readouterr().out
    assert "\nwork = 120  (a whole number)\n    Gradient evaluations that a hospital spends in one round" in page
    assert "\nalgorithm.hessian = FO  (a word)\n" in page
    assert "\nserver_optimizer = mean  (one of mean, mean_of_models, fedavgm, fedadam, fedyogi)\n" in page
    assert "\nwork_by_patients = none  (one of none, proportional)\n" in page
    assert main(["jobs", "settings", "brats_perfedavgg"]) == 2
    assert "did you mean brats_perfedavg" in capsys.readouterr().err


def test_numbers_are_taken_as_they_are_usually_typed():
    made = recipes.job("brats_ditto", ["lr=1e-3", "algorithm.lam=1", "work=1e2", "model.channels=[4, 8]"])
    assert (made.schedule["lr"], made.algorithm["site"]["args"]["lam"], made.schedule["work"]) == (0.001, 1, 100)
