"""The server's part: what does not fit its statement is refused by name and not added; the sum is that of survivors."""

import hashlib

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.keystream import WORD
from wardround.messages import statements
from wardround.messages.statements import Signed
from wardround.secagg import masks, sealed_shares, shamir
from wardround.secagg.bfv import FRESH_BYTES
from wardround.secagg.roster import roster_digest
from wardround.secagg.server import SecAggServer, words_of

STAR = ["fixed", "masked", "he", "he with masks"]
MASKED = ["masked", "he with masks", "ring"]
MODES = [*STAR, "ring"]
ALL = ["s1", "s2", "s3", "s4"]


@pytest.fixture
def begun(hall, updates, initial):
    """begun(mode) -> a hall whose sites have trained, before anything is sent"""

    def make(mode, **changed):
        made = hall(mode, **changed)
        made.prepare(made.moment())
        made.hold(0, updates(), initial)
        return made

    return make


@pytest.fixture
def plain(begun):
    """plain(names) -> the mean of these sites, summed in plaintext"""

    def mean(names):
        made = begun("fixed")
        made.submit(made.moment(), names)
        roster = roster_digest(made.prepares)
        return made.sites["s1"].reveal(made.moment(), names, made.secagg_server.payload(), 1.0, roster)[0]

    return mean


def revealed(hall, reader="s1"):
    hall.unmask(hall.moment())
    added = hall.secagg_server.added
    roster = roster_digest(hall.prepares)
    return hall.sites[reader].reveal(hall.moment(), added, hall.secagg_server.payload(), 1.0, roster)[0]


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def resigned(identity, signed, name=None, **changed):
    """Return a statement said differently by its own site (or by `name`): a lie with a good signature."""
    content = statements.peek(signed)
    moment = statements.Moment(content["run"], content["round"], content["attempt"])
    fields = {key: content[key] for key in statements.SHAPES[content["kind"]]} | changed
    return statements.sign(identity(name or content["site"]), content["kind"], moment, **fields)


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


# --- what is refused, and not added


@pytest.mark.parametrize("mode", STAR)
def test_every_wrong_message_is_refused_and_the_sum_is_none_the_worse(begun, plain, identity, mode):
    hall = begun(mode)
    moment, secagg_server = hall.moment(), hall.secagg_server
    hall.submit(moment, ["s1", "s2"])
    signed, payload = hall.sites["s3"].submit(moment, hall.prepares, "00")
    ready = hall.sites["s3"].ready(moment, hall.prepares, "00")
    older = statements.Moment(moment.run, 0, 1)
    wrong = [
        ("s1", hall.sent[0][2], hall.sent[0][3], "a second update"),
        ("s1", signed, payload, "a statement of s3"),
        ("s3", hall.sent[0][2], hall.sent[0][3], "a statement of s1"),
        ("s3", hall.sent[0][2], payload, "a statement of s1"),
        ("s3", ready, payload, "kind 'ready'"),
        ("s3", Signed(signed.text, flipped(signed.signature, 9), signed.certificate), payload, "does not fit"),
        ("s3", Signed(signed.text.replace("submit", "hop"), b"", b""), payload, "known kind"),
        ("s3", resigned(identity, signed, roster="ab"), payload, "another set of sites"),
        ("s3", signed, b"", "SHA-256"),
        ("s3", signed, payload + b"\0", "SHA-256"),
        ("s3", signed, hall.sent[0][3], "SHA-256"),
    ]
    wrong += [("s3", signed, payload[:size], "SHA-256") for size in (1, 8, len(payload) // 2, len(payload) - 1)]
    wrong += [("s3", signed, flipped(payload, i), "SHA-256") for i in range(0, len(payload), len(payload) // 16)]
    for moment_ in (older, statements.Moment(moment.run, 1, 0), statements.Moment("cd" * 16, 0, 0)):
        content = {key: statements.peek(signed)[key] for key in statements.SHAPES["submit"]}
        wrong.append(("s3", statements.sign(identity("s3"), "submit", moment_, **content), payload, "replayed"))
    for site, statement, data, why in wrong:
        with pytest.raises(RoundRefused, match=why):
            secagg_server.submit(site, statement, data)
        assert secagg_server.added == ["s1", "s2"]
    secagg_server.submit("s3", signed, payload)
    hall.submit(moment, ["s4"])
    same(revealed(hall), plain(ALL))


@pytest.mark.parametrize("mode", STAR)
def test_a_lying_site_cannot_hurt_the_sum_of_the_others(begun, plain, identity, mode):
    """Payloads with a good signature that are no update at all."""
    hall = begun(mode)
    moment, secagg_server = hall.moment(), hall.secagg_server
    hall.submit(moment, ["s1", "s2", "s3"])
    signed, payload = hall.sites["s4"].submit(moment, hall.prepares, "00")
    for lie in (b"", b"x", payload[:-8], payload[: len(payload) // 2], payload + payload, bytes(FRESH_BYTES)):
        if lie == payload:
            continue
        statement = resigned(identity, signed, sha256=hashlib.sha256(lie).hexdigest())
        with pytest.raises(RoundRefused):
            secagg_server.submit("s4", statement, lie)
        assert secagg_server.added == ["s1", "s2", "s3"]
    same(revealed(hall), plain(["s1", "s2", "s3"]))


@pytest.mark.parametrize("mode", ["masked", "he with masks"])
def test_an_update_without_a_mask_key_is_refused(begun, mode):
    hall = begun(mode)
    hall.prepare(hall.moment(attempt=1), ALL)
    everybody = list(hall.prepares)
    hall.secagg_server.begin(hall.moment(attempt=1), everybody[:3])
    for name, prepares in (("s4", everybody), ("s1", everybody)):
        signed, payload = hall.sites[name].submit(hall.moment(attempt=1), prepares, "00")
        with pytest.raises(RoundRefused, match=r"without a mask key|another set of sites"):
            hall.secagg_server.submit(name, signed, payload)
    assert hall.secagg_server.added == []


def test_an_attempt_of_forged_mask_keys_does_not_begin(begun, identity, impostor):
    hall = begun("masked")
    forged = Signed(hall.prepares[0].text, hall.prepares[1].signature, hall.prepares[0].certificate)
    for prepares in ([forged, *hall.prepares[1:]], [*hall.prepares, hall.prepares[0]]):
        with pytest.raises(RoundRefused):
            hall.secagg_server.begin(hall.moment(), prepares)
    with pytest.raises(RoundRefused, match="replayed"):
        hall.secagg_server.begin(hall.moment(attempt=1), hall.prepares)


def test_a_message_of_an_earlier_attempt_is_refused(begun):
    hall = begun("masked")
    signed, payload = hall.sites["s1"].submit(hall.moment(), hall.prepares, "00")
    hall.prepare(hall.moment(attempt=1))
    with pytest.raises(RoundRefused, match="replayed"):
        hall.secagg_server.submit("s1", signed, payload)


def test_a_new_attempt_forgets_the_old_sum(begun, plain):
    hall = begun("he")
    hall.submit(hall.moment(), ["s1", "s2"])
    hall.prepare(hall.moment())
    hall.submit(hall.moment(), ["s2", "s3", "s4"])
    same(revealed(hall), plain(["s2", "s3", "s4"]))


def test_hops_out_of_order_are_refused(begun, identity, plain):
    hall = begun("ring")
    moment = hall.moment()
    for name in ALL:
        hall.secagg_server.ready(name, hall.sites[name].ready(moment, hall.prepares, "00"))
    hall.around(moment, ALL, silent=("s3",))
    sent = [one for one in hall.sent if one[0] == "hop"]
    assert hall.secagg_server.added == [name for _, name, _, _ in sent]
    _, name, signed, payload = sent[-1]
    done = statements.peek(signed)["done"]
    hall.secagg_server.begin(moment, hall.prepares)
    for _, earlier, statement, data in sent[:-1]:
        hall.secagg_server.hop(earlier, statement, data)
    for wrong in (done[:-1], done[1:], done[::-1], [], [name], [*done[:-2], "s3", name]):
        with pytest.raises(RoundRefused, match="out of order"):
            hall.secagg_server.hop(name, resigned(identity, signed, done=wrong), payload)
    with pytest.raises(RoundRefused, match="out of order"):
        hall.secagg_server.hop(sent[0][1], sent[0][2], sent[0][3])
    with pytest.raises(RoundRefused, match="SHA-256"):
        hall.secagg_server.hop(name, signed, flipped(payload, 5000))
    hall.secagg_server.hop(name, signed, payload)
    same(revealed(hall), plain(["s1", "s2", "s4"]))


# --- opening


@pytest.mark.parametrize("silent", ["s1", "s3"])
@pytest.mark.parametrize("mode", MASKED)
def test_dropped_sites_are_recovered(begun, plain, mode, silent):
    """They prepared, all others masked with their keys, and then nothing came."""
    hall, left = begun(mode), [name for name in ALL if name != silent]
    if mode == "ring":
        hall.around(hall.moment(), ALL, silent=(silent,))
    else:
        hall.submit(hall.moment(), left)
    assert hall.unmask(hall.moment()) == [silent]
    payload, added = hall.secagg_server.payload(), hall.secagg_server.added
    same(hall.sites[left[0]].reveal(hall.moment(), added, payload, 1.0)[0], plain(left))


@pytest.mark.parametrize("mode", MASKED)
def test_nobody_dropped_nobody_recovered(begun, plain, mode):
    hall = begun(mode)
    hall.around(hall.moment(), ALL) if mode == "ring" else hall.submit(hall.moment(), ALL)
    assert hall.unmask(hall.moment(), ["s1", "s2", "s4"]) == []  # three of four are enough
    payload = hall.secagg_server.payload()
    same(hall.sites["s1"].reveal(hall.moment(), hall.secagg_server.added, payload, 1.0)[0], plain(ALL))


def answers_of(hall, names=ALL):
    inside = hall.secagg_server.added
    return {name: hall.sites[name].agreement.unmask(hall.moment(), hall.joins, hall.prepares, inside) for name in names}


def test_too_few_answers_open_nothing(begun):
    hall = begun("masked")
    hall.submit(hall.moment(), ALL)
    before = hall.secagg_server.payload()
    for names in ([], ["s1"], ["s2", "s4"]):
        with pytest.raises(RoundRefused, match=f"{len(names)} of 3 answers"):
            hall.secagg_server.unmask(answers_of(hall, names))
        assert hall.secagg_server.payload() == before


def test_answers_that_are_not_to_be_trusted_open_nothing(begun, identity, impostor, plain):
    hall = begun("masked")
    moment = hall.moment()
    hall.submit(moment, ["s1", "s2", "s3"])
    good, before = answers_of(hall, ["s1", "s2", "s3"]), hall.secagg_server.payload()
    said = statements.peek(good["s2"])
    shares = said["shares"]
    altered = f"{int(shares['s1'], 16) ^ 1:0{2 * shamir.SHARE_BYTES}x}"
    other_kind = statements.peek(good["s3"])["shares"]["s1"]
    lies = {
        "does not fit": Signed(good["s2"].text, good["s1"].signature, good["s2"].certificate),
        "did not issue": statements.sign(
            impostor, "unmask", moment, **{key: said[key] for key in statements.SHAPES["unmask"]}
        ),
        "a statement of s3": resigned(identity, good["s2"], name="s3"),
    }
    for why, lie in lies.items():
        with pytest.raises(RoundRefused, match=why):
            hall.secagg_server.unmask(good | {"s2": lie})
    for changed in (
        {"survivors": ["s1", "s2", "s4"]},
        {"survivors": ALL},
        {"roster": "ab"},
        {"shares": {}},
        {"shares": {name: share for name, share in shares.items() if name != "s4"}},
        {"shares": shares | {"s9": shares["s1"]}},
    ):
        with pytest.raises(RoundRefused, match="shares for another sum"):
            hall.secagg_server.unmask(good | {"s2": resigned(identity, good["s2"], **changed)})
    for wrong in (altered, "", "00", "ff" * 200, other_kind, shares["s2"]):
        with pytest.raises(RoundRefused, match="shares"):
            hall.secagg_server.unmask(good | {"s2": resigned(identity, good["s2"], shares=shares | {"s1": wrong})})
    outsider = resigned(identity, good["s2"], name="s5")
    with pytest.raises(RoundRefused, match=r"shares for another sum"):
        hall.secagg_server.unmask(good | {"s5": outsider})
    assert hall.secagg_server.payload() == before
    assert hall.secagg_server.unmask(good) == ["s4"]
    found = hall.sites["s1"].reveal(moment, ["s1", "s2", "s3"], hall.secagg_server.payload(), 1.0)[0]
    same(found, plain(["s1", "s2", "s3"]))


def test_shares_of_a_secret_that_was_not_promised_are_refused(begun, identity):
    """All sites together split another secret than the one whose digest s1 signed: no helper is blamed who did not."""
    hall = begun("masked")
    hall.submit(hall.moment(), ALL)
    parts = dict(zip(ALL, shamir.split(masks.new_key(), 4, 3), strict=True))
    good = answers_of(hall)
    lies = {
        name: resigned(identity, one, shares=statements.peek(one)["shares"] | {"s1": parts[name].hex()})
        for name, one in good.items()
    }
    with pytest.raises(RoundRefused, match="a share of s1 that was not promised"):
        hall.secagg_server.unmask(lies)


def dealt_wrongly(hall, identity, site, own):
    """Return the `prepare` of a site whose shares are sealed and promised well, and give another secret than it promised."""
    moment, said = hall.moment(), statements.peek(hall.prepares[ALL.index(site)])
    channel = {one["site"]: bytes.fromhex(one["channel"]) for one in map(statements.peek, hall.joins)}
    of_mask = shamir.split(masks.new_key(), 4, 3)
    of_own = shamir.split(own, 4, 3)
    shares, digests = {}, {}
    for name, a, b in zip(ALL, of_mask, of_own, strict=True):
        shares[name] = sealed_shares.seal(masks.new_key(), channel[name], a, b, moment, (site, name)).hex()
        digests[name] = sealed_shares.digests(a, b)
    fields = {key: said[key] for key in statements.SHAPES["prepare"]} | {"shares": shares, "digests": digests}
    return statements.sign(identity(site), "prepare", moment, **fields)


def test_who_shares_another_secret_than_it_promised_is_the_one_that_is_blamed(begun, identity):
    hall = begun("masked")
    lie = dealt_wrongly(hall, identity, "s2", masks.new_key())
    hall.prepares = [lie if statements.peek(one)["site"] == "s2" else one for one in hall.prepares]
    hall.secagg_server.begin(hall.moment(), hall.prepares)
    hall.submit(hall.moment(), ALL)
    before = hall.secagg_server.payload()
    with pytest.raises(RoundRefused, match="a statement of s2"):
        hall.secagg_server.unmask(answers_of(hall))
    assert list(hall.secagg_server.blamed) == ["s2"]
    assert hall.secagg_server.payload() == before


@pytest.mark.parametrize("liar", ALL)
def test_a_wrong_share_is_the_fault_of_who_hands_it_over(begun, plain, identity, liar):
    """Its owner signed the digest of each share, so that nobody can hand over another one in its name."""
    hall = begun("masked")
    hall.submit(hall.moment(), ALL)
    answers, before = answers_of(hall), hall.secagg_server.payload()
    wrong = dict.fromkeys(ALL, "07" * shamir.SHARE_BYTES)
    lie = resigned(identity, answers[liar], shares=wrong)
    with pytest.raises(RoundRefused, match=f"a statement of {liar}"):
        hall.secagg_server.read_shares(liar, lie)
    with pytest.raises(RoundRefused, match=f"a statement of {liar}"):
        hall.secagg_server.unmask(answers | {liar: lie})
    assert hall.secagg_server.payload() == before
    assert hall.secagg_server.unmask({name: one for name, one in answers.items() if name != liar}) == []
    same(hall.sites["s1"].reveal(hall.moment(), ALL, hall.secagg_server.payload(), 1.0)[0], plain(ALL))


# --- who lies, where a share does not open


def test_the_key_that_an_accused_site_shows_tells_who_lied(begun, identity):
    """s2 sealed nonsense for s1, which complains; s4 complains about s3, whose share opens."""
    hall = begun("masked")
    moment = hall.moment()
    said = statements.peek(hall.prepares[1])
    hall.prepares[1] = resigned(identity, hall.prepares[1], shares=said["shares"] | {"s1": "00" * 192})
    secagg_server = hall.secagg_server
    secagg_server.begin(moment, hall.prepares)
    true, none = hall.sites["s1"].submit(moment, hall.prepares, "00")
    assert (statements.peek(true)["kind"], none) == ("complain", b"")
    false = statements.sign(
        identity("s4"), "complain", moment, roster=statements.digest_of(hall.prepares), against=["s3"]
    )
    secagg_server.complain("s1", true)
    secagg_server.complain("s4", false)
    assert secagg_server.accused() == {"s2": ["s1"], "s3": ["s4"]}
    shown = hall.sites["s3"].agreement.justify(moment, hall.prepares, [false])
    own = statements.sign(
        identity("s2"), "justify", moment, roster=statements.digest_of(hall.prepares), keys={"s1": "0a" * 32}
    )
    assert list(secagg_server.judge(hall.joins, {"s2": own, "s3": shown})) == ["s2", "s4"]
    assert list(secagg_server.judge(hall.joins, {"s3": shown})) == ["s4"]
    silent = resigned(identity, own, keys={})
    assert list(secagg_server.judge(hall.joins, {"s2": silent})) == ["s2"]
    for site, wrong in (("s2", false), ("s4", resigned(identity, false, against=["s9"]))):
        with pytest.raises(RoundRefused):
            secagg_server.complain(site, wrong)
    with pytest.raises(RoundRefused, match="complaint about other sites"):
        secagg_server.complain("s4", resigned(identity, false, against=["s4"]))
    with pytest.raises(RoundRefused, match="complaint about other sites"):
        secagg_server.complain("s4", resigned(identity, false, against=[]))


# --- the rest


@pytest.mark.parametrize("liar", [0, 1, 3])
@pytest.mark.parametrize("mode", STAR)
def test_what_a_round_starts_from_is_voted_on_and_the_first_one_does_not_decide(begun, plain, mode, liar):
    """Whenever the one with another model comes, the sum is that of the others."""
    hall = begun(mode)
    for place, name in enumerate(ALL):
        model = "11" if place == liar else "00"
        hall.secagg_server.submit(name, *hall.sites[name].submit(hall.moment(), hall.prepares, model))
    assert list(hall.secagg_server.settle()) == [ALL[liar]]
    left = [name for name in ALL if name != ALL[liar]]
    assert hall.secagg_server.added == left
    assert hall.unmask(hall.moment()) == ([ALL[liar]] if hall.promise.masks else [])
    payload, roster = hall.secagg_server.payload(), roster_digest(hall.prepares)
    same(hall.sites[left[0]].reveal(hall.moment(), left, payload, 1.0, roster)[0], plain(left))


@pytest.mark.parametrize("mode", ["fixed", "masked"])
@pytest.mark.parametrize("words", [1, 2, 10_000])
def test_the_length_of_an_update_is_known_before_the_first_one_comes(begun, plain, identity, mode, words):
    hall = begun(mode)
    signed, _ = hall.sites["s1"].submit(hall.moment(), hall.prepares, "00")
    lie = bytes(8 * words)
    with pytest.raises(RoundRefused, match="a statement of s1"):
        hall.secagg_server.submit("s1", resigned(identity, signed, sha256=hashlib.sha256(lie).hexdigest()), lie)
    hall.submit(hall.moment(), ALL[1:])
    assert hall.secagg_server.added == ALL[1:]
    same(revealed(hall, "s2"), plain(ALL[1:]))


def test_an_update_of_another_number_of_ciphertexts_is_refused_even_if_it_comes_first(begun, identity):
    hall = begun("he")
    signed, payload = hall.sites["s1"].submit(hall.moment(), hall.prepares, "00")
    lie = payload + payload
    with pytest.raises(RoundRefused, match="a statement of s1"):
        hall.secagg_server.submit("s1", resigned(identity, signed, sha256=hashlib.sha256(lie).hexdigest()), lie)
    hall.submit(hall.moment(), ALL[1:])


def test_where_no_model_has_more_than_half_of_the_sites_nobody_is_blamed(begun):
    hall = begun("masked")
    for name, model in zip(ALL, ("00", "11", "00", "11"), strict=True):
        hall.secagg_server.submit(name, *hall.sites[name].submit(hall.moment(), hall.prepares, model))
    with pytest.raises(ConfigRefused, match="none at more than half"):
        hall.secagg_server.settle()


def test_a_ring_names_them_before_the_first_hop(begun):
    hall = begun("ring")
    for name, model in zip(ALL, ("00", "00", "00", "22"), strict=True):
        hall.secagg_server.ready(name, hall.sites[name].ready(hall.moment(), hall.prepares, model))
    assert list(hall.secagg_server.settle()) == ["s4"]
    with pytest.raises(RoundRefused, match="a statement of s2"):
        hall.secagg_server.ready("s1", hall.sites["s2"].ready(hall.moment(), hall.prepares, "00"))


def test_a_server_under_encryption_holds_no_key(begun):
    hall = begun("he")
    hall.submit(hall.moment(), ALL)
    assert hall.secagg_server._cipher._secret is None
    assert SecAggServer(hall.promise, hall.secagg_server.authority, 9)._cipher._secret is None


@pytest.mark.parametrize("size", [0, 1, 7, 9, 17])
def test_no_whole_number_of_words_is_refused(size):
    with pytest.raises(RoundRefused, match="a multiple of 8"):
        words_of(bytes(size))


def test_words_are_little_endian():
    assert words_of((WORD - 2).to_bytes(8, "little") + (1).to_bytes(8, "little")).tolist() == [WORD - 2, 1]
