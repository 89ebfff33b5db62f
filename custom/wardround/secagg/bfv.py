"""The adapter to TenSEAL: packed words under exact integer BFV, symmetric and seeded.

Only additions are needed, so the ciphertext modulus is ONE 60-bit prime (no
key-switching prime), and the plaintext prime t may take all of it that the noise
leaves: a fresh ciphertext holds 4096 words of up to 50 bits in 32,972 bytes.
Exactness is a bound, not a hope: fresh noise is at most 21 (SEAL samples it from 21
minus 21 coin flips), and scaling a message rounds by at most 1/2, so a sum over k sites
decrypts exactly while 2 t (22 k + 2) < q.
Sources: Fan and Vercauteren 2012, ePrint 2012/144; Albrecht et al. 2018, Homomorphic
Encryption Standard, table 1.
Deviations: none in the scheme (it is Microsoft SEAL's). The secret key is derived from
a 64-byte seed, so that a key file is small and serves every t.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.keystream import Words
from wardround.secagg.packing import fields_below

SLOTS = 4096
Q_BITS = 60
Q_LEAST = 2**59
SEED_BYTES = 64
# Largest log2 of the whole coefficient modulus for 128-bit classical security with a
# ternary secret, by degree.
STANDARD_128 = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
# The bound on fresh noise and rounding, rounded up.
NOISE = 22
MOST_WORD_BITS = 50
# What SEAL writes for one ciphertext, fresh and summed, and the most that is read of
# one.
FRESH_BYTES = 32_972
SUM_BYTES = 65_659
_MOST_BYTES = 80_000


def require_128_bits(degree: int, modulus_bits: int) -> None:
    """Raise ConfigRefused unless these parameters have 128 bits of security or more.

    The homomorphic-encryption standard decides.
    """
    allowed = STANDARD_128.get(degree)
    if allowed is None or modulus_bits > allowed:
        raise ConfigRefused(
            "encryption parameters below 128-bit security",
            found=f"degree {degree}, coefficient modulus of {modulus_bits} bits",
            expected=f"one of {STANDARD_128} (degree: most bits)",
            fix="use a larger degree or a smaller modulus",
        )


def plain_modulus(radix: int, sites: int) -> int:
    """Return the plaintext prime that packs the most fields of this radix.

    It still sums `sites` messages exactly. If no field fits, ConfigRefused is raised.
    """
    most = min(2**MOST_WORD_BITS, (Q_LEAST - 1) // (2 * (NOISE * sites + 2)))
    for count in range(fields_below(radix, most), 0, -1):
        bits = max(15, (radix**count).bit_length())
        for prime in (_batching_prime(bits), _batching_prime(bits + 1)):
            if radix**count <= prime <= most:
                return prime
    raise ConfigRefused(
        "the payload under encryption",
        found=f"fields of {radix.bit_length()} bits for {sites} sites",
        expected=f"at most {most.bit_length() - 1} bits",
        fix="lower `bits` or `sites`",
    )


@final
class Cipher:
    """Encrypts, adds and decrypts uint64 words below `modulus`.

    It takes a whole number of polynomials of SLOTS words at a time.

    seed: that of the secret key; None at a server, which can add and cannot read.
    """

    def __init__(self, modulus: int, seed: bytes | None = None) -> None:
        require_128_bits(SLOTS, Q_BITS)
        self._seal: Any = _seal()
        self.modulus = modulus
        self._context = self._make_context(None)
        self._encoder = self._seal.BatchEncoder(self._context)
        self._evaluator = self._seal.Evaluator(self._context)
        self._secret = None
        if seed is not None:
            keys = self._seal.KeyGenerator(self._make_context(struct.unpack("<8Q", seed)))
            self._secret = keys.secret_key()

    def encrypt(self, words: Words) -> bytes:
        """Return one message of fresh ciphertexts.

        words: uint64 [n SLOTS].
        """
        encryptor = self._seal.Encryptor(self._context, self._key())
        return self._dump(encryptor.encrypt_symmetric(self._plain(part)) for part in _parts(words))

    def decrypt(self, message: bytes) -> Words:
        """Return uint64 [n SLOTS].

        A message that is no whole number of ciphertexts raises RoundRefused.
        """
        decryptor = self._seal.Decryptor(self._context, self._key())
        rows = []
        for one in self.load(message):
            plain = self._seal.Plaintext()
            decryptor.decrypt(one, plain)
            rows.append(np.array(self._encoder.decode_uint64(plain), np.uint64))
        return np.concatenate(rows)

    def load(self, message: bytes) -> list[Any]:
        """Return the ciphertexts of a message.

        A message that is truncated, damaged or foreign raises RoundRefused.
        """
        found = []
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            file = Path(folder) / "one"
            for part in _split(message):
                file.write_bytes(part)
                one = self._seal.Ciphertext(self._context)
                try:
                    one.load(self._context, str(file))
                except (ValueError, RuntimeError) as error:
                    raise _damaged(f"a part that SEAL does not read ({type(error).__name__})") from error
                # Fresh ciphertexts and their sums have two polynomials, and nothing
                # else is sent.
                if one.size() != 2:
                    raise _damaged(f"a ciphertext of {one.size()} polynomials")
                found.append(one)
        return found

    def add(self, total: list[Any] | None, message: bytes) -> list[Any]:
        """Return total + message, added in place.

        For a total of None it is the message itself.

        Another number of ciphertexts raises RoundRefused.
        """
        arrived = self.load(message)
        if total is None:
            return arrived
        if len(total) != len(arrived):
            raise _damaged(f"{len(arrived)} ciphertexts where {len(total)} are expected")
        for mine, other in zip(total, arrived, strict=True):
            self._evaluator.add_inplace(mine, other)
        return total

    def add_words(self, total: list[Any], words: Words) -> None:
        """Add words that need not be hidden (opened masks) to a sum, in place."""
        for mine, part in zip(total, _parts(words), strict=True):
            self._evaluator.add_plain_inplace(mine, self._plain(part))

    @staticmethod
    def words(total: list[Any]) -> int:
        """Return how many words a sum holds."""
        return SLOTS * len(total)

    def dump(self, total: list[Any]) -> bytes:
        """Return a sum as one message."""
        return self._dump(total)

    def _dump(self, ciphertexts: Any) -> bytes:
        parts = []
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            file = Path(folder) / "one"
            for one in ciphertexts:
                one.save(str(file))
                part = file.read_bytes()
                # The order on the wire: the length in four bytes, little-endian, then
                # the ciphertext.
                parts += [struct.pack("<I", len(part)), part]
        return b"".join(parts)

    def _plain(self, words: Words) -> Any:
        plain = self._seal.Plaintext()
        self._encoder.encode(words.tolist(), plain)
        return plain

    def _key(self) -> Any:
        if self._secret is None:
            raise ConfigRefused(
                "a secret key",
                found="none: this party only adds",
                expected="a site's key",
                fix="this is a fault: report it",
            )
        return self._secret

    def _make_context(self, seed: tuple[int, ...] | None) -> Any:
        parameters = self._seal.EncryptionParameters(self._seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(SLOTS)
        parameters.set_coeff_modulus(self._seal.CoeffModulus.Create(SLOTS, [Q_BITS]))
        parameters.set_plain_modulus(self._seal.Modulus(self.modulus))
        if seed is not None:
            parameters.set_random_generator(self._seal.Blake2xbPRNGFactory(list(seed)))
        context = self._seal.SEALContext(parameters, False, self._seal.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise ConfigRefused(
                "the encryption parameters",
                found=str(context.parameters_error_message()),
                expected="parameters that SEAL accepts",
                fix="check the installed tenseal",
            )
        return context


def _parts(words: Words) -> Iterator[Words]:
    for start in range(0, len(words), SLOTS):
        yield words[start : start + SLOTS]


def _split(message: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(message):
        header = message[place : place + 4]
        size = struct.unpack("<I", header)[0] if len(header) == 4 else 0
        place += 4
        # The announced length is compared before anything is read.
        if not 0 < size <= min(_MOST_BYTES, len(message) - place):
            raise _damaged("a truncated message")
        yield message[place : place + size]
        place += size
    if not message:
        raise _damaged("an empty message")


def _memory() -> str | None:
    """Return a folder in memory where there is one: SEAL writes to files only."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


@lru_cache
def _seal() -> Any:
    try:
        import tenseal.sealapi
    except ImportError as error:
        raise ConfigRefused(
            "homomorphic encryption",
            found=f"tenseal does not import ({error})",
            expected="tenseal 0.3",
            fix="pip install 'tenseal>=0.3.15,<0.4'",
        ) from error
    return tenseal.sealapi


@lru_cache
def _batching_prime(bits: int) -> int:
    return int(_seal().PlainModulus.Batching(SLOTS, bits).value())


def _damaged(found: str) -> RoundRefused:
    return RoundRefused(
        "an encrypted message",
        found=found,
        expected="the ciphertexts of this job's parameters",
        fix="the message was altered on its way, or the sites run different versions",
    )
