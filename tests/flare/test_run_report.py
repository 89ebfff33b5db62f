import json

import pytest

from wardround.core.run_log import flat
from wardround.flare.run_report import RunReport

ABOUT = {"job": "brats_fedavg", "algorithm": "FedAvg", "num_rounds": 2, "lr": 0.05}
MODEL = {"name": "UNet3d", "parameters": 10, "fingerprint": "ab"}


@pytest.fixture
def record(facts):
    made = RunReport.begin(ABOUT, MODEL, simulator=True, history=[])
    made.begin_round(0, bytes_down_each=100)
    made.update("site-1", {"loss": 1.0, "val_score": 0.2, "seconds": 3.0}, facts, size=40)
    made.update("site-2", {"loss": 2.0, "val_score": 0.6, "seconds": 1.0}, facts | {"phantoms": False}, size=50)
    return made


def test_a_round_adds_up(record):
    """Down 2 x 100 bytes, up 40 + 50; validation Dice (0.2 + 0.6) / 2, every hospital counts the same."""
    entry = record.end_round(["site-1", "site-2", "site-3"], ["site-2", "site-1"], 7.5)
    assert (entry["bytes_down"], entry["bytes_up"], entry["seconds"]) == (200, 90, 7.5)
    assert entry["val_score"] == pytest.approx(0.4)
    assert entry["aggregated"] == ["site-1", "site-2"]
    assert entry["configured"] == ["site-1", "site-2", "site-3"]
    assert record.line(2).startswith("round 1/2 done: 2/3 sites, loss 1.500")


def test_further_bytes_count_for_all_sites_together(record):
    record.traffic(down=1000)
    record.traffic(up=7, down=500)
    entry = record.end_round(["site-1", "site-2"], ["site-1", "site-2"], 1.0)
    assert (entry["bytes_down"], entry["bytes_up"]) == (2 * 100 + 1500, 90 + 7)
    assert not {"down", "more_down"} & set(entry)


def test_attempts_and_recovered_sites_are_told(record):
    entry = record.end_round(["site-1", "site-2"], ["site-1"], 1.0, attempts=2, recovered=["site-2"])
    assert (entry["attempts"], entry["recovered"]) == (2, ["site-2"])
    assert (record.run["rounds"][0]["attempts"], record.run["rounds"][0]["recovered"]) == (2, ["site-2"])


def test_a_round_at_once_needed_one_attempt(record):
    entry = record.end_round(["site-1", "site-2"], ["site-1", "site-2"], 1.0)
    assert (entry["attempts"], entry["recovered"]) == (1, [])


def test_the_best_round_is_the_one_whose_incoming_model_was_best(record, scores):
    history = [{"round": 0, "val_score": 0.2}, {"round": 1, "val_score": 0.6}, {"round": 2, "val_score": 0.4}]
    assert record.best([], 3) is None
    assert record.best(history, 3) == {"round": 1, "val_score": 0.6}
    record.scores("site-1", scores | {"val_score": 0.7})
    assert record.best(history, 3) == {"round": 3, "val_score": 0.7}


def test_the_line_of_a_round_says_small_traffic_in_small_units(record):
    record.traffic(up=3_400)
    record.end_round(["site-1", "site-2"], ["site-1", "site-2"], 1.0)
    assert record.line(3).endswith("; 1.0 s, 3.5 kB up, 200 B down")


def test_settings_are_printed_flat():
    about = {"config_type": "dict", "job": "x", "model": {"norm": "batch"}, "algorithm_settings": {"lam": 1}, "lr": 0.1}
    assert flat(about) == {"job": "x", "model.norm": "batch", "algorithm.lam": 1, "lr": 0.1}
    assert flat(flat(about)) == flat(about)


def test_a_resumed_record_is_the_one_that_lived(record):
    entry = json.loads(json.dumps(record.end_round(["site-1", "site-2"], ["site-1", "site-2"], 7.5)))
    again = RunReport.begin(ABOUT, MODEL, simulator=True, history=[entry])
    for key in ("rounds", "sites", "phantoms", "settings", "model"):
        assert again.run[key] == record.run[key], key


def test_one_site_with_phantoms_makes_a_run_with_phantoms(record):
    assert record.run["phantoms"] is False
    record.end_round(["site-1", "site-2"], ["site-1", "site-2"], 1.0)
    assert record.run["phantoms"] is True


def test_a_problem_makes_a_run_incomplete(record, scores, tmp_path):
    record.end_round(["site-1", "site-2"], ["site-1", "site-2"], 1.0)
    for site in ("site-1", "site-2"):
        record.scores(site, scores)
    folder = tmp_path / "ws" / "server" / "job" / "wardround"
    folder.mkdir(parents=True)
    record.close(folder, {"round": 1, "val_score": 0.7})
    assert json.loads((folder / "report.json").read_text())["outcome"] == "complete"
    record.problem("site-2 was lost in round 2")
    record.close(folder, None)
    report = json.loads((folder / "report.json").read_text())
    assert report["outcome"] == "incomplete"
    assert report["problems"] == ["site-2 was lost in round 2"]
    assert json.loads((folder / "run.json").read_text())["outcome"] == "incomplete"


def test_the_final_dice_is_the_mean_over_hospitals(record, scores):
    assert record.final_val_score() is None
    record.scores("site-1", scores | {"val_score": 0.2})
    record.scores("site-2", scores | {"val_score": 0.4})
    assert record.final_val_score() == pytest.approx(0.3)


def test_what_a_site_says_beyond_the_report_is_not_shown(record):
    record.end_round(["site-1", "site-2"], ["site-1", "site-2"], 1.0)
    assert set(record.run["sites"]["site-1"]) == {"label", "cases", "modalities", "label_kind", "device"}


@pytest.mark.parametrize(("simulator", "phantoms"), [(True, True), (True, False), (False, True)])
def test_pictures_of_invented_patients_only_in_the_simulator(simulator, phantoms, facts, tmp_path):
    """On a real server there is no other party's folder; a real patient's picture holds the id and stays at the site."""
    import numpy as np

    from wardround.reports.overlay import draw_overlay

    folder = tmp_path / "server" / "job" / "wardround"
    folder.mkdir(parents=True)
    mask = np.zeros((3, 8, 8, 8), bool)
    mask[:, 2:5, 2:5, 2:5] = True
    picture = tmp_path / "site-1" / "job" / "wardround" / "overlays" / "site-1-0.png"
    draw_overlay(np.ones((8, 8, 8), np.float32), mask, mask, "title", picture, ("ET", "TC", "WT"), (1.0, 1.0, 1.0))
    record = RunReport.begin(ABOUT, MODEL, simulator, [])
    record.begin_round(0, bytes_down_each=1)
    record.update("site-1", {"loss": 1.0, "val_score": 0.5, "seconds": 1.0}, facts | {"phantoms": phantoms}, size=1)
    record.end_round(["site-1"], ["site-1"], 1.0)
    page = record.close(folder, None)
    assert ("<img" in page.read_text()) == (simulator and phantoms)
