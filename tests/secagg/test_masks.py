"""Masks: published vectors of the RFCs, cancellation over any roster, uniform words."""

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from wardround.core.errors import RoundRefused
from wardround.core.keystream import WORD
from wardround.secagg import masks

PRIME = 17592186028033
ALMOST_ONE = 1 - 1e-6  # of chi-square; seeds are fixed, so the outcome is too
quick = settings(max_examples=30, deadline=None)


# --- RFC 7748, 5869, 8439


ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
COMMON = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def test_x25519_of_rfc_7748_section_6_1():
    assert masks.public_of(ALICE) == ALICE_PUBLIC
    assert masks.public_of(BOB) == BOB_PUBLIC
    expected = masks.derive(COMMON, "mask", 7)
    assert masks.shared(ALICE, BOB_PUBLIC, "mask", 7) == expected
    assert masks.shared(BOB, ALICE_PUBLIC, "mask", 7) == expected


def hkdf(secret, info, size):
    """RFC 5869 with no salt, by hand."""
    key = hmac.digest(bytes(32), secret, "sha256")
    found, last, count = b"", b"", 0
    while len(found) < size:
        count += 1
        last = hmac.digest(key, last + info + bytes([count]), "sha256")
        found += last
    return found[:size]


def test_hkdf_of_rfc_5869_case_3():
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(b"\x0b" * 22, b"", 42).hex() == expected
    assert masks.derive(b"\x0b" * 22, "a", 1) == hkdf(b"\x0b" * 22, b"wardround\x1fa\x1f1", 32)


def test_the_stream_of_rfc_8439_appendix_a_1():
    first = (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert masks.expand(bytes(32), 8, WORD).astype("<u8").tobytes().hex() == first
    second = masks.expand(bytes(32), 16, WORD)[8:].astype("<u8").tobytes().hex()
    assert second.startswith("9f07e7be5551387a98ba977c732d080d")


def poly1305(key, message):
    """RFC 8439 section 2.5 by hand."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for start in range(0, len(message), 16):
        total = (total + int.from_bytes(message[start : start + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def test_sealed_words_are_the_construction_of_rfc_8439_section_2_8():
    key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    assert poly1305(key, b"Cryptographic Forum Research Group").hex() == "a8061dc1305136c6c22b8baf0c0127a9"
    text, bound = b"shares of two secrets", "run 3 0 s1 s2"
    sealed = masks.seal(key, text, bound)
    assert len(sealed) == 12 + len(text) + 16
    stream = Cipher(algorithms.ChaCha20(key, bytes(4) + sealed[:12]), mode=None).encryptor().update(bytes(128))
    hidden = bytes(a ^ b for a, b in zip(text, stream[64:], strict=False))
    pad = [bytes(-len(part) % 16) for part in (bound.encode(), text)]
    lengths = len(bound).to_bytes(8, "little") + len(text).to_bytes(8, "little")
    tag = poly1305(stream[:32], bound.encode() + pad[0] + hidden + pad[1] + lengths)
    assert sealed[12:] == hidden + tag


# --- keys and seals


def test_new_keys_differ():
    keys = {masks.new_key() for _ in range(20)}
    assert len(keys) == 20
    assert {len(key) for key in keys} == {masks.KEY_BYTES}


@pytest.mark.parametrize("other", [("b",), ("a", 0), ("a", "1", 2), ()])
def test_every_word_of_the_purpose_counts(other):
    assert masks.derive(bytes(32), "a", 1) == masks.derive(bytes(32), "a", "1")
    assert masks.derive(bytes(32), "a", 1) != masks.derive(bytes(32), *other)
    assert masks.derive(bytes(32), "a", 1) != masks.derive(b"\1" + bytes(31), "a", 1)


@pytest.mark.parametrize("public", [bytes(32), (1).to_bytes(32, "little"), b"short", b"", bytes(33)])
def test_degenerate_public_keys_are_refused(public):
    """0 and 1 have small order (RFC 7748, section 6.1: check for the all-zero value)."""
    with pytest.raises(RoundRefused, match="X25519"):
        masks.shared(ALICE, public, "mask")


def test_a_seal_opens_for_its_key_and_words_only():
    key, sealed = bytes(32), masks.seal(bytes(32), b"text", "a b")
    assert masks.unseal(key, sealed, "a b") == b"text"
    assert masks.seal(key, b"text", "a b") != sealed
    wrong = [(b"\1" + bytes(31), sealed, "a b"), (key, sealed, "a c"), (key, b"", "a b"), (key, sealed[:-1], "a b")]
    wrong += [(key, sealed[:9], "a b"), (key, sealed[:20], "a b")]
    wrong += [(key, sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :], "a b") for i in range(len(sealed))]
    for arguments in wrong:
        with pytest.raises(RoundRefused, match="does not open"):
            masks.unseal(*arguments)


# --- arithmetic


@quick
@given(modulus=st.sampled_from([WORD, PRIME, 40961]), seed=st.integers(0, 2**32))
def test_addition_and_negation_are_those_of_integers(modulus, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, modulus, (2, 20), np.uint64, endpoint=False)
    a[:3], b[:3] = (0, modulus - 1, modulus - 1), (0, modulus - 1, 1)
    assert masks.add(a, b, modulus).tolist() == [(int(x) + int(y)) % modulus for x, y in zip(a, b, strict=True)]
    assert masks.negate(a, modulus).tolist() == [-int(x) % modulus for x in a]


# --- expand


@pytest.mark.parametrize("modulus", [WORD, PRIME, 2**43 + 1, 40961, 2])
def test_words_are_below_the_modulus_and_depend_on_seed_and_modulus_only(modulus):
    found = masks.expand(bytes(32), 3000, modulus)
    assert found.dtype == np.uint64
    assert int(found.max()) < modulus
    np.testing.assert_array_equal(found, masks.expand(bytes(32), 3000, modulus))
    assert np.any(found != masks.expand(b"\1" + bytes(31), 3000, modulus))
    assert len(masks.expand(bytes(32), 0, modulus)) == 0


@pytest.mark.parametrize("count", [1, 100, 3000])
def test_rejection_keeps_the_stream_in_its_order(count):
    """The slow way: shift each 64-bit word of the stream to 44 bits, keep those below the modulus."""
    stream = [int(word) >> 20 for word in masks.expand(bytes(32), 2 * count + 200, WORD)]
    assert masks.expand(bytes(32), count, PRIME).tolist() == [word for word in stream if word < PRIME][:count]


def chi_square(words, modulus, bins=256):
    """Return the statistic of `bins` equal intervals of [0, modulus), and its limit for uniform words."""
    counts = np.bincount([int(word) * bins // modulus for word in words], minlength=bins)
    expected = len(words) / bins
    return float(((counts - expected) ** 2).sum() / expected), float(chi2.ppf(ALMOST_ONE, bins - 1))


@pytest.mark.parametrize("modulus", [WORD, PRIME, 2**43 + 2**42 + 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_words_are_uniform(modulus, seed):
    """The last modulus is three quarters of a power of two: a remainder instead of rejection would fail by far."""
    found, limit = chi_square(masks.expand(bytes([seed] * 32), 50_000, modulus), modulus)
    assert found < limit
    low = masks.expand(bytes([seed] * 32), 50_000, modulus) & np.uint64(255)
    assert chi_square(low, 256)[0] < limit
    folded = masks.expand(bytes([seed] * 32), 50_000, WORD) >> np.uint64(20)
    assert chi_square(folded % np.uint64(2**43 + 2**42 + 1), 2**43 + 2**42 + 1)[0] > 10 * limit


# --- cancellation


@quick
@given(
    names=st.lists(st.text("abcXYZ019-_.@", min_size=1, max_size=6), min_size=1, max_size=7, unique=True),
    modulus=st.sampled_from([WORD, PRIME, 40961]),
    count=st.integers(0, 9),
    salt=st.binary(min_size=1, max_size=4),
)
def test_pair_masks_cancel_over_any_roster(names, modulus, count, salt):
    def seed(a, b):
        return hashlib.sha256(salt + " ".join(sorted((a, b))).encode()).digest()

    total = np.zeros(count, np.uint64)
    for name in names:
        pairs = [(other, seed(name, other)) for other in names if other != name]
        total = masks.add(total, masks.mask_of(name, None, pairs, count, modulus), modulus)
    assert not total.any()


def test_a_mask_is_the_formula():
    own, low, high = (bytes([i]) * 32 for i in range(3))
    b, s_a, s_c = (masks.expand(seed, 5, PRIME).astype(object) for seed in (own, low, high))
    found = masks.mask_of("b", own, [("a", low), ("c", high)], 5, PRIME)
    assert found.tolist() == list((b - s_a + s_c) % PRIME)


def test_one_missing_site_leaves_its_pair_masks():
    seeds = {frozenset(pair): hashlib.sha256(repr(pair).encode()).digest() for pair in ("ab", "ac", "bc")}
    total = np.zeros(4, np.uint64)
    for name in "ab":
        pairs = [(other, seeds[frozenset(name + other)]) for other in "abc" if other != name]
        total = masks.add(total, masks.mask_of(name, None, pairs, 4, WORD), WORD)
    of_c = masks.mask_of("c", None, [(other, seeds[frozenset(other + "c")]) for other in "ab"], 4, WORD)
    assert total.any()
    assert not masks.add(total, of_c, WORD).any()
