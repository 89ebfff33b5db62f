"""Statements: the table is all that passes, each in its moment, from its owner."""

import json

import pytest

from wardround.core.errors import RoundRefused
from wardround.messages import statements
from wardround.messages.statements import LONGEST, SHAPES, Moment, Signed, digest_of, peek, read, sign

RUN = "ab" * 16
MOMENT = Moment(RUN, 3, 1)
K, SEALED, SHARE = "0a" * 32, "0c" * 192, "0d" * 66
SAMPLES = {
    "join": {"channel": K, "key_id": "", "job": K},
    "prepare": {"peers": K, "mask": K, "own": K, "shares": {"s1": SEALED, "s2": SEALED}, "digests": {"s1": "bb" * 64}},
    "ready": {"roster": "", "grid": "00", "model": "11"},
    "submit": {"roster": "", "grid": "00", "model": "11", "sha256": "22"},
    "complain": {"roster": "", "against": ["s2"]},
    "justify": {"roster": "", "keys": {"s1": K}},
    "hop": {"roster": "", "grid": "00", "sha256": "22", "done": ["s1", "s2"]},
    "unmask": {"roster": "", "survivors": ["s1"], "shares": {"s1": SHARE}},
    "judged": {"model": "00", "job": K},
}


@pytest.fixture
def s1(identity):
    return identity("s1")


def text_of(**changed):
    content = {"kind": "judged", "site": "s1", "run": RUN, "round": 3, "attempt": 1, "model": "00", "job": K}
    content = {key: value for key, value in (content | changed).items() if value is not ...}
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def by_hand(s1, text):
    return Signed(text, s1.sign(text), s1.certificate)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind_comes_back(s1, authority, kind):
    signed = sign(s1, kind, MOMENT, **SAMPLES[kind])
    expected = SAMPLES[kind] | {"kind": kind, "site": "s1", "run": RUN, "round": 3, "attempt": 1}
    assert read(signed, [kind], MOMENT, authority) == expected
    assert read(signed, ["join", kind], MOMENT, None) == expected
    assert peek(signed) == expected
    assert "\n" not in signed.text


def test_the_samples_are_the_whole_table():
    assert SAMPLES.keys() == SHAPES.keys()
    assert {kind: set(fields) for kind, fields in SAMPLES.items()} == {kind: set(SHAPES[kind]) for kind in SHAPES}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_key_more_or_less_is_refused(s1, kind):
    for key in SAMPLES[kind]:
        with pytest.raises(RoundRefused, match="known kind"):
            sign(s1, kind, MOMENT, **{k: v for k, v in SAMPLES[kind].items() if k != key})
    with pytest.raises(RoundRefused, match="known kind"):
        sign(s1, kind, MOMENT, **SAMPLES[kind], loss="00")
    with pytest.raises(RoundRefused, match="known kind"):
        sign(s1, "another", MOMENT, **SAMPLES[kind])


BY_SITE = [["s1"], "00", None, {"s1": "0"}, {"s1": 1}, {"": K}, {"a b": K}, {"s1": "00"}, {"s1": "ff" * 200}]
BAD = {
    statements.HEX: ["0", "0G", "AB", " 00", "00\n", "00" * 513, 0, None, ["00"], {"a": "00"}],
    statements.KEY: ["", "00", "00" * 31, "00" * 33, "AB" * 32, 0, None],
    statements.NAMES: ["s1", [1], [None], ["a b"], [""], ["a" * 65], ["a/b"], {"s1": "00"}, None, ["s1", "s1"]],
    **dict.fromkeys((statements.SEALED, statements.DIGESTS, statements.SHARES, statements.KEYS), BY_SITE),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_value_of_another_form_is_refused(s1, kind):
    for key, form in SHAPES[kind].items():
        for value in BAD[form]:
            with pytest.raises(RoundRefused, match=key):
                sign(s1, kind, MOMENT, **SAMPLES[kind] | {key: value})


@pytest.mark.parametrize(
    "changed",
    [
        {"site": ""},
        {"site": "a b"},
        {"site": 5},
        {"site": "x" * 65},
        {"run": "xyz"},
        {"run": 1},
        {"round": -2},
        {"round": "3"},
        {"round": 3.0},
        {"round": True},
        {"attempt": None},
        {"attempt": -2},
        {"round": 2**40},
        {"attempt": 10**400},
    ],
)
def test_site_run_round_and_attempt_have_their_forms(s1, changed):
    with pytest.raises(RoundRefused, match="no site, run, round or attempt"):
        peek(by_hand(s1, text_of(**changed)))
    assert peek(by_hand(s1, text_of()))["site"] == "s1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "7",
        "null",
        '"judged"',
        "{}",
        text_of(kind=...),
        text_of(kind=["judged"]),
        text_of(site=...),
        text_of()[:-1],
        text_of() + text_of(),
        "[" * 100_000,
        '{"kind":' * 30_000,
    ],
)
def test_what_is_no_statement_is_refused(s1, text):
    with pytest.raises(RoundRefused, match="known kind"):
        peek(Signed(text, b"", b""))


def test_a_statement_has_a_longest_length(s1):
    shares = {f"hospital-{i:055}": SHARE for i in range(1300)}
    with pytest.raises(RoundRefused, match="known kind"):
        sign(s1, "unmask", MOMENT, roster="", survivors=[], shares=shares)


def test_one_content_has_one_spelling(s1):
    """Else a key given twice says two things to two readers, and one statement has many digests."""
    text = text_of()
    assert peek(Signed(text, b"", b""))["model"] == "00"
    for other in (
        text + " ",
        text.replace(":", ": "),
        text.replace('"model":"00"', '"model":"11","model":"00"'),
        text.replace('"s1"', '"\\u0073\\u0031"'),
        json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
        text.replace('"round":3', '"round":3e0'),
    ):
        with pytest.raises(RoundRefused):
            peek(Signed(other, b"", b""))


def test_256_sites_fit(s1):
    names = [f"hospital-{i:055}" for i in range(256)]
    said = {"shares": dict.fromkeys(names, SEALED), "digests": dict.fromkeys(names, "00" * 64)}
    signed = sign(s1, "prepare", MOMENT, **SAMPLES["prepare"] | said)
    assert len(peek(signed)["shares"]) == 256
    assert len(signed.text) < LONGEST


# --- moments, kinds, owners


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Moment(RUN, 2, 1), "round 3, attempt 1"),
        (Moment(RUN, 4, 1), "round 3, attempt 1"),
        (Moment(RUN, 3, 0), "round 3, attempt 1"),
        (Moment("cd" * 16, 3, 1), "another run"),
    ],
)
def test_another_round_attempt_or_run_is_a_replay(s1, authority, other, says):
    signed = sign(s1, "judged", MOMENT, model="00", job=K)
    for who in (authority, None):
        with pytest.raises(RoundRefused, match=says):
            read(signed, ["judged"], other, who)


def test_another_kind_is_refused(s1, authority):
    signed = sign(s1, "judged", MOMENT, model="00", job=K)
    with pytest.raises(RoundRefused, match="'judged'"):
        read(signed, ["submit", "hop"], MOMENT, authority)


def test_a_changed_text_name_or_signature_is_refused(s1, identity, authority):
    signed, s2 = sign(s1, "judged", MOMENT, model="00", job=K), identity("s2")
    forged = [
        Signed(signed.text.replace('"00"', '"01"'), signed.signature, signed.certificate),
        Signed(signed.text.replace('"s1"', '"s2"'), signed.signature, signed.certificate),
        Signed(signed.text.replace('"s1"', '"s2"'), signed.signature, s2.certificate),
        Signed(signed.text, signed.signature[:-1] + bytes([signed.signature[-1] ^ 1]), signed.certificate),
        Signed(signed.text, s2.sign(signed.text), s2.certificate),
        Signed(signed.text, b"", b""),
    ]
    for one in forged:
        with pytest.raises(RoundRefused, match="in the name of"):
            read(one, ["judged"], MOMENT, authority)


def test_another_projects_site_is_refused(impostor, authority):
    with pytest.raises(RoundRefused, match="did not issue"):
        read(sign(impostor, "judged", MOMENT, model="00", job=K), ["judged"], MOMENT, authority)


# --- digests


def test_digests_depend_on_texts_alone_in_any_order(s1, identity):
    one, two = sign(s1, "judged", MOMENT, model="00", job=K), sign(identity("s2"), "judged", MOMENT, model="00", job=K)
    again = sign(s1, "judged", MOMENT, model="00", job=K)
    assert again.signature != one.signature
    assert again.digest == one.digest != two.digest
    assert digest_of([one, two]) == digest_of([two, again])
    assert len({digest_of(some) for some in ([], [one], [two], [one, two], [one, one])}) == 5


def test_a_moment_lists_run_round_attempt():
    assert MOMENT.words == (RUN, 3, 1)
