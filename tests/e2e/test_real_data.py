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
        assert site["cases"] == {"train": None, "val": None, "test": None}
        assert site["modalities"]["t2"] == 0
        assert site["modalities"]["flair"] == 1


def test_with_one_patient_in_each_part_no_score_leaves(real):
    """A mean over one patient is that patient. The hospital's own page has it, of the region that its masks know."""
    for site in SITES:
        assert set(map(str, real.report["final"][site]["candidates"].values())) == {"{}"}
        assert real.report["final"][site]["deploy"] in real.report["final"][site]["candidates"]
        page = (real.site(site) / "wardround" / "site_report.html").read_text()
        assert "Dice WT" in page
        assert "Dice ET" not in page
    assert all(numbers["val_score"] is None for one in real.report["rounds"] for numbers in one["sites"].values())
    assert "not reported" in real.words_of("server")


def test_no_patient_is_named_outside_the_site(real):
    assert "TCGA_" not in real.words_of("server")
    assert all("TCGA_DU" not in real.words_of(other) for other in ("HT", "FG"))
