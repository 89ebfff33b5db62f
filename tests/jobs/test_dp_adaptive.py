"""The recipe of hospital-level privacy: noise from a target, calibrated to the quorum, the same promise everywhere."""

import json

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.dp.accounting import claim
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.releases import GaussianRelease
from wardround.jobs import folder, recipes

NAME = "brats_dp_adaptive"


@pytest.mark.parametrize(("target", "num_rounds"), [(8.0, 3), (1.0, 3), (4.0, 20)])
def test_the_noise_keeps_the_job_within_its_target(target, num_rounds):
    job = recipes.job(NAME, [f"dp.target_epsilon={target}", f"num_rounds={num_rounds}"])
    z = job.hospital_noise["args"]["noise_multiplier"]
    assert claim([GaussianRelease("hospital", z, num_rounds)], "hospital", 1e-5).epsilon <= target
    assert claim([GaussianRelease("hospital", z - 2e-4, num_rounds)], "hospital", 1e-5).epsilon > target
    assert job.dp["epsilon"] == pytest.approx(target, abs=0.01)
    assert job.privacy["mechanism"]["args"]["num_rounds"] == num_rounds


def test_noise_is_calibrated_to_the_smallest_sum_that_may_be_opened():
    five = recipes.job(NAME, ["federation.min_clients=5", "dp.colluders=1"], [f"site-{n}" for n in range(1, 9)])
    promise = HospitalDP(**five.hospital_noise["args"])
    assert (promise.min_clients, promise.shares, promise.distributed) == (5, 3, True)


@pytest.mark.parametrize(("masks", "shares"), [("true", 2), ("false", 1)])
def test_without_masks_each_hospital_adds_all_of_it(masks, shares):
    job = recipes.job(NAME, [f"secagg.masks={masks}"])
    promise = HospitalDP(**job.hospital_noise["args"])
    assert promise.distributed is (masks == "true")
    assert promise.shares == shares


def test_the_card_says_what_is_promised_and_what_it_costs():
    text = folder.job_files(recipes.job(NAME))["CARD.md"]
    assert "epsilon 8 at delta 1e-05 per hospital" in " ".join(text.split())
    assert "294 numbers are shared by 4 hospitals" in " ".join(text.split())
    assert "no scores" in text
    more = folder.job_files(recipes.job(NAME, ["sharing=everything"]))["CARD.md"]
    assert "143,685 numbers" in " ".join(more.split())


def test_scales_can_be_changed_and_are_printed():
    job = recipes.job(NAME, ["scaling.start=[1, 2]", "scaling.follow=true"])
    client = folder.client_config(job)["executors"][0]["executor"]["args"]
    assert client["scaling"]["args"] == {"start": [1, 2], "curvature": [], "follow": True}
    assert folder.about(job)["scaling"]["start"] == [1, 2]


def test_noise_without_a_sum_is_refused():
    job = recipes.job(NAME)
    job.privacy.pop("secagg")
    with pytest.raises(ConfigRefused, match="privacy=dp_adaptive"):
        recipes._promise(job)


def test_the_command_prints_settings_that_work(capsys):
    small = ["--set", "model.channels=[4,8]", "--set", "work=2", "--set", "phantoms.shape=[24,24,24]"]
    small += ["--set", "sampling.patch=[16,16,16]", "--set", "scaling.start=[]"]
    assert main(["scales", NAME, "--patients", "4", *small]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "scaling.start=[" in line)
    settings = [part.strip('"') for part in line.split("--set ")[1:]]
    settings = [part.strip().strip('"') for part in settings]
    job = recipes.job(NAME, settings)
    start = job.privacy["scaling"]["args"]["start"]
    assert len(start) == len([row for row in out.splitlines() if "adn.N" in row])
    assert min(start) > 0
    assert job.hospital_noise["args"]["max_update_norm"] > 0
    again = main(["scales", NAME, "--patients", "4", *small])
    assert again == 0
    assert capsys.readouterr().out == out


def test_the_command_wants_a_job_with_such_noise(capsys):
    assert main(["scales", "brats_fedavg"]) == 2
    assert "no hospital-level noise" in capsys.readouterr().err


def test_another_job_can_have_it():
    job = recipes.job("brats_fedbn", ["privacy=dp_adaptive", "fedavg_baseline=false"])
    assert json.loads(folder.job_files(job)["meta.json"])["min_clients"] == 3
    assert job.hospital_noise is not None


@pytest.mark.parametrize("name", ["brats_dp_patient", NAME])
def test_a_noise_multiplier_can_be_given_instead_of_a_target(name):
    job = recipes.job(name, ["dp.noise_multiplier=1.5"])
    assert job.privacy["mechanism"]["args"]["promise"]["args"]["noise_multiplier"] == 1.5
    assert job.dp["noise_multiplier"] == 1.5
    assert "target_epsilon" not in job.dp
    less = recipes.job(name, ["dp.noise_multiplier=3"])
    assert less.dp["epsilon"] < job.dp["epsilon"]
    assert f"epsilon {less.dp['epsilon']:.3g} at delta" in less.privacy["guarantee"]


@pytest.mark.parametrize(
    "setting", ["dp.noise_multiplier=abc", "dp.target_epsilon=big", "num_rounds=abc", "mechanism.delta=true"]
)
@pytest.mark.parametrize("name", ["brats_dp_patient", NAME])
def test_words_for_numbers_are_refused(name, setting):
    with pytest.raises(ConfigRefused, match=r"found:    a word|found:    true or false"):
        recipes.job(name, [setting])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sharing=adapters_alone", "model.adapter_rank"),
        ("sharing=head_alone", "wardround scales"),
        ("sharing.home=[brain]", "head, norm, body, adapter"),
        ("scaling.start=[1,2]", "none or 12"),
        ("scaling.start=[0]", "numbers above 0"),
        ("secagg.weights=patients_plaintext", "--set secagg.weights=equal"),
        ("secagg.bits=4", "more bits, or more noise"),
        ("dp.colluders=5", "colluders + 2"),
        ("federation.min_clients=2", "3 <= min_clients"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_written(setting, words, tmp_path, capsys):
    assert main(["jobs", "write", NAME, "--out", str(tmp_path), "--set", setting]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("meta.json"))


def test_adapters_can_be_shared(tmp_path, capsys):
    settings = ["--set", "sharing=adapters_alone", "--set", "model.adapter_rank=1", "--set", "scaling.start=[]"]
    assert main(["jobs", "write", NAME, "--out", str(tmp_path), *settings]) == 0
    assert "262 numbers" in " ".join((tmp_path / NAME / "CARD.md").read_text().split())
