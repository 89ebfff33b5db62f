import pytest

from wardround.core.attendance import Attendance

NAMES = ["site-1", "site-2", "site-3"]


class Problems:
    def __init__(self):
        self.problems, self.lost = [], []

    def problem(self, text, site=None):
        self.problems.append(text)
        self.lost.append(site)


@pytest.fixture
def there():
    """Three sites in the first of two rounds."""
    made = Attendance(NAMES, 2, Problems())
    made.begin_round(0)
    made.problems = made._problems.problems
    return made


def test_the_sites_are_sorted_and_each_is_there_once():
    assert Attendance(["b", "a", "b"], 1, Problems()).configured == ["a", "b"]


def test_who_is_missing_is_there_again_in_the_next_round(there, caplog):
    there.miss("site-2", "no answer in time")
    assert there.present() == ["site-1", "site-3"]
    assert there.left() == NAMES
    assert (there.out, there.problems) == ({}, [])
    words = "MISSING site-2 in round 1: no answer in time; it is asked again in the next round"
    assert words in caplog.text
    there.begin_round(1)
    assert there.present() == NAMES
    assert there.missing == {}


def test_who_is_out_stays_out(there, caplog):
    there.lose("site-2", "refused: data")
    there.begin_round(1)
    assert there.left() == there.present() == ["site-1", "site-3"]
    assert there.missing == there.out == {"site-2": "refused: data"}
    assert there.problems == ["site-2 was lost in round 1: refused: data (see that site's own log)"]
    assert there._problems.lost == ["site-2"]
    assert "LOST site-2 in round 1: refused: data" in caplog.text


def test_the_first_reason_counts(there):
    there.lose("site-1", "refused: data")
    there.lose("site-1", "no answer in time")
    there.miss("site-1", "not connected")
    assert there.out == there.missing == {"site-1": "refused: data"}
    assert len(there.problems) == 1
    there.miss("site-2", "not connected")
    there.miss("site-2", "no answer in time")
    assert there.missing["site-2"] == "not connected"


def test_who_was_missing_can_be_lost(there):
    there.miss("site-1", "no answer in time")
    there.lose("site-1", "it lied")
    assert there.missing == there.out == {"site-1": "it lied"}


def test_in_the_judgement_there_is_no_next_time(there):
    there.begin_round(2)
    there.miss("site-2", "no answer in time")
    assert there.problems == ["site-2 was lost in the final evaluation: no answer in time (see that site's own log)"]


@pytest.mark.parametrize(
    ("round_", "words"),
    [(-1, "the join"), (0, "round 1"), (1, "round 2"), (2, "the final evaluation")],
)
def test_rounds_in_words(there, round_, words):
    assert there.when(round_) == words
    there.begin_round(round_)
    assert there.when() == words


def test_a_join_in_a_later_round_is_named_as_such(there):
    there.begin_round(1)
    there.lose("site-3", "it serves another job", round_=-1)
    assert "lost in the join" in there.problems[0]


def test_who_came_back_is_noted_until_somebody_has_seen_it(there, caplog):
    there.came_back("site-2")
    assert there.returned == {"site-2"}
    assert "RETURNED site-2" in caplog.text
