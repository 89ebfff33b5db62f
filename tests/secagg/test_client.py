"""A hospital's half: five ways to one sum, bit for bit, over rounds; and what a site refuses from ring and server."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, Refusal, ReleaseRefused, RoundRefused
from wardround.messages import statements
from wardround.messages.statements import Moment
from wardround.secagg import encryption_key
from wardround.secagg.client import SecAggClient
from wardround.secagg.fixed_point import decode, first_grid, next_grid
from wardround.secagg.incoming_hop import Incoming
from wardround.secagg.key_agreement import KeyAgreement
from wardround.secagg.roster import ring_order, roster_digest

JOB = "0b" * 32

MODES = ["fixed", "masked", "he", "he with masks", "ring"]
ENCRYPTED = ["he", "he with masks", "ring"]
ALL = ["s1", "s2", "s3", "s4"]


def train(hall, updates, initial, silent=()):
    """Three rounds; in the second the silent ones train and are not heard. Return the means and the grids."""
    means, grids = [], []
    for round_ in range(3):
        quiet = silent if round_ == 1 else ()
        means.append(hall.whole(round_, updates(4, seed=round_), initial, quiet))
        for name in quiet:  # they are told the sum like everybody
            site, payload = hall.sites[name], hall.secagg_server.payload()
            site.reveal(hall.moment(round_), hall.secagg_server.added, payload, 1.0, roster_digest(hall.prepares))
        grids.append({name: site.grid(round_ + 1).digest for name, site in hall.sites.items()})
    return means, grids


def send(hall, mode, names=ALL):
    hall.around(hall.moment(), names) if mode == "ring" else hall.submit(hall.moment(), names)
    hall.unmask(hall.moment())
    return hall.secagg_server.payload()


@pytest.fixture
def begun(hall, updates, initial):
    """begun(mode) -> a hall whose sites have trained, before anything is sent"""

    def make(mode, **changed):
        made = hall(mode, **changed)
        made.prepare(made.moment())
        made.hold(0, updates(), initial)
        return made

    return make


# --- one sum


@pytest.mark.parametrize(
    ("silent", "changed"),
    [
        ((), {}),
        (("s2",), {}),
        (("s4",), {"weights": "equal", "bits": 16}),
        (("s1",), {"weights": "patients_plaintext", "bits": 5, "threshold": 0, "sites": 5}),
    ],
)
def test_five_ways_give_the_same_bits(hall, updates, initial, silent, changed):
    expected, grids = train(hall("fixed", **changed), updates, initial, silent)
    assert all(len(set(one.values())) == 1 for one in grids)
    assert np.any(expected[0]["model:conv"])
    for mode in MODES[1:]:
        found, steps = train(hall(mode, **changed), updates, initial, silent)
        assert steps == grids
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            for name in other:
                np.testing.assert_array_equal(one[name], other[name], err_msg=mode)


def test_the_mean_is_that_of_the_updates_within_the_published_bound(begun, updates):
    hall = begun("ring")
    payload = send(hall, "ring")
    mean, known = hall.sites["s1"].reveal(hall.moment(), hall.secagg_server.added, payload, 1.0)
    assert known == {"sites": 4, "patients": 2 + 4 + 6 + 8}
    grid, given = hall.sites["s1"].grid(0), updates()
    for name, bound in grid.layout.unflatten(grid.error()).items():
        exact = np.average([given[s][name].astype(np.float64) for s in ALL], axis=0, weights=[2, 4, 6, 8])
        # four sites, each within one step; the weights n / 8 add up to 2.5; then float32
        assert np.all(np.abs(mean[name] - exact) < 4 * bound / 2.5 + 2.0**-24 * np.abs(mean[name]))


def test_equal_weights_tell_no_patients(begun):
    hall = begun("masked", weights="equal")
    _, known = hall.sites["s1"].reveal(hall.moment(), ALL, send(hall, "masked"), 1.0)
    assert known == {"sites": 4, "patients": None}


@pytest.mark.parametrize("mode", ["masked", "ring"])
def test_an_attempt_that_fails_is_repeated_with_the_same_integers(begun, initial, updates, mode):
    hall = begun(mode)
    first, _ = hall.sites["s1"].reveal(hall.moment(), ALL, send(hall, mode), 1.0)
    again = hall.moment(attempt=1)
    hall.prepare(again)
    hall.hold(0, updates(seed=99), initial)  # trained anew: the old integers stay
    hall.around(again, ALL) if mode == "ring" else hall.submit(again, ALL)
    hall.unmask(again)
    second, _ = hall.sites["s1"].reveal(again, ALL, hall.secagg_server.payload(), 1.0)
    np.testing.assert_array_equal(first["model:conv"], second["model:conv"])
    assert hall.sent[0][3] != hall.sent[-1][3]


def test_the_next_grid_comes_from_the_sum(begun):
    hall = begun("masked")
    site, payload = hall.sites["s1"], send(hall, "masked")
    site.reveal(hall.moment(), ALL, payload, 0.5)
    fields = sum(np.load(hall.sites[name].folder / "held-00000.npz")["fields"].astype(np.int64) for name in ALL)
    assert site.grid(1) == next_grid(site.grid(0), decode(site.grid(0), fields)[0], 4, 0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_site_that_diverged_is_refused_and_the_others_go_on(hall, initial, updates, mode, bad):
    made, given = hall(mode), updates()
    given["s3"]["model:bias"][7] = bad
    moment = made.moment()
    made.prepare(moment)
    with pytest.raises(ReleaseRefused, match="model:bias"):
        made.sites["s3"].hold(0, given["s3"], 6, initial, {})
    assert not made.sites["s3"].holds(0)
    assert not list(made.sites["s3"].folder.glob("held*"))
    with pytest.raises(RoundRefused, match="no readable held-00000"):
        made.sites["s3"].submit(moment, made.prepares, "00")
    left = [name for name in ALL if name != "s3"]
    made.hold(0, {name: given[name] for name in left}, initial)
    payload = send(made, mode, left)
    mean, _ = made.sites["s1"].reveal(moment, made.secagg_server.added, payload, 1.0)
    assert np.isfinite(mean["model:bias"]).all()


def test_a_missing_or_damaged_update_is_refused(begun):
    hall = begun("fixed")
    site, path = hall.sites["s1"], hall.sites["s1"].folder / "held-00000.npz"
    whole = path.read_bytes()
    spoilt = [whole[:size] for size in (0, 1, 10, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1)]
    spoilt += [b"no zip" * 100]
    for content in spoilt:
        path.write_bytes(content)
        for ask in (lambda: site.submit(hall.moment(), [], "00"), lambda: site.said(0)):
            with pytest.raises(RoundRefused, match="held-00000"):
                ask()
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    with pytest.raises(RoundRefused, match="held-00000"):
        site.submit(hall.moment(), [], "00")
    path.unlink()
    with pytest.raises(RoundRefused, match="held-00000"):
        site.said(0)


# --- submit


@pytest.mark.parametrize("mode", ["he", "he with masks"])
def test_a_digest_of_few_numbers_cannot_be_looked_up_without_the_sum_key(begun, mode):
    """The grid of a job of a few blocks has few values: who only hashes would find it in seconds."""
    hall = begun(mode)
    site, said = hall.sites["s1"], []
    for attempt in (0, 1):
        moment = hall.moment(attempt=attempt)
        hall.prepare(moment)
        said.append(statements.peek(site.submit(moment, hall.prepares, "ab" * 32)[0]))
    for word, plain in (("grid", site.grid(0).digest), ("model", "ab" * 32)):
        assert said[0][word] != said[1][word], "it belongs to one moment"
        assert plain not in (said[0][word], said[1][word])
    other = SecAggClient(hall.promise, site.agreement, bytes(32), site.folder, 0)
    assert other._grid_word(hall.moment()) != said[0]["grid"]
    assert hall.sites["s2"]._grid_word(hall.moment()) == said[0]["grid"]


# --- reveal


@pytest.mark.parametrize("mode", MODES)
def test_a_sum_of_two_is_refused(begun, mode, going_on):
    hall = begun(mode)
    payload = send(hall, mode)
    for sites in ([], ["s1"], ["s1", "s2"], ["s1", "s2", "s2"], ["s1"] * 4):
        with pytest.raises(ConfigRefused, match="3 to 8 sites"):
            hall.sites["s1"].reveal(hall.moment(), sites, payload, 1.0)
    with pytest.raises(RoundRefused, match="the grid of round 2"):
        hall.sites["s1"].grid(1)


def test_one_update_three_times_is_refused(begun, going_on):
    """A server that adds s1's ciphertext to itself and calls that a sum of three."""
    hall = begun("he")
    _, payload = hall.sites["s1"].submit(hall.moment(), hall.prepares, "00")
    cipher = hall.secagg_server._cipher
    total = cipher.add(cipher.add(cipher.add(None, payload), payload), payload)
    for sites in (["s1"] * 3, ["s1", "s2", "s3"], ["s1", "s1", "s1", "s2", "s3"]):
        with pytest.raises(Refusal, match=r"a tag that does not fit|3 to 8 sites|did not hide"):
            hall.sites["s2"].reveal(hall.moment(), sites, cipher.dump(total), 1.0)


@pytest.mark.parametrize("mode", ENCRYPTED)
def test_a_sum_that_is_not_what_its_caption_says_is_refused(begun, mode, going_on):
    hall = begun(mode)
    payload, moment = send(hall, mode), hall.moment()
    site = hall.sites["s2"]
    for sites in (["s1", "s2", "s3"], ["s1", "s2", "s3", "s5"], [*ALL, "s5"], [*ALL, "s1"]):
        with pytest.raises(RoundRefused, match="a tag that does not fit"):
            site.reveal(moment, sites, payload, 1.0)
    for other in (replace(moment, attempt=1), replace(moment, run="cd" * 16)):
        with pytest.raises(RoundRefused, match="did not hide an update for"):
            site.reveal(other, ALL, payload, 1.0)
        site.reveal(moment, ALL, payload, 1.0)
    mean, _ = site.reveal(moment, ALL, payload, 1.0)
    for spoilt in (b"", payload[:100], payload[:-1], payload + payload):
        with pytest.raises(RoundRefused):
            site.reveal(moment, ALL, spoilt, 1.0)
    np.testing.assert_array_equal(site.reveal(moment, ALL, payload, 1.0)[0]["model:conv"], mean["model:conv"])


def test_after_a_refused_sum_a_site_takes_no_more_in_that_job(begun):
    """A server that tries one sum after the other could learn from what is refused and what is not."""
    hall = begun("he")
    payload, site = send(hall, "he"), hall.sites["s2"]
    with pytest.raises(RoundRefused, match="a tag that does not fit"):
        site.reveal(hall.moment(), ALL[:3], payload, 1.0)
    for ask in (
        lambda: site.submit(hall.moment(), hall.prepares, "00"),
        lambda: site.agreement.join(hall.moment().run),
        lambda: site.agreement.join("cd" * 16),
        lambda: site.reveal(hall.moment(), ALL, payload, 1.0),
    ):
        with pytest.raises(RoundRefused, match="whose sum this site refused"):
            ask()


def test_tags_of_another_roster_do_not_fit(begun):
    """A server gives two jobs one run: the sites know better, by the fresh keys and the digest of the job in the joins."""
    hall = begun("he")
    payload, site = send(hall, "he", ALL[1:]), hall.sites["s1"]
    with pytest.raises(RoundRefused, match="a tag that does not fit"):
        site.reveal(hall.moment(), ALL[1:], payload, 1.0, "ab" * 32)


@pytest.mark.parametrize("flip", [1, 128])
def test_a_flipped_byte_of_a_sum_is_refused_or_changes_nothing(begun, flip, going_on):
    """The lowest bits of a ciphertext are noise that decryption rounds away: then the sum is the true one."""
    hall = begun("he")
    payload, site, refused = send(hall, "he"), hall.sites["s2"], 0
    mean, _ = site.reveal(hall.moment(), ALL, payload, 1.0)
    places = range(8, len(payload), len(payload) // 60)
    for place in places:
        spoilt = bytearray(payload)
        spoilt[place] ^= flip
        try:
            found, _ = site.reveal(hall.moment(), ALL, bytes(spoilt), 1.0)
        except RoundRefused:
            refused += 1
        else:
            np.testing.assert_array_equal(found["model:conv"], mean["model:conv"])
    assert refused > len(places) / 2


@pytest.mark.parametrize("mode", ["he with masks", "ring"])
def test_a_sum_whose_masks_were_not_opened_is_refused(begun, mode):
    hall = begun(mode)
    hall.around(hall.moment(), ALL) if mode == "ring" else hall.submit(hall.moment(), ALL)
    with pytest.raises(RoundRefused, match="a tag that does not fit"):
        hall.sites["s1"].reveal(hall.moment(), ALL, hall.secagg_server.payload(), 1.0)


@pytest.mark.parametrize("mode", ["fixed", "masked"])
def test_words_that_no_such_sum_gives_are_refused(begun, mode, going_on):
    hall = begun(mode)
    payload, site = send(hall, mode), hall.sites["s1"]
    for spoilt in (b"", payload[:-1], payload[:-8], payload + bytes(8), b"\xff" * len(payload)):
        with pytest.raises(RoundRefused):
            site.reveal(hall.moment(), ALL, spoilt, 1.0)
    single = hall.sites["s1"].secagg.packing.pack(np.full(site.grid(0).fields, 127, np.int32))
    with pytest.raises(RoundRefused, match="no sum of so many"):
        site.reveal(hall.moment(), ALL[:3], (single * np.uint64(4)).tobytes(), 1.0)


def test_fewer_patients_than_sites_are_refused(hall, initial, updates):
    made = hall("fixed")
    site = made.sites["s1"]
    made.hold(0, updates(), initial)
    nobody = site.secagg.packing.pack(np.zeros(site.grid(0).fields, np.int32)) * np.uint64(3)
    with pytest.raises(RoundRefused, match="fewer than its 3 sites"):
        site.reveal(made.moment(), ALL[:3], nobody.tobytes(), 1.0)


@pytest.mark.parametrize("mode", ENCRYPTED)
def test_a_wrong_sum_key_is_refused(begun, mode, authority, going_on):
    """At the reader: it opens noise. At a writer: its words for the grid are others, so that it is in no sum of theirs."""
    hall = begun(mode)
    site, wrong = hall.sites["s2"], encryption_key.new_seed()
    reader = SecAggClient(hall.promise, site.agreement, wrong, site.folder, 0)
    said = statements.peek(reader.ready(hall.moment(), hall.prepares, "00"))
    assert said["grid"] != statements.peek(site.ready(hall.moment(), hall.prepares, "00"))["grid"]
    payload = send(hall, mode)
    with pytest.raises(RoundRefused, match="a tag that does not fit"):
        reader.reveal(hall.moment(), ALL, payload, 1.0)
    site.reveal(hall.moment(), ALL, payload, 1.0)
    stranger = KeyAgreement(
        hall.promise, site.agreement.identity, authority, encryption_key.key_id(wrong), site.folder / "x", JOB
    )
    joins = [*(one for one in hall.joins if statements.peek(one)["site"] != "s2"), stranger.join(hall.moment().run)]
    for who, mine in ((stranger, joins), (hall.sites["s1"].agreement, joins)):
        with pytest.raises(RoundRefused, match="another sum key"):
            who.prepare(hall.moment(), mine)


def test_a_damaged_grid_folder_is_refused(begun):
    hall = begun("fixed")
    (hall.sites["s1"].folder / "grid-00000.json").unlink()
    with pytest.raises(RoundRefused, match=r"no grid-00000\.json"):
        hall.sites["s1"].submit(hall.moment(), hall.prepares, "00")


def test_a_grid_comes_back_from_its_file(begun, initial):
    hall = begun("fixed")
    assert hall.sites["s1"].grid(0) == first_grid(initial, 8, weighted=True)
    said = json.loads((hall.sites["s1"].folder / "grid-00000.json").read_text())
    assert set(said) == {"names", "shapes", "bits", "exponents", "weighted"}


# --- the ring


@pytest.fixture
def ring(begun):
    """A ring of four after two hops: (hall, order, hops)."""
    hall = begun("ring")
    order = ring_order(ALL, hall.prepares)
    last, payload, done = None, b"", ()
    for name in order[:2]:
        last, payload = hall.sites[name].hop(hall.moment(), hall.prepares, Incoming(tuple(ALL), done, last, payload))
        hall.secagg_server.hop(name, last, payload)
        hall.sent.append(("hop", name, last, payload))
        done = (*done, name)
    return hall, order


def handed(hall, order, **changed):
    """Return what the third site of the ring is handed."""
    _, _, statement, payload = hall.sent[-1]
    return replace(Incoming(tuple(ALL), tuple(order[:2]), statement, payload), **changed)


def test_the_ring_goes_on(ring):
    hall, order = ring
    last, payload = hall.sites[order[2]].hop(hall.moment(), hall.prepares, handed(hall, order))
    assert statements.peek(last)["done"] == order[:3]
    assert statements.peek(last)["sha256"] == hashlib.sha256(payload).hexdigest()


def test_a_ring_in_another_order_is_refused(ring):
    """Reversed, somebody before its turn, itself in it already, strangers, itself not ready."""
    hall, order = ring
    a, b, third, fourth = order
    for done in ((b, a), (a, b, third), (third,), (fourth,), (a, fourth), (a, a), (a, b, b), ("s9",), (a, "s9")):
        with pytest.raises(RoundRefused, match="out of order"):
            hall.sites[third].hop(hall.moment(), hall.prepares, handed(hall, order, done=done))
    with pytest.raises(RoundRefused, match="out of order"):
        hall.sites[third].hop(hall.moment(), hall.prepares, handed(hall, order, ready=(a, b, fourth)))
    # the first of the ring is not the last of it: the order is that of the mask keys, whatever is said
    with pytest.raises(RoundRefused, match="out of order"):
        hall.sites[a].hop(hall.moment(), hall.prepares, handed(hall, order, done=(b,)))


def test_a_silent_site_is_passed_over(ring):
    hall, order = ring
    first = hall.sent[0]
    incoming = Incoming(tuple(ALL), (order[0],), first[2], first[3])
    last, _ = hall.sites[order[2]].hop(hall.moment(), hall.prepares, incoming)
    assert statements.peek(last)["done"] == [order[0], order[2]]


def test_a_hop_without_its_statement_is_refused(ring):
    hall, order = ring
    with pytest.raises(RoundRefused, match="without its statement"):
        hall.sites[order[2]].hop(hall.moment(), hall.prepares, handed(hall, order, statement=None))


@pytest.mark.parametrize("place", [0, 3, 4, 100, 5000, 30_000, -1])
def test_a_flipped_byte_is_refused(ring, place):
    hall, order = ring
    spoilt = bytearray(hall.sent[-1][3])
    spoilt[place] ^= 1
    with pytest.raises(RoundRefused, match="altered on its way"):
        hall.sites[order[2]].hop(hall.moment(), hall.prepares, handed(hall, order, payload=bytes(spoilt)))


def test_a_truncated_or_other_hop_is_refused(ring):
    hall, order = ring
    whole, earlier = hall.sent[-1][3], hall.sent[0]
    for payload in (b"", whole[:4], whole[:-1], whole + b"\0", earlier[3]):
        with pytest.raises(RoundRefused, match="altered on its way"):
            hall.sites[order[2]].hop(hall.moment(), hall.prepares, handed(hall, order, payload=payload))
    with pytest.raises(RoundRefused, match="another order or grid"):
        hall.sites[order[2]].hop(
            hall.moment(), hall.prepares, handed(hall, order, statement=earlier[2], payload=earlier[3])
        )


def test_lies_about_a_hop_are_refused(ring, identity, impostor):
    hall, order = ring
    signed = hall.sent[-1][2]
    said = {key: statements.peek(signed)[key] for key in statements.SHAPES["hop"]}
    a, b, third, _ = order

    def hop(statement):
        return hall.sites[third].hop(hall.moment(), hall.prepares, handed(hall, order, statement=statement))

    def sign(who, moment=None, kind="hop", **changed):
        return statements.sign(who, kind, moment or hall.moment(), **said | changed)

    hop(sign(identity(b)))
    for statement, why in (
        (sign(identity(a)), "another order or grid"),
        (sign(identity(b), done=[b]), "another order or grid"),
        (sign(identity(b), done=[b, a]), "another order or grid"),
        (sign(identity(b), grid="00"), "another order or grid"),
        (sign(identity(b), roster="00"), "another order or grid"),
        (sign(identity(b), sha256="00"), "altered on its way"),
        (sign(identity(b), replace(hall.moment(), attempt=1)), "replayed"),
        (sign(identity(b), replace(hall.moment(), round=1)), "replayed"),
        (sign(identity(b), Moment("cd" * 16, 0, 0)), "another run"),
        (sign(impostor), "did not issue"),
        (replace(signed, signature=bytes(256)), "does not fit"),
        (hall.sites[b].ready(hall.moment(), hall.prepares, "00"), "kind 'ready'"),
    ):
        with pytest.raises(RoundRefused, match=why):
            hop(statement)


def test_a_hop_of_an_earlier_attempt_is_refused(ring):
    hall, _ = ring
    old, again = hall.sent[-1], hall.moment(attempt=1)
    hall.prepare(again)
    order = ring_order(ALL, hall.prepares)
    for name in order[1:]:
        place = order.index(name)
        if old[1] not in order[:place]:
            continue
        incoming = Incoming(tuple(ALL), (old[1],), old[2], old[3])
        with pytest.raises(RoundRefused, match="replayed"):
            hall.sites[name].hop(again, hall.prepares, incoming)
    with pytest.raises(RoundRefused, match="replayed"):
        hall.secagg_server.hop(old[1], old[2], old[3])
    hall.around(again, ALL)
    hall.unmask(again)
    hall.sites["s1"].reveal(again, hall.secagg_server.added, hall.secagg_server.payload(), 1.0)
