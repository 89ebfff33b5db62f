"""Any threshold of the shares, and nothing below it."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.errors import RoundRefused
from wardround.secagg.shamir import PRIME, SHARE_BYTES, combine, split

SECRETS = [bytes(32), b"\xff" * 32, bytes(range(32))]
quick = settings(max_examples=20, deadline=None)


def value_at(points, x):
    """Lagrange's polynomial through points {x: y}, evaluated at x, the slow way."""
    total = 0
    for xi, yi in points.items():
        term = yi
        for xj in points:
            if xj != xi:
                term = term * (x - xj) * pow(xi - xj, -1, PRIME) % PRIME
        total += term
    return total % PRIME


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (3, 3), (4, 3), (6, 4), (5, 1)])
def test_every_set_of_threshold_or_more_shares_gives_the_secret(secret, count, threshold):
    shares = dict(enumerate(split(secret, count, threshold), 1))
    assert {len(share) for share in shares.values()} == {SHARE_BYTES}
    for size in range(threshold, count + 1):
        for chosen in combinations(shares, size):
            assert combine({x: shares[x] for x in chosen}) == secret


def test_256_sites():
    shares = dict(enumerate(split(SECRETS[2], 256, 255), 1))
    assert combine({x: share for x, share in shares.items() if x != 17}) == SECRETS[2]


@quick
@given(secret=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32), data=st.data())
def test_fewer_shares_fit_every_secret(secret, other, data):
    """Through threshold - 1 shares and ANY value at 0 goes exactly one polynomial of the degree that split draws."""
    count = data.draw(st.integers(2, 6))
    threshold = data.draw(st.integers(2, count))
    shares = dict(enumerate(split(secret, count, threshold), 1))
    seen = data.draw(st.permutations(sorted(shares)))[: threshold - 1]
    points = {0: int.from_bytes(other, "big")} | {x: int.from_bytes(shares[x], "big") for x in seen}
    unseen = next(x for x in shares if x not in seen)
    imagined = value_at(points, unseen).to_bytes(SHARE_BYTES, "big")
    assert combine({x: shares[x] for x in seen} | {unseen: imagined}) == other


def test_shares_are_drawn_afresh():
    """Two splittings of one secret differ in every share (threshold 1 has nothing to draw)."""
    one, two = split(SECRETS[2], 5, 3), split(SECRETS[2], 5, 3)
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_too_few_and_wrong_shares_are_refused():
    shares = dict(enumerate(split(SECRETS[2], 5, 4), 1))
    enough = {x: shares[x] for x in (1, 2, 4, 5)}
    wrong = [{}, {1: shares[1]}, {x: shares[x] for x in (1, 2, 3)}]
    wrong.append(enough | {5: (int.from_bytes(shares[5], "big") ^ 1).to_bytes(SHARE_BYTES, "big")})
    wrong.append({1: shares[1], 2: shares[2], 4: shares[5], 5: shares[4]})
    wrong.append(enough | {5: split(SECRETS[2], 5, 4)[4]})
    for some in wrong:
        with pytest.raises(RoundRefused, match="do not fit together"):
            combine(some)


@pytest.mark.parametrize(
    ("value", "count", "threshold"), [(bytes(31), 3, 2), (bytes(33), 3, 2), (bytes(32), 3, 0), (bytes(32), 3, 4)]
)
def test_what_cannot_be_split_is_refused(value, count, threshold):
    with pytest.raises(RoundRefused, match="1 <= threshold <= count"):
        split(value, count, threshold)
