"""Which names each job lets out, as its exit lists them."""

import json

import pytest

from wardround.core.errors import ConfigRefused
from wardround.flare.job_settings import require_same
from wardround.jobs import folder, recipes
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
    for printed in sorted((repository / "jobs").iterdir()):
        config = json.loads((printed / "app/config/config_fed_client.json").read_text())
        listed = [one["args"]["allowed_names"] for one in config["components"] if one["id"] == "outbound"]
        assert listed == [allowed_names(recipes.job(printed.name))]


@pytest.mark.parametrize("side", ["server", "sites"])
@pytest.mark.parametrize("job", ["brats_fedavg", "brats_fedavg_he"])
def test_a_list_that_was_changed_at_one_side_is_refused(job: str, side: str) -> None:
    made = recipes.job(job)
    server, client = folder.server_config(made), folder.client_config(made)
    require_same(server, client)
    at_sites = next(one["args"] for one in client["components"] if one["id"] == "outbound")
    changed = server["workflows"][0]["args"]["mode"]["args"] if side == "server" else at_sites
    for names in ([*BRATS, "dice_of_patient_3"], BRATS[1:], [], "dice_WT"):
        changed["allowed_names"] = names
        with pytest.raises(ConfigRefused, match="one side only"):
            require_same(server, client)
    # The order is no difference, and neither is a report that tells nothing.
    changed["allowed_names"] = BRATS[::-1]
    require_same(server, client)
    changed["allowed_names"] = BRATS[1:]
    server["workflows"][0]["args"].pop("about")
    with pytest.raises(ConfigRefused, match="one side only"):
        require_same(server, client)
