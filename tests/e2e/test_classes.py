"""Classification in real simulator processes: a vision transformer with KL masks in a secure sum, and with private noise."""

from __future__ import annotations

import json

import pytest

SITES = ("site-1", "site-2", "site-4")
SMALL = (
    "num_rounds=2",
    "work=2",
    "phantoms.patients=9",
    "phantoms.shape=[32,32,24]",
    "sampling.size=32",
    "sampling.batch=2",
    "model.size=[32,32]",
    "model.depth=1",
    "model_selection.steps=[0,1]",
)
MASKS = ("sharing.warm_up=0", "sharing.enter=1.0", "sharing.leave=0.5")


def job(simulator, name, *settings):
    from wardround.jobs import folder, recipes

    made = recipes.job(name, [*SMALL, *settings], SITES)
    return folder.write(made, simulator.root / f"classes-{name}" / name)


@pytest.fixture(scope="session")
def masked(simulator):
    return simulator.run(
        job(simulator, "tumour_type_klmask", "privacy=secagg_masks", "sharing.choose=head", *MASKS),
        "tumour_type_klmask",
        3,
    )


@pytest.fixture(scope="session")
def private(simulator):
    isotropic = ("scaling.start=[]", "dp.max_update_norm=0.01")
    return simulator.run(job(simulator, "tumour_type_mmpfl_adp", *isotropic, *MASKS), "tumour_type_mmpfl_adp", 3)


def test_every_candidate_is_scored_as_classes_are(masked):
    assert masked.code == 0, masked.said[-4000:]
    report = masked.report
    assert (report["outcome"], report["problems"]) == ("complete", [])
    assert report["settings"]["score"] == "balanced accuracy"
    for site in SITES:
        found = report["final"][site]["candidates"]
        assert set(found) == {"local", "fedavg", "fedavg_finetuned", "personalised"}
        for candidate in found.values():
            assert {"balanced_accuracy", "accuracy", "auroc", "calibration_error", "log_loss"} <= set(candidate["test"])
            assert 0 <= candidate["test"]["balanced_accuracy"]["value"] <= 1
    assert set(report["overview"]) == {"local", "fedavg", "fedavg_finetuned", "personalised", "deployed"}


def test_the_page_speaks_of_classes(masked):
    page = (masked.server / "wardround" / "report.html").read_text()
    assert "balanced accuracy" in page
    assert "Test Dice" not in page


def test_a_sequence_that_a_hospital_lacks_is_normal(masked):
    told = masked.report["sites"]["site-4"]["modalities"]
    assert (told["t2"], told["t1"]) == (0, 1)  # secure sums tell whether a sequence exists, not how many


def test_what_became_personal_is_in_the_hospitals_own_report_and_in_no_other(masked):
    """In a secure sum the server is not told."""
    for site in SITES:
        assert "personal" not in masked.report["final"][site]
        folder = masked.site(site) / "wardround"
        history = json.loads((folder / "mask_history.json").read_text())
        assert sorted(history) == ["0", "1"]
        assert set(history["1"]["personal"]) == {"head"}
        assert "Personal blocks" in (folder / "site_report.html").read_text()


@pytest.mark.nightly
def test_private_noise_over_masks_tells_nothing_but_the_sum(private):
    assert private.code == 0, private.said[-4000:]
    report = private.report
    assert (report["outcome"], report["problems"]) == ("complete", [])
    assert report["final"] == {site: {"candidates": {}, "deploy": None} for site in SITES}
    said = private.words_of("server")
    assert "mask_history" not in said
    for site in SITES:
        folder = private.site(site) / "wardround"
        receipts = [json.loads(line) for line in (folder / "releases.jsonl").read_text().splitlines()]
        assert [row["mechanism"] for row in receipts if row["task"] == "train"] == ["Gaussian"] * 2
        assert json.loads((folder / "mask_history.json").read_text())
