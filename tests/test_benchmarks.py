"""Every benchmark explains itself, and every part of overhead.py runs and measures what it says (at tiny size, no times)."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STARTED = {path.name for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
SCRIPTS = sorted(STARTED - {"render.py"})
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import fixed_point_dice  # noqa: E402
import overhead  # noqa: E402
import overhead_data  # noqa: E402
import overhead_reading  # noqa: E402
import overhead_server  # noqa: E402
import overhead_simulator  # noqa: E402
import overhead_step  # noqa: E402
from wardround.core.errors import ConfigRefused  # noqa: E402

SMALL = (32, 32, 32)
OUR_LOG = """\
2026-01-01 10:00:01,000 - INFO - round 1/3 begins with 2 sites
2026-01-01 10:00:05,000 - INFO - round 2/3 begins with 2 sites
2026-01-01 10:00:05,500 - INFO - round 3/3 begins with 2 sites
2026-01-01 10:00:06,200 - INFO - every site now evaluates the models on its own patients
2026-01-01 10:00:08,000 - INFO - open this: /tmp/report.html
"""
STOCK_LOG = """\
2026-01-01 10:00:01,000 - INFO -
------
        Round 0 started.
2026-01-01 10:00:04,000 - INFO -
        Round 1 started.
2026-01-01 10:00:06,000 - INFO -
        Finished FedAvg.
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overhead_data.phantom_folder(tmp_path_factory.mktemp("overhead"), 5, shape=SMALL)


@pytest.fixture(scope="module")
def site(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return overhead_data.phantom_site(data, tmp_path_factory.mktemp("cache"), 2, augment=True)


def test_both_networks_are_the_same_function(site: Any) -> None:
    import torch

    theirs = overhead_step.monai_network().eval()
    theirs.load_state_dict(site.model.module.state_dict())
    images = torch.rand(2, 8, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = theirs(images), site.model.module.eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("row", overhead_step.ROWS)
def test_monai_batches_are_what_the_network_takes(site: Any, row: str) -> None:
    images, targets = next(overhead_step.monai_batches(site, row, 2))
    assert images.shape == (2, 8, *overhead_data.PATCH)
    assert targets.shape == (2, 3, *overhead_data.PATCH)
    assert set(np.unique(targets)) <= {0.0, 1.0}
    assert set(np.unique(images[:, 4:])) <= {0.0, 1.0}


def test_both_loops_step_in_turn() -> None:
    calls: list[tuple[str, int]] = []
    found = overhead_step.paired(lambda n: calls.append(("a", n)), lambda n: calls.append(("b", n)), 3, 2)
    assert calls == [("a", 2), ("b", 2), ("a", 3), ("b", 3), ("b", 3), ("a", 3)]
    assert found.keys() == {"ours_s", "monai_s", "ratio"}


def test_step_measures_every_row(tmp_path: Path) -> None:
    rows = ("matched", "compute")
    found = overhead_step.measure(tmp_path, patients=5, batches=(2,), steps=1, repeats=1, rows=rows)
    assert list(found) == ["matched, batch 2", "compute, batch 2"]
    assert all(value > 0 for row in found.values() for value in row.values())


def test_reading_counts_files_and_the_second_epoch_decodes_nothing() -> None:
    found = overhead_reading.measure(patients=5, shape=SMALL)
    # hospital 0 lacks no modality: four images and a mask per patient
    assert found["first_open_decodes"] == 25
    assert found["second_open_decodes"] == found["first_epoch_decodes"] == found["second_epoch_decodes"] == 0


def test_site_memory_grows_monotonically(data: Path) -> None:
    found = overhead_reading.train(str(data), batch=2, steps=1)
    assert 0 < found["after_opening_mb"] <= found["after_training_mb"] <= found["site_peak_rss_mb"]


def test_server_takes_every_update() -> None:
    found = overhead_server.measure(sites=3, num_rounds=2, channels=(4, 8))
    assert 0 < found["start_rss_mb"] <= found["peak_rss_mb"]
    assert found["parameters"] > 1000


def test_a_failing_process_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no_such_folder"):
        overhead_data.in_own_process("overhead_reading", "train", data="no_such_folder", batch=2)


def test_both_jobs_are_written(tmp_path: Path) -> None:
    for name in ("ours", "stock"):
        job = overhead_simulator.write_job(name, tmp_path / name, 3)
        assert (job / "meta.json").is_file()
        server = (job / "app/config/config_fed_server.json").read_text()
        assert '"num_rounds": 3' in server
    compile(next((tmp_path / "stock/job").rglob("client.py")).read_text(), "client.py", "exec")


@pytest.mark.parametrize(
    ("name", "log", "num_rounds", "round_s", "finish_s"),
    [("ours", OUR_LOG, 3, 0.6, 1.8), ("stock", STOCK_LOG, 2, 2.0, 0.0)],
)
def test_rounds_are_read_off_the_log(name: str, log: str, num_rounds: int, round_s: float, finish_s: float) -> None:
    found = overhead_simulator.read_log(name, log, num_rounds)
    assert found == pytest.approx({"log_round_s": round_s, "finish_s": finish_s})


@pytest.mark.parametrize("log", [OUR_LOG.replace("round 3/3", "round x"), OUR_LOG + "LOST site-1", OUR_LOG[:200]])
def test_an_incomplete_run_is_an_error(log: str) -> None:
    with pytest.raises(RuntimeError, match="rounds"):
        overhead_simulator.read_log("ours", log, 3)


def test_the_json_line_has_the_promised_keys() -> None:
    run = {"start_s": 10.0, "round_s": 0.5, "log_round_s": 0.5, "finish_s": 1.0}
    step = {"ours_s": 0.05, "monai_s": 0.1, "ratio": 0.5}
    opened = {"first_open_s": 1.0, "second_open_s": 0.1, "first_open_decodes": 5, "second_open_decodes": 0}
    raw = {
        "train": {"matched, batch 4": step, "compute, batch 4": step},
        "simulator": {"ours": run, "stock": run, "ratio": {"start_s": 1.0, "round_s": 0.25, "log_round_s": 0.2}},
        "reading": opened | {"second_epoch_decodes": 0},
        "server": {n: {"start_rss_mb": 1.0, "peak_rss_mb": 2.0, "round_s": 0.1} for n in ("4", "16", "64")},
        "site": {"site_peak_rss_mb": 3.0},
    }
    result = overhead.summary(raw)
    assert result["train_step_ratio"] == 0.5
    assert (result["sim_start_ratio"], result["sim_round_ratio"]) == (1.0, 0.25)
    assert result["server_rss_mb"] == {"4": 2.0, "16": 2.0, "64": 2.0}
    assert result["second_epoch_decodes"] == 0
    parts = [common.Part({"part": name}, "abc", {}, 1.0, found) for name, found in raw.items()]
    assert len(overhead.tables(parts)["costs"].lines) == 2 + 13
    assert overhead.summary({}) == {"raw": {}}


def t4(t: float) -> float:
    """Student's distribution function with 4 degrees of freedom, in closed form."""
    s = 1 + t * t / 4
    return 0.5 + 0.375 * t / math.sqrt(s) * (1 - t * t / (12 * s))


def test_tost_is_the_closed_form_of_student() -> None:
    # -2 .. 2 hundredths around 0.5 hundredths: standard deviation sqrt(2.5) hundredths, standard error sqrt(0.5)
    found = fixed_point_dice.tost([0.01 * k + 0.005 for k in (2, -1, 0, 1, -2)], margin=0.02)
    error = 0.01 * math.sqrt(0.5)
    assert found["p_low"] == pytest.approx(1 - t4(0.025 / error), rel=1e-9)
    assert found["p_high"] == pytest.approx(t4(-0.015 / error), rel=1e-9)
    assert found["p"] == found["p_high"]
    assert t4(found["high"] / error - 0.005 / error) == pytest.approx(0.95, rel=1e-9)
    assert found["low"] + found["high"] == pytest.approx(2 * 0.005)


@pytest.mark.parametrize(("factor", "equivalent"), [(0.999, False), (1.001, True)])
def test_equivalent_is_the_interval_inside_the_margin(factor: float, equivalent: bool) -> None:
    differences = [0.01, -0.02, 0.0, 0.015, -0.01]
    whole = fixed_point_dice.tost(differences)
    reach = max(-whole["low"], whole["high"])
    assert fixed_point_dice.tost(differences, margin=factor * reach)["equivalent"] is equivalent


@pytest.mark.parametrize(("value", "equivalent"), [(0.0, True), (0.019, True), (0.03, False)])
def test_tost_without_spread_or_with_one_seed(value: float, equivalent: bool) -> None:
    assert fixed_point_dice.tost([value] * 5)["equivalent"] is equivalent
    assert fixed_point_dice.tost([value])["p"] is None


@pytest.mark.parametrize("bits", [8, 16])
def test_the_sum_of_the_benchmark_keeps_the_published_error(bits: int) -> None:
    from wardround.algorithms.schedule import Schedule

    schedule = Schedule(2, 1, 0.05, 0.9, True, 0.0, 10.0, "cosine")
    rng, variables = np.random.default_rng(0), {"model:a": np.ones((30, 30), np.float32)}
    total = fixed_point_dice.FixedPointSum(variables, ["x", "y"], bits, schedule, seed=0)(0)
    step, weights = total.grid.error().max(), (40, 7)
    updates = [{"model:a": rng.normal(0, 0.1, (30, 30)).astype(np.float32)} for _ in weights]
    for update, weight in zip(updates, weights, strict=True):
        total.add(update, weight)
    off = total.mean()["model:a"] - total.exact.mean()["model:a"]
    assert total.clipped == [0]
    assert 0 < np.abs(off).max() < 2 * step / (sum(weights) / fixed_point_dice.REFERENCE_PATIENTS)


def test_a_payload_is_compared_with_float32_of_the_same_seed() -> None:
    one = {"dice": {"x": [0.5, 0.7]}, "clipped": [0], "error": [0.1], "coded": 9}
    part = common.Part(
        {"data": "lgg", "seed": 0}, "abc", {}, 1.0, {"float": {"x": [0.4, 0.7]}, "fixed": {"16": one, "8": one}}
    )
    assert fixed_point_dice.compare([part], "8")["difference"] == pytest.approx(0.05)
    found = fixed_point_dice.tables([part])
    assert [line.split(" | ")[:4] for line in found["equivalence"].lines[2:]] == [
        ["| lgg", bits, site, "0.550"] for bits in ("16", "8") for site in ("mean", "x")
    ]
    assert found["error"].lines[2] == "| lgg | 16 | 0 of 9 | 0.1 |"
    with pytest.raises(ConfigRefused, match="other settings"):
        fixed_point_dice.tables([part, dataclasses.replace(part, settings={"rounds": 9})])


def test_every_benchmark_prints_its_json_through_the_shared_function() -> None:
    """json.dumps writes NaN, which is no JSON: `finish` does not."""
    for script in SCRIPTS:
        text = (BENCHMARKS / script).read_text()
        assert re.search(r"\bfinish\(", text), script
        assert not re.search(r"print\(json\.dumps", text), script


def test_the_json_line_is_valid_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"one": float("nan"), 0.5: [np.float64("nan"), (1, float("inf"))], "gap": common.interval([0.25])}
    common.finish(result, as_json=True)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"one": None, "0.5": [None, [1, "inf"]], "gap": [0.25, None, None]}
    common.finish(result, as_json=False)
    assert not capsys.readouterr().out


def test_an_interval_of_one_seed_is_shown_without_bounds() -> None:
    assert common.cell(common.interval([0.25]), "+") == "+0.250"
    assert common.cell(common.interval([0.1, 0.1]), "+") == "+0.100 [+0.100, +0.100]"
    assert common.cell(None) == "-"
