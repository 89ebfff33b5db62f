import pytest

from wardround.reports.html import PARTS
from wardround.reports.svg import Axis, Drawing, dots, label, line, path


def test_an_axis_is_linear_and_stops_at_its_ends() -> None:
    axis = Axis(0.0, 2.0, 100, 200)
    assert [axis.at(v) for v in (0.0, 0.5, 2.0, -9.0, 9.0)] == [100, 125, 200, 100, 200]
    turned = Axis(0.0, 1.0, 90, 10)
    assert turned.at(0.25) == 70
    assert Axis(3.0, 3.0, 5, 9).at(3.0) == 5


@pytest.mark.parametrize(
    ("low", "high", "wanted", "ticks"),
    [
        (0.0, 1.0, 3, [0.0, 0.5, 1.0]),
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.3, 0.8, 5, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (0.0, 7.0, 5, [0.0, 2.0, 4.0, 6.0]),
        (-3.0, 130.0, 3, [0.0, 50.0, 100.0]),
        (2.0, 2.0, 3, [2.0]),
    ],
)
def test_ticks(low: float, high: float, wanted: int, ticks: list[float]) -> None:
    assert Axis(low, high, 0, 1).ticks(wanted) == pytest.approx(ticks)


@pytest.mark.parametrize("high", [1e-9, 0.03, 0.7, 1.0, 9.99, 123.0, 1e12])
def test_ticks_are_few_and_inside(high: float) -> None:
    ticks = Axis(0.0, high, 0, 1).ticks(4)
    assert 2 <= len(ticks) <= 5
    assert all(0 <= tick <= high * (1 + 1e-6) for tick in ticks)


def test_a_path_keeps_its_gaps() -> None:
    runs = [[(0.0, 1.0), (2.0, 3.5)], [(4.0, 4.0)], [(5.0, 5.0), (6.0, 6.0)]]
    (found,) = path(runs, "line")
    assert (found.tag, found.attributes) == ("path", {"d": "M0 1L2 3.5M5 5L6 6", "class": "line"})
    assert path([[(4.0, 4.0)]], "line") == []
    drawn = PARTS.drawing(Drawing(10, 20, "", dots(runs[1], "dot")))
    assert '<circle cx="4" cy="4" r="2.6" class="dot"></circle>' in drawn


def test_a_drawing_speaks_and_escapes() -> None:
    shapes = [line(0, 1, 2, 3, "grid"), label(1, 2, "<b>", kind='"<b>')]
    found = PARTS.drawing(Drawing(10, 20, "<b> & more", shapes)).strip()
    assert found.startswith('<svg viewBox="0 0 10 20" role="img" aria-label="&lt;b&gt; &amp; more">')
    assert "<b>" not in found
