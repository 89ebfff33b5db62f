"""Exact sums under encryption: at the bound that is published, with the noise as badly aligned as it can be."""

import sys

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.secagg import bfv
from wardround.secagg.bfv import (
    FRESH_BYTES,
    MOST_WORD_BITS,
    NOISE,
    Q_BITS,
    Q_LEAST,
    SLOTS,
    STANDARD_128,
    SUM_BYTES,
    Cipher,
    plain_modulus,
    require_128_bits,
)
from wardround.secagg.packing import fields_below

SEED, OTHER = bytes(range(64)), bytes(64)
PREFIX = 4
RADIX = 2 * 127 * 8 + 1


@pytest.fixture(scope="module")
def cipher():
    return Cipher(plain_modulus(RADIX, 8), SEED)


def words(cipher, polynomials=1, seed=0):
    return np.random.default_rng(seed).integers(0, cipher.modulus, polynomials * SLOTS, np.uint64)


def prime(p):
    """Miller and Rabin with the bases that decide every number below 2**64 (Sorenson and Webster 2015)."""
    odd, twos = p - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, odd * 2**i, p) for i in range(twos)]
        if p % base == 0 or not (powers[0] == 1 or p - 1 in powers):
            return False
    return True


# --- parameters


@pytest.mark.parametrize(("degree", "bits"), STANDARD_128.items())
def test_the_standards_table_is_the_limit(degree, bits):
    require_128_bits(degree, bits)
    with pytest.raises(ConfigRefused, match="below 128-bit"):
        require_128_bits(degree, bits + 1)


def test_the_table_is_the_published_one():
    """Albrecht et al. 2018, table 1, uniform-ternary secrets, classical 128 bits (2**10 .. 2**15)."""
    assert STANDARD_128 == {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}


@pytest.mark.parametrize("degree", [0, 512, 3000, 65536])
def test_a_degree_that_the_standard_does_not_know_is_refused(degree):
    with pytest.raises(ConfigRefused, match="below 128-bit"):
        require_128_bits(degree, 20)


def test_no_cipher_below_the_table(monkeypatch):
    monkeypatch.setattr(bfv, "Q_BITS", 110)
    with pytest.raises(ConfigRefused, match="110 bits"):
        Cipher(plain_modulus(RADIX, 8), SEED)


@pytest.mark.parametrize("sites", [3, 8, 40, 256])
@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_the_plain_modulus_is_a_batching_prime_within_the_noise_bound(bits, sites):
    radix = 2 * (2 ** (bits - 1) - 1) * sites + 1
    t = plain_modulus(radix, sites)
    assert prime(t)
    assert t % (2 * SLOTS) == 1
    assert 2 * t * (NOISE * sites + 2) < Q_LEAST
    assert t <= 2**MOST_WORD_BITS
    most = min(2**MOST_WORD_BITS, (Q_LEAST - 1) // (2 * (NOISE * sites + 2)))
    assert fields_below(radix, t) == fields_below(radix, most) >= 1


def test_the_coefficient_modulus_is_a_prime_of_sixty_bits(cipher):
    (q,) = cipher._seal.CoeffModulus.Create(SLOTS, [Q_BITS])
    assert Q_LEAST < q.value() < 2 * Q_LEAST
    assert prime(q.value())


def test_a_field_that_does_not_fit_is_refused():
    most = (Q_LEAST - 1) // (2 * (NOISE * 256 + 2))
    assert 2**45 < most < 2**46
    assert 2**44 <= plain_modulus(2**44, 256) <= most
    with pytest.raises(ConfigRefused, match="for 256 sites"):
        plain_modulus(2**46, 256)


def test_where_no_such_prime_exists_one_field_less_is_packed():
    """16-level fields for 100 sites: four would fit the bound, but no batching prime that SEAL offers lies between."""
    radix, sites = 2 * 15 * 100 + 1, 100
    most = (Q_LEAST - 1) // (2 * (NOISE * sites + 2))
    t = plain_modulus(radix, sites)
    assert (fields_below(radix, most), fields_below(radix, t)) == (4, 3)
    assert t <= most


def test_parameters_that_seal_does_not_accept_are_refused():
    with pytest.raises(ConfigRefused, match="parameters that SEAL accepts"):
        Cipher(2**60 - 1, SEED)


def test_without_tenseal_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tenseal.sealapi", None)
    bfv._seal.cache_clear()
    with pytest.raises(ConfigRefused, match="pip install"):
        Cipher(plain_modulus(RADIX, 8), SEED)
    monkeypatch.undo()
    bfv._seal.cache_clear()
    Cipher(plain_modulus(RADIX, 8), SEED)


# --- exactness


@pytest.mark.parametrize("sites", [3, 8, 64, 256])
def test_the_most_sites_add_up_exactly(sites):
    """The largest prime that the bound lets through; one fresh ciphertext added `sites` times: its noise adds up whole."""
    bits = ((Q_LEAST - 1) // (2 * (NOISE * sites + 2))).bit_length() - 1
    cipher = Cipher(bfv._batching_prime(bits), SEED)
    assert 2 * cipher.modulus * (NOISE * sites + 2) < Q_LEAST
    given = words(cipher, seed=sites)
    given[:2], given[2:4] = 0, cipher.modulus - 1
    message, total = cipher.encrypt(given), None
    for _ in range(sites):
        total = cipher.add(total, message)
    expected = [int(word) * sites % cipher.modulus for word in given]
    assert cipher.decrypt(cipher.dump(total)).tolist() == expected


@pytest.mark.parametrize("sites", [3, 256])
def test_three_bits_beyond_the_bound_it_is_noise(sites):
    """The control: the bound is not so generous that nothing could fail."""
    bits = ((Q_LEAST - 1) // (2 * (NOISE * sites + 2))).bit_length() + 2
    cipher = Cipher(bfv._batching_prime(bits), SEED)
    given, total = words(cipher), None
    message = cipher.encrypt(given)
    for _ in range(sites):
        total = cipher.add(total, message)
    assert cipher.decrypt(cipher.dump(total)).tolist() != [int(word) * sites % cipher.modulus for word in given]


def test_different_messages_and_open_words_add_up_mod_t(cipher):
    given = [words(cipher, 2, seed) for seed in range(8)]
    total = None
    for one in given:
        total = cipher.add(total, cipher.encrypt(one))
    opened = words(cipher, 2, 99)
    cipher.add_words(total, opened)
    assert cipher.words(total) == 2 * SLOTS
    expected = [sum(column) % cipher.modulus for column in np.stack([*given, opened]).astype(object).T]
    assert cipher.decrypt(cipher.dump(total)).tolist() == expected


@pytest.mark.parametrize("polynomials", [1, 3])
def test_messages_have_the_published_sizes(cipher, polynomials):
    message = cipher.encrypt(words(cipher, polynomials))
    assert len(message) == polynomials * (FRESH_BYTES + PREFIX)
    total = cipher.add(cipher.add(None, message), message)
    assert len(cipher.dump(total)) == polynomials * (SUM_BYTES + PREFIX)


# --- keys


def test_a_server_adds_and_cannot_read(cipher):
    server, given = Cipher(cipher.modulus), words(cipher)
    message = cipher.encrypt(given)
    total = server.add(server.add(None, message), message)
    np.testing.assert_array_equal(cipher.decrypt(server.dump(total)), given * 2 % np.uint64(cipher.modulus))
    with pytest.raises(ConfigRefused, match="only adds"):
        server.decrypt(message)
    with pytest.raises(ConfigRefused, match="only adds"):
        server.encrypt(given)


def test_the_same_seed_opens_everywhere_and_serves_every_modulus(cipher):
    for modulus in (cipher.modulus, plain_modulus(2 * 2047 * 40 + 1, 40)):
        sender, receiver = Cipher(modulus, SEED), Cipher(modulus, SEED)
        given = words(sender)
        np.testing.assert_array_equal(receiver.decrypt(sender.encrypt(given)), given)


def test_another_key_reads_noise(cipher):
    given = words(cipher)
    found = Cipher(cipher.modulus, OTHER).decrypt(cipher.encrypt(given))
    # 4096 words of 44 bits: more than one right by chance has a probability below 2**-64
    assert np.count_nonzero(found == given) <= 1


def test_encryption_is_randomised(cipher):
    given = words(cipher)
    messages = [cipher.encrypt(given), cipher.encrypt(given), Cipher(cipher.modulus, SEED).encrypt(given)]
    assert len(set(messages)) == 3
    a, b = (np.frombuffer(message, np.uint8) for message in messages[:2])
    # of the 8 bytes of an independent word of 60 bits, 7 are equal with probability 1/256 and one with 1/16;
    # in front stand SEAL's parameters, some hundred bytes
    p = (7 / 256 + 1 / 16) / 8
    assert np.count_nonzero(a == b) < p * len(a) + 5 * np.sqrt(p * len(a)) + 300
    for message in messages:
        np.testing.assert_array_equal(cipher.decrypt(message), given)


# --- messages that are none


def test_truncated_messages_are_refused(cipher):
    message = cipher.encrypt(words(cipher, 2))
    whole = FRESH_BYTES + PREFIX
    for size in (0, 1, 3, 4, 5, 100, whole - 1, whole + 1, whole + 3, whole + 4, 2 * whole - 1):
        with pytest.raises(RoundRefused, match=r"truncated|empty"):
            cipher.load(message[:size])
    assert len(cipher.load(message[:whole])) == 1


def test_foreign_messages_are_refused(cipher):
    message = cipher.encrypt(words(cipher))
    other = Cipher(plain_modulus(2 * 2047 * 40 + 1, 40), SEED)
    assert other.modulus != cipher.modulus
    body = FRESH_BYTES * b"x"
    for foreign in (
        other.encrypt(words(other)),
        FRESH_BYTES.to_bytes(PREFIX, "little") + body,
        (2**32 - 1).to_bytes(PREFIX, "little") + body,
        bytes(PREFIX) + message,
        message + b"\1\0\0\0x",
        (90_000).to_bytes(PREFIX, "little") + bytes(90_000),
    ):
        with pytest.raises(RoundRefused, match="an encrypted message"):
            cipher.load(foreign)


def test_a_damaged_header_is_refused_or_read_as_another_ciphertext(cipher):
    """No other error, whatever the byte; what SEAL reads in spite of it is for the tags to refuse."""
    message = bytearray(cipher.encrypt(words(cipher)))
    refused = 0
    for place in range(120):
        for flip in (1, 128):
            message[place] ^= flip
            try:
                cipher.load(bytes(message))
            except RoundRefused:
                refused += 1
            message[place] ^= flip
    assert refused > 50
    cipher.load(bytes(message))


def test_a_ciphertext_of_three_polynomials_is_refused(cipher):
    square = cipher.load(cipher.encrypt(words(cipher)))[0]
    cipher._evaluator.multiply_inplace(square, square)
    assert square.size() == 3
    with pytest.raises(RoundRefused, match=r"3 polynomials|truncated"):
        cipher.load(cipher.dump([square]))


def test_another_number_of_ciphertexts_is_refused_and_not_added(cipher):
    given = words(cipher, 2)
    total = cipher.add(None, cipher.encrypt(given))
    for polynomials in (1, 3):
        with pytest.raises(RoundRefused, match="where 2 are expected"):
            cipher.add(total, cipher.encrypt(words(cipher, polynomials)))
    np.testing.assert_array_equal(cipher.decrypt(cipher.dump(total)), given)
