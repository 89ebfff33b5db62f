from pathlib import Path

import pytest

from wardround.reports.markup import bullets, duration, interval, number, page, save, say, size, table, tag, text

EVIL = "<script>alert('x')</script>\" onload=\"y"


def test_every_text_and_attribute_is_escaped() -> None:
    pieces = [text(EVIL), say("p", EVIL), bullets([EVIL]), tag("p", class_=EVIL), table(EVIL, [EVIL], [[text(EVIL)]])]
    for piece in [*pieces, page(EVIL, text(EVIL))]:
        assert "<script" not in piece
        assert 'onload="' not in piece


def test_a_table_has_headers_for_columns_and_rows() -> None:
    found = table("what", ["a", "b"], [[text("r1"), text(1)], [text("r2"), text(2)]], marked=1)
    assert found.count('scope="col"') == 2
    assert found.count('scope="row"') == 2
    assert "<caption>what</caption>" in found
    assert '<tr class="deployed"><th scope="row">r2</th><td>2</td></tr>' in found


def test_numbers() -> None:
    assert number(0.12345) == "0.123"
    assert number(-0.5, 1) == "−0.5"
    assert number(0.0) == "0.000"
    assert number(None) == "–"


def test_intervals() -> None:
    assert interval({"value": 0.5, "low": 0.25, "high": 0.75}) == '0.500<span class="ci"> [0.250, 0.750]</span>'
    assert interval({"value": 0.5, "low": None, "high": 0.75}) == '0.500<span class="ci"> no interval</span>'
    assert interval({"value": None}) == interval({}) == interval(None) == "–"


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_340_000, "2.3 MB"), (5 * 10**9, "5.0 GB")],
)
def test_sizes(count: int | None, words: str) -> None:
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "–"), (12.34, "12.3 s"), (243, "4 min 3 s"), (59.99, "60.0 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    save(target, "one")
    assert save(target, "två") == target
    assert target.read_text(encoding="utf-8") == "två"
    assert list(target.parent.iterdir()) == [target]


def test_an_interval_that_looks_exact_is_not_shown() -> None:
    for low, high in ((1 / 3, 1 / 3), (0.33341, 0.33349), (None, 0.5)):
        found = interval({"value": 1 / 3, "low": low, "high": high, "cases": 4})
        assert "no interval" in found
        assert "[" not in found
