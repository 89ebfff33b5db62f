import numpy as np

SITES = {"DU", "HT", "FG"}


def test_real_hospitals_train_one_model(real):
    weights, meta = real.model()
    assert all(np.isfinite(block).all() for block in weights.values())
    assert meta["round"] == 2
    assert real.report["outcome"] == "complete"
    assert real.report["phantoms"] is False
    assert set(real.report["verdicts"]) == set(real.report["final"]) == SITES


def test_what_the_hospitals_have_is_what_they_say(real):
    for name, site in real.report["sites"].items():
        assert site["label"] == f"Hospital {name}"
        assert site["label_kind"] == "whole_tumour"
        assert site["cases"] == {"train": 1, "val": 1, "test": 1}
        assert site["modalities"]["t2"] == 0
        assert site["modalities"]["flair"] == 3


def test_only_the_known_region_is_scored(real):
    for site in SITES:
        for candidate in real.report["final"][site]["candidates"].values():
            assert set(candidate["test"]) == {"dice_WT", "dice_mean", "hd95_mm_WT"}


def test_no_patient_is_named_outside_the_site(real):
    assert "TCGA_" not in real.words_of("server")
    assert all("TCGA_DU" not in real.words_of(other) for other in ("HT", "FG"))
