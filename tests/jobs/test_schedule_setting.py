"""--set schedule=NAME: a whole recipe by its name, for every task."""

import pytest

from wardround.algorithms.schedule import Schedule
from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.jobs import recipes
from wardround.jobs.building import build, require_buildable

ONE_JOB_OF_EACH_TASK = ("brats_fedavg", "brats_ehr_fedavg", "tumour_type_fedavg", "ehr_fusion_fedavg")


def schedule_of(made):
    return build(made.federation["schedule"], "schedule")


@pytest.mark.parametrize("job", ONE_JOB_OF_EACH_TASK)
def test_the_standard_schedule_of_every_task(job):
    plain, made = recipes.job(job), recipes.job(job, ["schedule=standard"])
    require_buildable(made)
    before, after = schedule_of(plain), schedule_of(made)
    assert after == Schedule(
        20, 60, before.lr, before.momentum, before.nesterov, 3e-5, before.clip_norm, "cosine_per_step",
        "mean_of_last_third",
    )  # fmt: skip
    sampling = build(made.task["sampling"], "sampling")
    if "regions" in vars(type(sampling)):
        augmentation = sampling.learns.augmentation
        assert (augmentation.turned, augmentation.rotate, augmentation.zoom) == (0.2, 30, 0.25)
        assert build(made.task["model_selection"], "model selection").largest_component
        assert (sampling.batch, sampling.foreground_share, sampling.learns.mirrored) == (4, 0.33, 4)
    else:
        assert sampling.augment


def test_long_differs_from_standard_in_its_length_alone():
    long, standard = (recipes.job("brats_fedavg", [f"schedule={name}"]) for name in ("long", "standard"))
    assert long.task == standard.task
    steps = [one.schedule["num_rounds"] * one.schedule["work"] for one in (long, standard)]
    assert steps == [4800, 1200]
    assert {key for key in long.schedule if long.schedule[key] != standard.schedule[key]} == {"num_rounds", "work"}


@pytest.mark.parametrize("job", recipes.names())
def test_demo_is_what_every_job_does_without_a_name(job):
    assert recipes.job(job, ["schedule=demo"]) == recipes.job(job)


@pytest.mark.parametrize(
    "settings",
    [["schedule=standard", "work=10", "sampling.batch=2"], ["sampling.batch=2", "work=10", "schedule=standard"]],
)
def test_single_settings_win_over_the_schedule_wherever_they_stand(settings):
    made = recipes.job("brats_perfedavg", settings)
    assert (made.schedule["work"], made.schedule["num_rounds"]) == (10, 20)
    assert made.task["sampling"]["args"]["batch"] == 2


@pytest.mark.parametrize("job", ["brats_dp_patient", "brats_dp_adaptive"])
def test_noise_is_calibrated_for_the_rounds_of_the_schedule(job):
    made, plain = recipes.job(job, ["schedule=standard"]), recipes.job(job)
    assert made.privacy["mechanism"]["args"]["num_rounds"] == 20
    assert made.dp["noise_multiplier"] > plain.dp["noise_multiplier"]
    assert made.dp["epsilon"] <= 8


def test_another_schedule_is_refused_and_the_page_of_settings_names_them(capsys):
    with pytest.raises(ConfigRefused, match="did you mean standard"):
        recipes.job("brats_fedavg", ["schedule=standrad"])
    assert main(["jobs", "settings", "brats_fedavg", "--set", "schedule=standard"]) == 0
    page = capsys.readouterr().out
    assert "\nschedule = standard  (one of demo, standard, long)\n" in page
    assert "\ndecay = cosine_per_step  (a word)\n" in page
