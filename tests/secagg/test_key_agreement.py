"""One site against a server that says what it likes: what it gives, and everything that it refuses."""

import hashlib
import json
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chi2

from wardround.core.errors import ConfigRefused, Refusal, RoundRefused
from wardround.core.keystream import WORD
from wardround.messages import statements
from wardround.messages.statements import Moment, Signed
from wardround.secagg import masks, sealed_shares, shamir
from wardround.secagg.key_agreement import FILE, KeyAgreement
from wardround.secagg.roster import joined, pair_seed, peers_digest, read_roster, ring_order, roster_digest

RUN, OTHER_RUN, JOB = "ab" * 16, "cd" * 16, "0b" * 32
ALL = ["s1", "s2", "s3", "s4"]
WORDS = np.arange(20, dtype=np.uint64) * np.uint64(2**59)


@pytest.fixture
def masked(hall):
    """Four sites that joined and prepared for round 1, attempt 1."""
    made = hall("masked")
    made.prepare(made.moment())
    return made


def at(hall, name="s1"):
    return hall.sites[name].agreement


def secrets(hall, name="s1"):
    return json.loads((hall.sites[name].folder / FILE).read_text())


def mask_all(hall, moment, names=ALL):
    return {name: at(hall, name).mask(moment, hall.prepares, WORDS) for name in names}


def says(hall, identity, name, kind, moment, **changed):
    """Return what `name` said, said differently: by a site that lies, with its own signature."""
    pool = hall.prepares if kind == "prepare" else hall.joins
    content = statements.peek(next(one for one in pool if statements.peek(one)["site"] == name))
    fields = {key: content[key] for key in statements.SHAPES[kind]} | changed
    return statements.sign(identity(name), kind, moment, **fields)


def instead(pool, name, other):
    """Return the statements with that of `name` replaced (None: left out)."""
    kept = [one for one in pool if statements.peek(one)["site"] != name]
    return kept if other is None else [*kept, other]


# --- join


def test_a_site_joins_a_run_with_one_key(hall):
    made = hall("he")
    first, again, other = at(made).join(RUN), at(made).join(RUN), at(made).join(OTHER_RUN)
    assert first.text == again.text
    said = statements.peek(first)
    assert said["key_id"] == at(made).key_id != ""
    assert said["channel"] != statements.peek(other)["channel"]
    assert masks.public_of(bytes.fromhex(secrets(made)["channel"])).hex() == statements.peek(other)["channel"]


def test_no_secret_stands_in_a_statement(masked):
    moment = masked.moment()
    mask_all(masked, moment)
    texts = [one.text for one in [*masked.joins, *masked.prepares]]
    texts.append(at(masked).unmask(moment, masked.joins, masked.prepares, ALL).text)
    kept = secrets(masked)
    for secret in (kept["channel"], kept["prepared"]["mask"], kept["prepared"]["own"]):
        assert len(secret) == 64
        assert all(secret not in text for text in texts)


# --- prepare


def test_shares_are_sealed_for_each_site_and_give_what_was_promised(masked):
    moment = masked.moment()
    said = statements.peek(masked.prepares[0])
    assert sorted(said["shares"]) == ALL
    halves = {}
    for x, name in enumerate(ALL, 1):
        channel = bytes.fromhex(secrets(masked, name)["channel"])
        halves[x] = sealed_shares.open_received(channel, said, moment, name)
        for other in set(ALL) - {name}:
            with pytest.raises(RoundRefused):
                sealed_shares.open_received(channel, said, moment, other)
    for three in ((1, 2, 3), (1, 3, 4), (2, 3, 4)):
        mask, own = (shamir.combine({x: halves[x][part] for x in three}) for part in (0, 1))
        assert masks.public_of(mask).hex() == said["mask"]
        assert hashlib.sha256(own).hexdigest() == said["own"]
        kept = secrets(masked)["prepared"]
        assert (kept["moment"], kept["mask"], kept["own"], kept["used"]) == ([RUN, 0, 0], mask.hex(), own.hex(), "")
    with pytest.raises(RoundRefused):
        shamir.combine({x: halves[x][0] for x in (1, 2)})


def test_every_attempt_has_fresh_keys(masked):
    said = [statements.peek(at(masked).prepare(Moment(RUN, 0, n), masked.joins)) for n in (0, 1, 2)]
    assert len({one["mask"] for one in said}) == len({one["own"] for one in said}) == 3


def test_one_moment_has_one_key_however_often_a_server_asks(masked, authority):
    """Else it could ask until the order of a ring, which follows from the keys, is the one that it wishes."""
    said = {at(masked).prepare(masked.moment(), masked.joins).text for _ in range(5)}
    again = KeyAgreement(masked.promise, at(masked).identity, authority, "", masked.sites["s1"].folder, JOB)
    assert said == {masked.prepares[0].text, again.prepare(masked.moment(), masked.joins[::-1]).text}
    with pytest.raises(RoundRefused, match="two sets of sites"):
        at(masked).prepare(masked.moment(), masked.joins[:3])
    at(masked).prepare(masked.moment(attempt=1), masked.joins)
    with pytest.raises(RoundRefused, match="round 1 again"):
        at(masked).prepare(masked.moment(), masked.joins)


def test_a_run_that_was_not_joined_is_refused(masked):
    moment = Moment(OTHER_RUN, 0, 0)
    for ask in (
        lambda: at(masked).prepare(moment, masked.joins),
        lambda: at(masked).mask(moment, masked.prepares, WORDS),
        lambda: at(masked).unmask(moment, masked.joins, masked.prepares, ALL),
    ):
        with pytest.raises(RoundRefused):
            ask()


def bad_joins(hall, identity, impostor):
    """Yield (why, joins) that a site must not accept."""
    moment = joined(RUN)
    key = masks.public_of(masks.new_key()).hex()
    s2 = next(one for one in hall.joins if statements.peek(one)["site"] == "s2")
    channel = statements.peek(s2)["channel"]
    yield "2 sites", hall.joins[:2]
    yield "another channel key", instead(hall.joins, "s1", None)
    yield "another channel key", instead(hall.joins, "s1", says(hall, identity, "s1", "join", moment, channel=key))
    yield (
        "a signature that does not fit",
        instead(hall.joins, "s2", Signed(s2.text.replace(channel, key), s2.signature, s2.certificate)),
    )
    forged = statements.sign(impostor, "join", moment, channel=key, key_id="", job=JOB)
    yield "did not issue", instead(hall.joins, "s2", forged)
    lying = statements.sign(identity("s3"), "join", moment, channel=key, key_id="", job=JOB)
    yield "does not fit", instead(hall.joins, "s2", Signed(s2.text, lying.signature, s2.certificate))
    yield "another run", instead(hall.joins, "s2", says(hall, identity, "s2", "join", joined(OTHER_RUN)))
    yield "another sum key", instead(hall.joins, "s2", says(hall, identity, "s2", "join", moment, key_id="ff" * 16))
    yield "another job", instead(hall.joins, "s2", says(hall, identity, "s2", "join", moment, job="cc" * 32))
    yield "two `join` statements", [*hall.joins, says(hall, identity, "s3", "join", moment)]
    yield "kind 'prepare'", instead(hall.joins, "s2", hall.prepares[1])


def test_joins_that_are_not_to_be_trusted_are_refused(masked, identity, impostor):
    mask_all(masked, masked.moment())
    for why, joins in bad_joins(masked, identity, impostor):
        before = secrets(masked)
        with pytest.raises(Refusal, match=why):
            at(masked).unmask(masked.moment(), joins, masked.prepares, ALL)
        with pytest.raises(Refusal, match=why):
            at(masked).prepare(masked.moment(), joins)
        assert secrets(masked) == before


def test_a_degenerate_channel_key_is_refused(masked, identity):
    zero = says(masked, identity, "s2", "join", joined(RUN), channel="00" * 32)
    with pytest.raises(RoundRefused, match="X25519"):
        at(masked).prepare(masked.moment(attempt=1), instead(masked.joins, "s2", zero))


# --- mask


def test_without_masks_words_stay_as_they_are(hall):
    made = hall("he")
    assert list(at(made).roster(made.moment(), made.joins)) == ALL
    assert at(made).mask(made.moment(), made.joins, WORDS) is WORDS
    with pytest.raises(ConfigRefused, match="0 sites"):
        at(made).mask(made.moment(), [], WORDS)


def test_masked_words_are_the_formula_and_cancel(masked):
    moment, total = masked.moment(), np.zeros_like(WORDS)
    found = mask_all(masked, moment)
    public = {one["site"]: bytes.fromhex(one["mask"]) for one in map(statements.peek, masked.prepares)}
    for name in ALL:
        kept = {key: bytes.fromhex(secrets(masked, name)["prepared"][key]) for key in ("mask", "own")}
        expected = WORDS.astype(object) + masks.expand(kept["own"], 20, WORD)
        for other in set(ALL) - {name}:
            names = sorted((name, other))
            seed = masks.shared(
                kept["mask"], public[other], "mask", *names, RUN, 0, 0, statements.digest_of(masked.prepares), ""
            )
            expected += (1 if name < other else -1) * masks.expand(seed, 20, WORD).astype(object)
        assert found[name].tolist() == [int(word) % WORD for word in expected]
        total = total + found[name] - masks.expand(kept["own"], 20, WORD)
    np.testing.assert_array_equal(total, WORDS * np.uint64(4))


def test_one_mask_hides_one_update(masked):
    moment = masked.moment()
    first = at(masked).mask(moment, masked.prepares, WORDS)
    np.testing.assert_array_equal(at(masked).mask(moment, masked.prepares[::-1], WORDS), first)
    with pytest.raises(RoundRefused, match="used for another update"):
        at(masked).mask(moment, masked.prepares, WORDS + np.uint64(1))
    masked.prepare(masked.moment(attempt=1))
    assert np.all(at(masked).mask(masked.moment(attempt=1), masked.prepares, WORDS + np.uint64(1)) != first)


def test_one_mask_serves_one_set_of_sites(masked):
    """Own masks are opened once: under two rosters they would open two sums, whose difference is one update."""
    at(masked).mask(masked.moment(), masked.prepares[:3], WORDS)
    with pytest.raises(RoundRefused, match="set of sites"):
        at(masked).mask(masked.moment(), masked.prepares, WORDS)
    with pytest.raises(RoundRefused, match="another set of sites"):
        at(masked).unmask(masked.moment(), masked.joins, masked.prepares, ALL)


def test_a_mask_outlives_the_process(masked, authority):
    first = at(masked).mask(masked.moment(), masked.prepares, WORDS)
    folder = masked.sites["s1"].folder
    again = KeyAgreement(masked.promise, at(masked).identity, authority, "", folder, JOB)
    np.testing.assert_array_equal(again.mask(masked.moment(), masked.prepares, WORDS), first)
    with pytest.raises(RoundRefused, match="used for another update"):
        again.mask(masked.moment(), masked.prepares, WORDS + np.uint64(1))


def bad_prepares(hall, identity, impostor):
    """Yield (why, prepares) that a site must not accept."""
    moment, good = hall.moment(), hall.prepares
    key = masks.public_of(masks.new_key()).hex()
    s2 = statements.peek(good[1])
    yield "2 sites", good[:2]
    yield "another mask key", good[1:]
    yield "another mask key", instead(good, "s1", says(hall, identity, "s1", "prepare", moment, mask=key))
    yield (
        "a signature that does not fit",
        instead(good, "s2", Signed(good[1].text.replace(s2["mask"], key), good[1].signature, good[1].certificate)),
    )
    fields = {name: s2[name] for name in statements.SHAPES["prepare"]}
    yield "did not issue", instead(good, "s2", statements.sign(impostor, "prepare", moment, **fields))
    for old, why in (
        (Moment(RUN, 0, 1), "attempt 1"),
        (Moment(RUN, 1, 0), "round 1, attempt 0"),
        (Moment(OTHER_RUN, 0, 0), "another run"),
    ):
        yield why, instead(good, "s2", says(hall, identity, "s2", "prepare", old))
    yield "different sets", [*good, good[1]]
    yield "different sets", [*good, says(hall, identity, "s2", "prepare", moment, mask=key)]
    yield "different sets", instead(good, "s2", says(hall, identity, "s2", "prepare", moment, peers="00" * 32))
    less = {name: share for name, share in s2["shares"].items() if name != "s1"}
    yield "different sets", instead(good, "s2", says(hall, identity, "s2", "prepare", moment, shares=less))
    yield "kind 'join'", instead(good, "s2", hall.joins[1])


def test_mask_keys_that_are_not_to_be_trusted_are_refused(masked, identity, impostor):
    """Never masked, nothing opened, whatever is wrong; then all goes well with the right ones."""
    moment, before = masked.moment(), secrets(masked)
    for why, prepares in bad_prepares(masked, identity, impostor):
        with pytest.raises(Refusal, match=why):
            at(masked).mask(moment, prepares, WORDS)
        with pytest.raises(Refusal, match=why):
            at(masked).unmask(moment, masked.joins, prepares, ALL)
        assert secrets(masked) == before
    mask_all(masked, moment)
    at(masked).unmask(moment, masked.joins, masked.prepares, ALL)


def test_too_many_sites_for_the_fields_are_refused(hall):
    made = hall("masked", sites=3)
    with pytest.raises(ConfigRefused, match="3 to 3 sites"):
        at(made).prepare(made.moment(), made.joins)


def test_an_attempt_that_was_not_prepared_is_refused(masked):
    later = masked.moment(attempt=1)
    others = [at(masked, name).prepare(later, masked.joins) for name in ALL[1:]]
    with pytest.raises(RoundRefused, match="did not prepare"):
        at(masked).mask(later, others, WORDS)
    at(masked).prepare(later, masked.joins)
    with pytest.raises(RoundRefused, match="did not prepare"):
        at(masked).mask(masked.moment(), masked.prepares, WORDS)


def test_its_own_older_key_is_refused(masked):
    folder = masked.sites["s1"].folder
    (folder / FILE).unlink()
    at(masked).join(RUN)
    joins = [at(masked, name).join(RUN) for name in ALL]
    at(masked).prepare(masked.moment(), joins)
    with pytest.raises(RoundRefused, match="another mask key than this site made"):
        at(masked).mask(masked.moment(), masked.prepares, WORDS)


# --- unmask


def test_own_masks_of_survivors_and_mask_keys_of_the_others(masked):
    moment, inside = masked.moment(), ["s1", "s2", "s4"]
    mask_all(masked, moment)
    shares = {}
    for x, name in ((1, "s1"), (2, "s2"), (4, "s4")):
        said = statements.peek(at(masked, name).unmask(moment, masked.joins, masked.prepares, inside))
        assert (said["survivors"], said["roster"]) == (inside, roster_digest(masked.prepares))
        shares[x] = said["shares"]
    for name in ALL:
        secret = shamir.combine({x: bytes.fromhex(said[name]) for x, said in shares.items()})
        assert secret.hex() == secrets(masked, name)["prepared"]["own" if name in inside else "mask"]


@pytest.mark.parametrize(
    "survivors", [[], ["s1"], ["s1", "s2"], ["s1", "s1", "s1"], ["s2", "s3", "s4"], ["s1", "s2", "s9"], [*ALL, "s5"]]
)
def test_sets_that_no_site_opens(masked, survivors):
    mask_all(masked, masked.moment())
    before = secrets(masked)
    with pytest.raises(Refusal, match="sites"):
        at(masked).unmask(masked.moment(), masked.joins, masked.prepares, survivors)
    assert secrets(masked) == before


def test_fewer_than_the_threshold_are_refused(hall):
    made = hall("masked", count=5)
    made.prepare(made.moment())
    mask_all(made, made.moment(), [*ALL, "s5"])
    with pytest.raises(RoundRefused, match="at least 4"):
        at(made).unmask(made.moment(), made.joins, made.prepares, ["s1", "s2", "s3"])


def test_fewer_than_min_sites_are_refused(hall):
    made = hall("masked", min_clients=4, threshold=5)
    made.prepare(made.moment())
    mask_all(made, made.moment())
    with pytest.raises(ConfigRefused, match="4 to 8 sites"):
        at(made).unmask(made.moment(), made.joins, made.prepares, ["s1", "s2", "s3"])


def test_a_site_that_masked_nothing_opens_nothing(masked):
    with pytest.raises(RoundRefused, match="masks for another set"):
        at(masked).unmask(masked.moment(), masked.joins, masked.prepares, ALL)


def test_without_masks_nothing_is_opened(hall):
    made = hall("he")
    with pytest.raises(RoundRefused, match="nothing is masked"):
        at(made).unmask(made.moment(), made.joins, made.joins, ALL)


def test_a_round_is_opened_for_one_set_of_sites(masked, authority):
    """Again for the same set: the same shares. For another, in this attempt or a later one, in another process or run: no."""
    moment, inside, other = masked.moment(), ["s1", "s2", "s3"], ["s1", "s2", "s4"]
    mask_all(masked, moment)
    first = at(masked).unmask(moment, masked.joins, masked.prepares, inside)
    assert at(masked).unmask(moment, masked.joins, masked.prepares, inside[::-1]).text == first.text
    for names in (other, ALL):
        with pytest.raises(RoundRefused, match="a second opening of round 1"):
            at(masked).unmask(moment, masked.joins, masked.prepares, names)
    again = KeyAgreement(masked.promise, at(masked).identity, authority, "", masked.sites["s1"].folder, JOB)
    with pytest.raises(RoundRefused, match="a second opening"):
        again.unmask(moment, masked.joins, masked.prepares, other)

    later = masked.moment(attempt=1)
    masked.prepare(later)
    mask_all(masked, later)
    with pytest.raises(RoundRefused, match="a second opening"):
        at(masked).unmask(later, masked.joins, masked.prepares, other)
    at(masked).unmask(later, masked.joins, masked.prepares, inside)

    elsewhere = Moment(OTHER_RUN, 0, 0)
    joins = [at(masked, name).join(OTHER_RUN) for name in ALL]
    prepares = [at(masked, name).prepare(elsewhere, joins) for name in ALL]
    at(masked).mask(elsewhere, prepares, WORDS)
    with pytest.raises(RoundRefused, match="a second opening"):
        at(masked).unmask(elsewhere, joins, prepares, other)


def test_a_later_round_is_opened_for_its_own_set_and_earlier_ones_no_more(masked):
    mask_all(masked, masked.moment())
    at(masked).unmask(masked.moment(), masked.joins, masked.prepares, ALL)
    masked.prepare(masked.moment(1))
    mask_all(masked, masked.moment(1))
    at(masked).unmask(masked.moment(1), masked.joins, masked.prepares, ["s1", "s2", "s3"])
    with pytest.raises(RoundRefused, match="round 1 again"):
        masked.prepare(masked.moment(0, 7))
    earlier = Moment(OTHER_RUN, 0, 0)
    joins = [at(masked, name).join(OTHER_RUN) for name in ALL]
    prepares = [at(masked, name).prepare(earlier, joins) for name in ALL]
    at(masked).mask(earlier, prepares, WORDS)
    with pytest.raises(RoundRefused, match="a second opening of round 1"):
        at(masked).unmask(earlier, joins, prepares, ALL)


def test_a_round_is_repeated_with_those_that_are_left_and_nobody_else(hall):
    """Else s1's integers, noised once, are opened in two sums by two groups that know nothing of each other."""
    made = hall("masked", count=7)
    one, other = made.joins[:4], [made.joins[0], *made.joins[4:]]
    at(made).prepare(made.moment(), one)
    with pytest.raises(RoundRefused, match="sites that were not in it"):
        at(made).prepare(made.moment(attempt=1), other)
    at(made).prepare(made.moment(attempt=1), one[:3])
    with pytest.raises(RoundRefused, match="sites that were not in it"):
        at(made).prepare(made.moment(attempt=2), one)
    at(made).prepare(made.moment(1), other)
    with pytest.raises(RoundRefused, match="round 1 again"):
        at(made).prepare(made.moment(attempt=3), other)


def test_a_run_that_was_left_is_not_joined_again(masked):
    """It would be forgotten who was asked in it; the run that is under way is joined as often as it asks."""
    at(masked).join(OTHER_RUN)
    at(masked).join(OTHER_RUN)
    with pytest.raises(RoundRefused, match="left for another"):
        at(masked).join(RUN)


def test_joins_of_another_set_than_was_prepared_for_are_refused(hall):
    """Fewer joins would mean a lower threshold."""
    made = hall("masked", count=5)
    made.prepare(made.moment(), ALL)
    mask_all(made, made.moment())
    with pytest.raises(RoundRefused, match="another set"):
        at(made).unmask(made.moment(), made.joins[:4], made.prepares, ["s1", "s2", "s3"])
    at(made).unmask(made.moment(), made.joins, made.prepares, ALL)


def test_a_site_that_prepared_without_joining_is_refused(masked, identity, kits):
    said = statements.peek(masked.prepares[1])
    fields = {key: said[key] for key in statements.SHAPES["prepare"]}
    stranger = statements.sign(identity("s5"), "prepare", masked.moment(), **fields)
    with pytest.raises(RoundRefused, match="different sets"):
        at(masked).mask(masked.moment(), [*masked.prepares, stranger], WORDS)


def nonsense(masked, identity, victim="s1", **changed):
    """Return the prepares of which that of s2 holds, for the victim, a share that was sealed for s3."""
    shares = statements.peek(masked.prepares[1])["shares"]
    lies = says(masked, identity, "s2", "prepare", masked.moment(), shares=shares | {victim: shares["s3"]}, **changed)
    return instead(masked.prepares, "s2", lies)


def test_a_share_that_does_not_open_is_complained_of_and_opened_by_nobody(masked, identity):
    prepares = nonsense(masked, identity)
    complaint = at(masked).complaint(masked.moment(), prepares)
    said = statements.peek(complaint)
    assert (said["kind"], said["against"], said["roster"]) == ("complain", ["s2"], roster_digest(prepares))
    assert at(masked, "s4").complaint(masked.moment(), prepares) is None
    assert at(masked).complaint(masked.moment(), masked.prepares) is None
    at(masked).mask(masked.moment(), prepares, WORDS)
    with pytest.raises(RoundRefused, match="does not open"):
        at(masked).unmask(masked.moment(), masked.joins, prepares, ALL)


def test_a_share_that_opens_and_is_another_than_was_promised_is_complained_of(masked, identity):
    digests = statements.peek(masked.prepares[1])["digests"]
    wrong = {"digests": digests | {"s1": "ab" * 64}}
    lies = says(masked, identity, "s2", "prepare", masked.moment(), **wrong)
    complaint = at(masked).complaint(masked.moment(), instead(masked.prepares, "s2", lies))
    assert statements.peek(complaint)["against"] == ["s2"]


def test_an_accused_site_shows_one_key_for_its_accuser_alone(masked, identity):
    """What is shown opens the one share that the accuser was sent, and no other."""
    moment, names = masked.moment(), roster_digest(masked.prepares)
    complaint = statements.sign(identity("s4"), "complain", moment, roster=names, against=["s2"])
    said = statements.peek(at(masked, "s2").justify(moment, masked.prepares, [complaint]))
    assert list(said["keys"]) == ["s4"]
    shown, promised = bytes.fromhex(said["keys"]["s4"]), statements.peek(masked.prepares[1])
    channel = {one["site"]: bytes.fromhex(one["channel"]) for one in map(statements.peek, masked.joins)}
    assert sealed_shares.is_justified(shown, channel["s4"], promised, moment, "s4")
    for other in ("s1", "s2", "s3"):
        assert not sealed_shares.is_justified(shown, channel[other], promised, moment, other)
    for name, against, roster in (("s4", ["s3"], names), ("s4", ["s2"], "00")):
        other = statements.sign(identity(name), "complain", moment, roster=roster, against=against)
        with pytest.raises(RoundRefused, match="complaint about other sites"):
            at(masked, "s2").justify(moment, masked.prepares, [other])
    forged = Signed(complaint.text, masked.prepares[0].signature, complaint.certificate)
    with pytest.raises(RoundRefused, match="does not fit"):
        at(masked, "s2").justify(moment, masked.prepares, [forged])


def test_a_job_that_was_stopped_is_stopped_for_good(masked, authority):
    """After a sum that was refused. A run is any word that a server says, so no other run of the job is joined either."""
    at(masked).stop()
    folder = masked.sites["s1"].folder
    again = KeyAgreement(masked.promise, at(masked).identity, authority, "", folder, JOB)
    for ask in (
        lambda: again.join(RUN),
        lambda: again.join(OTHER_RUN),
        lambda: again.prepare(masked.moment(1), masked.joins),
        lambda: again.mask(masked.moment(), masked.prepares, WORDS),
    ):
        with pytest.raises(RoundRefused, match="whose sum this site refused"):
            ask()
    KeyAgreement(masked.promise, at(masked).identity, authority, "", folder, "ef" * 32).join(OTHER_RUN)


# --- the file of secrets


def test_only_the_owner_reads_the_secrets(masked):
    folder = masked.sites["s1"].folder
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    mask_all(masked, masked.moment())
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == [FILE]


@pytest.mark.parametrize("content", ["", "{", "no json", "[]", "[1]", "null", "7", '"text"'])
def test_damaged_secrets_are_refused(masked, content):
    """Not made anew: what was opened already would be forgotten."""
    (masked.sites["s1"].folder / FILE).write_text(content)
    for ask in (
        lambda: at(masked).join(RUN),
        lambda: at(masked).prepare(masked.moment(), masked.joins),
        lambda: at(masked).mask(masked.moment(), masked.prepares, WORDS),
    ):
        with pytest.raises(RoundRefused, match=FILE):
            ask()
    assert (masked.sites["s1"].folder / FILE).read_text() == content


def test_a_crash_while_writing_leaves_the_old_secrets(masked, monkeypatch):
    before = secrets(masked)
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        at(masked).prepare(masked.moment(attempt=1), masked.joins)
    assert secrets(masked) == before


def test_an_opening_is_written_down_before_it_leaves(masked, monkeypatch):
    mask_all(masked, masked.moment())
    monkeypatch.setattr(masks, "unseal", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        at(masked).unmask(masked.moment(), masked.joins, masked.prepares, ALL)
    assert secrets(masked)["opened"] == {"round": 0, "survivors": ALL}


# --- digests and orders


def test_pair_seeds_agree_and_depend_on_everything():
    a, b = masks.new_key(), masks.new_key()
    of_a, of_b = masks.public_of(a), masks.public_of(b)
    moment = Moment(RUN, 0, 0)
    seed = pair_seed(a, of_b, "s1", "s2", moment, "00", "model grid")
    assert seed == pair_seed(b, of_a, "s2", "s1", moment, "00", "model grid")
    others = [
        pair_seed(a, of_b, "s1", "s3", moment, "00", "model grid"),
        pair_seed(a, of_b, "s1", "s2", moment, "01", "model grid"),
        *(
            pair_seed(a, of_b, "s1", "s2", m, "00", "model grid")
            for m in (Moment(RUN, 1, 0), Moment(RUN, 0, 1), joined(RUN))
        ),
        pair_seed(a, of_b, "s1", "s2", moment, "00", "another grid"),
        pair_seed(a, masks.public_of(masks.new_key()), "s1", "s2", moment, "00", "model grid"),
    ]
    assert len({seed, *others}) == 8


def test_a_roster_is_read_in_the_order_of_names(masked, authority):
    found = read_roster(masked.moment(), masked.prepares[::-1], authority)
    assert list(found) == ALL
    assert roster_digest(masked.prepares[::-1]) == roster_digest(masked.prepares) != roster_digest([])
    assert roster_digest([]) == ""
    assert peers_digest(masked.joins) == statements.peek(masked.prepares[0])["peers"]


def test_ring_orders_are_fresh_and_every_order_is_as_likely():
    """600 rings of three: six orders, chi-square with five degrees of freedom; texts are fixed, so the outcome is too."""
    counts = dict.fromkeys(permutations(["s1", "s2", "s3"]), 0)
    for attempt in range(600):
        one = Signed(f"attempt {attempt}", b"", b"")
        found = ring_order(["s2", "s3", "s1"], [one])
        assert found == ring_order(["s1", "s2", "s3"], [one])
        counts[tuple(found)] += 1
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < chi2.ppf(1 - 1e-3, 5)


def test_a_ring_without_some_keeps_the_order_of_the_rest():
    one = [Signed("x", b"", b"")]
    whole = ring_order(ALL, one)
    assert ring_order([name for name in ALL if name != "s2"], one) == [name for name in whole if name != "s2"]
