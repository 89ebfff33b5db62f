"""What a site codes and keeps: once for a round, what is left over, and what is refused."""

import numpy as np
import pytest

from wardround.core.errors import ReleaseRefused, RoundRefused
from wardround.secagg import grids
from wardround.secagg.fixed_point import decode, first_grid

ALL = ["s1", "s2", "s3", "s4"]


def test_what_is_held_and_said(hall, initial, updates):
    site, update = hall("fixed").sites["s1"], updates()["s1"]
    assert not site.holds(0)
    receipt = site.hold(0, update, 2, initial, {"loss": 0.5, "name": "a"})
    assert site.holds(0)
    assert site.said(0) == {"loss": 0.5, "name": "a"}
    grid = site.grid(0)
    assert grid == first_grid(initial, 8, weighted=True)
    assert receipt == {"values": grid.fields, "clipped": receipt["clipped"], "bits": 8}
    before = (site.folder / "held-00000.npz").read_bytes()
    assert site.hold(0, update, 2, initial, {"loss": 9.0}) == receipt
    assert (site.folder / "held-00000.npz").read_bytes() == before
    assert site.folder.stat().st_mode & 0o777 == 0o700
    assert not list(site.folder.glob("*.new"))


def test_two_rounds_are_kept_and_the_leftover_is_carried_on(hall, initial, updates):
    """Zero updates in round 2: what is coded then is the leftover of round 1."""
    made = hall("fixed", weights="equal")
    made.whole(0, updates(), initial)
    site = made.sites["s1"]
    residual = np.load(site.folder / "held-00000.npz")["residual"].astype(np.float64)
    assert np.any(residual != 0)
    nothing = {name: {block: np.zeros_like(b) for block, b in initial.items()} for name in ALL}
    made.whole(1, nothing, initial)
    grid, held = site.grid(1), np.load(site.folder / "held-00001.npz")
    q, _ = decode(grid, held["fields"].astype(np.int64))
    # a leftover is below one step, and kept to the 24 bits of a float32
    assert np.all(np.abs(q * grid.steps() + held["residual"] - residual) <= 2.0**-24 * grid.error())
    made.whole(2, nothing, initial)
    assert sorted(path.name for path in site.folder.glob("held-*")) == ["held-00001.npz", "held-00002.npz"]


@pytest.mark.parametrize("after", ["a", "b"])
def test_what_is_left_over_joins_only_an_update_to_which_the_same_was_done(hall, initial, updates, after):
    """Nobody clipped or noised it as the update of another policy is: it stays at the site."""
    made = hall("fixed", weights="equal")
    site, given = made.sites["s1"], updates()["s1"]
    site.hold(0, given, 2, initial, {"outbound_digest": "a"})
    left = site.left(0, 2)
    grids.write(site.folder, 1, site.grid(0))
    site.hold(1, {name: np.zeros_like(block) for name, block in given.items()}, 2, initial, {"outbound_digest": after})
    assert any(block.any() for block in left.values())
    carried = site.left(1, 2)
    sent = decode(site.grid(1), site.fields(1).astype(np.int64))[0] * site.grid(1).steps()
    whole = sent + site.grid(1).layout.flatten(carried)
    expected = site.grid(1).layout.flatten(left) if after == "a" else np.zeros(whole.size)
    assert np.allclose(whole, expected, rtol=0, atol=1e-7)


def test_sites_round_with_draws_of_their_own(hall, initial):
    made, same = hall("fixed"), {name: np.full(b.shape, 0.0123, np.float32) for name, b in initial.items()}
    made.hold(0, {name: same for name in ("s1", "s2")}, initial)
    one, two = (np.load(made.sites[name].folder / "held-00000.npz")["fields"][:1000] for name in ("s1", "s2"))
    assert np.any(one != two)


def test_other_blocks_are_refused(hall, initial, updates):
    made = hall("fixed")
    update = updates()["s1"]
    with pytest.raises(ReleaseRefused, match="blocks of this round's grid"):
        made.sites["s1"].hold(0, update | {"model:more": np.zeros(3, np.float32)}, 2, initial, {})
    with pytest.raises(ReleaseRefused, match="blocks of this round's grid"):
        made.sites["s1"].hold(0, update | {"model:bias": np.zeros(3, np.float32)}, 2, initial, {})
    made.whole(0, updates(), initial)
    with pytest.raises(ReleaseRefused, match="blocks of this round's grid"):
        made.sites["s1"].hold(1, {"model:conv": update["model:conv"]}, 2, initial, {})


def test_a_round_that_was_not_reached_is_refused(hall, initial, updates):
    with pytest.raises(RoundRefused, match="the grid of round 2"):
        hall("fixed").sites["s1"].hold(1, updates()["s1"], 2, initial, {})


def test_a_crash_while_writing_leaves_no_update(hall, initial, updates, monkeypatch):
    site = hall("fixed").sites["s1"]
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        site.hold(0, updates()["s1"], 2, initial, {})
    assert not site.holds(0)
    assert not list(site.folder.glob("*.new"))
