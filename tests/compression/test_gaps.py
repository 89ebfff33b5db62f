import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.compression.gaps import from_gaps, gaps_length, to_gaps
from wardround.core.errors import RoundRefused


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_places_come_back(drawn):
    total, chosen = drawn
    places = np.array(sorted(chosen))
    row = to_gaps(places, total)
    assert len(row) == gaps_length(len(places), total)
    np.testing.assert_array_equal(from_gaps(row, len(places), total), places)


def test_by_hand():
    assert to_gaps(np.array([0, 1, 257, 512]), 600).tolist() == [0, 0, 255, 0, 254, 255]
    assert to_gaps(np.array([599]), 600).tolist() == [255, 255, 89]


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=6, max_size=6))
def test_any_bytes_are_places_or_refused(data):
    """A forged row gives strictly increasing places below the total, or is refused."""
    try:
        places = from_gaps(np.frombuffer(data, np.uint8), 4, 600)
    except RoundRefused:
        return
    assert len(places) == 4
    assert (np.diff(places, prepend=-1) > 0).all()
    assert places[-1] < 600


@pytest.mark.parametrize("row", [[0, 0, 0, 0, 0, 0], [255] * 6, [254, 254, 254, 0, 255, 255], [1, 1, 1, 1]])
def test_forged_rows(row):
    with pytest.raises(RoundRefused):
        from_gaps(np.array(row, np.uint8), 4, 600)
