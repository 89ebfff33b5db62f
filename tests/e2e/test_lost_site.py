import json

import numpy as np


def test_the_others_finish(damaged):
    _, run = damaged
    weights, meta = run.model()
    assert meta["round"] == 2
    assert all(np.isfinite(block).all() for block in weights.values())
    assert set(run.report["final"]) == {"site-1", "site-3"}
    for entry in run.report["rounds"]:
        assert entry["configured"] == ["site-1", "site-2", "site-3"]
        assert entry["aggregated"] == ["site-1", "site-3"]


def test_it_never_looks_like_a_success(damaged):
    _, run = damaged
    assert run.report["outcome"] == "incomplete"
    assert [problem for problem in run.report["problems"] if "site-2" in problem and "data" in problem]
    assert "LOST site-2" in run.said
    assert run.code != 0


def test_the_reason_stays_at_the_site(damaged):
    broken, run = damaged
    assert broken.name in run.words_of("site-2")
    assert broken.name not in run.words_of("server")
    assert broken.parent.name not in json.dumps(run.report)
    assert broken.name not in run.words_of("site-1")


def test_a_lost_site_releases_nothing(damaged):
    _, run = damaged
    assert not (run.site("site-2") / "wardround" / "releases.jsonl").exists()
