"""Which names each job lets out, as its exit lists them."""

import json

import pytest

from wardround.jobs import recipes
from wardround.jobs.allowed_names import allowed_names

MASKS = ["labels brats", "labels whole_tumour"]
REGIONS = ("ET", "TC", "WT")
SCORES = [f"{measure}_{region}" for measure in ("dice", "hd95_mm") for region in ("mean", *REGIONS)]
SCORES += [f"{measure}_{region}" for measure in ("surface_mm", "missed", "invented") for region in REGIONS]
IMAGES = ["t1", "t1ce", "t2", "flair"]
BRATS = [*IMAGES, *MASKS, *SCORES]
OF_CLASSES = ["labels classes", "balanced_accuracy", "accuracy", "auroc", "calibration_error", "log_loss"]
TYPES = [*IMAGES, "ring", "halo", "ring_halo", *OF_CLASSES]


@pytest.mark.parametrize(
    ("job", "named"),
    [
        ("brats_fedavg", BRATS),
        ("brats_fedavg_he", BRATS),
        ("tumour_type_fedavg", TYPES),
        ("brats_dp_adaptive", MASKS),
        ("tumour_type_mmpfl_adp", ["labels classes"]),
    ],
)
def test_the_names_of_a_job(job, named):
    assert allowed_names(recipes.job(job)) == named


def test_a_job_with_masks_names_the_blocks_of_its_own_network():
    small, large = (
        allowed_names(recipes.job("brats_klmask", [f"model.channels={c}"])) for c in ("[4, 8]", "[4, 8, 16]")
    )
    many = len(BRATS)
    assert small[:many] == large[:many] == BRATS
    assert 1 < len(small[many:]) < len(large[many:])


def test_in_a_hidden_sum_no_block_is_named():
    assert allowed_names(recipes.job("brats_klmask", ["privacy=secagg_masks", "fedavg_baseline=false"])) == BRATS


def test_the_folders_list_the_words_of_their_job(repository):
    for folder in sorted((repository / "jobs").iterdir()):
        config = json.loads((folder / "app/config/config_fed_client.json").read_text())
        listed = [one["args"]["allowed_names"] for one in config["components"] if one["id"] == "outbound"]
        assert listed == [allowed_names(recipes.job(folder.name))]
