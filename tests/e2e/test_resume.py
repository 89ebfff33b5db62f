import numpy as np


def test_a_killed_run_goes_on_where_it_was(uninterrupted, resumed):
    """SCAFFOLD needs the sites' memory: with the state of both sides the weights are those of one run, bit by bit."""
    done, run = resumed
    assert 1 <= done < 3
    assert f"RESUMED from round {done} of 3" in run.said
    (whole, _), (mended, _) = uninterrupted.model(), run.model()
    for name in whole:
        np.testing.assert_array_equal(whole[name], mended[name])


def test_the_report_of_a_resumed_run_tells_all_rounds(uninterrupted, resumed):
    _, run = resumed
    assert run.report["outcome"] == "complete"
    assert [entry["round"] for entry in run.report["rounds"]] == [0, 1, 2]
    assert run.report["final"] == uninterrupted.report["final"]
    assert run.report["best"] == uninterrupted.report["best"]


def test_an_uninterrupted_run_does_not_claim_to_resume(uninterrupted):
    assert "RESUMED" not in uninterrupted.said
