import json
from pathlib import Path

import numpy as np
import pytest

from wardround.models.fingerprint import fingerprint
from wardround.models.nets import UNet3d
from wardround.training.global_model import initial_arrays

SITES = ("site-1", "site-2", "site-4")
CANDIDATES = {"local", "fedavg", "fedavg_finetuned", "personalised", "blend"}
TINY = UNet3d((4, 8), residual_units=1, norm="instance", dropout=0.0)


def scalars(folder: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_model_was_trained(flagless):
    weights, meta = flagless.model()
    first = initial_arrays(TINY, seed=0)
    assert weights.keys() == first.keys()
    assert all(np.isfinite(block).all() for block in weights.values())
    assert all(not np.array_equal(weights[name], first[name]) for name in first if first[name].size > 8)
    assert meta["round"] == 2
    assert meta["settings"]["job"] == "brats_perfedavg"


def test_the_model_says_which_architecture_it_is(flagless):
    from wardround.models import checkpoint

    for name in ("final_model", "best_model"):
        checkpoint.load(flagless.server / "wardround" / f"{name}.npz", fingerprint(TINY))
    assert flagless.report["model"]["fingerprint"] == fingerprint(TINY)


def test_the_best_model_is_the_one_that_was_evaluated_best(flagless):
    report, (_, meta) = flagless.report, flagless.model("best_model")
    incoming = [np.mean([site["val_score"] for site in entry["sites"].values()]) for entry in report["rounds"]]
    _, final = flagless.model("final_model")
    dice = [*incoming, final["val_score"]]
    assert report["best"]["round"] == meta["round"] == int(np.argmax(dice))
    assert report["best"]["val_score"] == meta["val_score"] == pytest.approx(max(dice))


def test_every_site_took_part_in_every_round_and_got_a_verdict(flagless):
    report = flagless.report
    assert report["outcome"] == "complete"
    assert report["problems"] == []
    assert [entry["round"] for entry in report["rounds"]] == [0, 1]
    for entry in report["rounds"]:
        assert entry["configured"] == entry["trained"] == entry["aggregated"] == list(SITES)
    assert set(report["verdicts"]) == set(SITES)
    for site in SITES:
        verdict = report["verdicts"][site]
        assert verdict["deploy"] in CANDIDATES or (verdict["deploy"], verdict["kind"]) == (None, "unusable")
        assert set(report["final"][site]["candidates"]) == CANDIDATES


def test_bytes_are_those_of_the_two_variables(flagless):
    """Per-FedAvg and FedAvg travel together: 2 models of float32 down and up, at 3 sites."""
    report = flagless.report
    one = 4 * sum(block.size for block in initial_arrays(TINY, seed=0).values())
    for entry in report["rounds"]:
        assert entry["bytes_down"] == entry["bytes_up"] == 2 * 3 * one


def test_the_page_is_whole_and_needs_nothing_else(flagless):
    page = (flagless.server / "wardround" / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert "<script" not in page
    assert all(flagless.report["verdicts"][site]["sentence"].split(":")[0] in page for site in SITES)


def test_curves_arrive_per_site(flagless):
    for site in SITES:
        found = scalars(flagless.server / "tb_events" / site)
        assert sorted(found["loss"]) == [1, 2]
        assert sorted(found["val_score"]) == [1, 2, 3]


def test_a_receipt_for_every_release(flagless):
    """Two updates and the judgement of every site, written before they left."""
    for site in SITES:
        text = (flagless.site(site) / "wardround" / "releases.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["task"] for line in lines] == ["train", "train", "finish"]
        assert all(len(line["sha256"]) == 64 and line["bytes"] > 0 for line in lines[:2])
        assert lines[0]["sha256"] != lines[1]["sha256"]


def test_pictures_of_patients_and_rows_stay_at_the_site(flagless):
    for site in SITES:
        assert list((flagless.site(site) / "wardround" / "overlays").glob("*.png"))
        assert (flagless.site(site) / "wardround" / "site_report.html").is_file()
        assert (flagless.site(site) / "wardround" / "deploy_model.npz").is_file()
    assert not list((flagless.workspace / "server").rglob("*.png"))
    run = json.loads((flagless.server / "wardround" / "run.json").read_text())
    assert "phantom-" not in json.dumps(run)


def test_all_that_a_run_wrote_is_for_its_owner_only(flagless):
    """Reports, pictures and models of single hospitals, whatever the umask of who started it."""
    written = [
        path for party in (flagless.server, *map(flagless.site, SITES)) for path in (party / "wardround").rglob("*")
    ]
    assert {"site_report.html", "deploy_model.npz", "report.html", "overlays"} <= {path.name for path in written}
    assert [str(path) for path in written if path.stat().st_mode & 0o077] == []


def test_phantoms_are_said_loudly(flagless):
    assert flagless.said.count("NO DATA CONFIGURED") >= len(SITES)
    assert flagless.report["phantoms"] is True


def test_a_missing_modality_is_normal(flagless):
    sites = flagless.report["sites"]
    assert sites["site-4"]["modalities"] == {"t1": 6, "t1ce": 6, "t2": 0, "flair": 6}
    assert sites["site-1"]["modalities"] == {"t1": 6, "t1ce": 6, "t2": 6, "flair": 6}


def test_progress_tells_round_site_loss_and_dice(flagless):
    line = next(line for line in flagless.said.splitlines() if "round 1/2 site-1" in line)
    assert "loss" in line
    assert "validation score" in line


def test_restarted_processes_change_nothing(flagless, side_by_side):
    (restarted, _), (lived, _) = flagless.model(), side_by_side.model()
    assert restarted.keys() == lived.keys()
    for name in lived:
        np.testing.assert_array_equal(restarted[name], lived[name])
    assert flagless.report["final"] == side_by_side.report["final"]
