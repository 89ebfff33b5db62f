"""Which masks cancel in the sum? Words from secrets that only two sites share.

    y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)

All is modulo the modulus of the words. s_uv comes from X25519 between the mask keys
that u and v made for this round and attempt alone; b_u is u's own.
Sources: Bonawitz et al. 2017, ePrint 2017/281, protocol of figure 4; RFC 7748 (X25519);
RFC 5869 (HKDF); RFC 8439 (ChaCha20, ChaCha20-Poly1305).
Deviations: none.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.core.errors import RoundRefused
from wardround.core.keystream import KEY_BYTES, WORD, Words, expand
from wardround.core.rng import secret

_NONCE_BYTES = 12


def new_key() -> bytes:
    """Return a fresh X25519 private key, 32 bytes of operating-system entropy."""
    return secret(KEY_BYTES)


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derive(secret_: bytes, *purpose: str | int) -> bytes:
    """Return 32 bytes that depend on the secret and `purpose` (HKDF-SHA256)."""
    info = "\x1f".join(("wardround", *(str(word) for word in purpose))).encode()
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(secret_)


def shared(private: bytes, public: bytes, *purpose: str | int) -> bytes:
    """Return the 32 bytes that the owners of two key pairs share for a purpose.

    A degenerate key raises RoundRefused.
    """
    try:
        common = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise _refused("a public key that X25519 does not accept") from error
    return derive(common, *purpose)


def add(a: Words, b: Words, modulus: int) -> Words:
    """Return a + b mod modulus."""
    total = a + b
    if modulus != WORD:
        total -= np.where(total >= np.uint64(modulus), np.uint64(modulus), np.uint64(0))
    return total


def negate(a: Words, modulus: int) -> Words:
    """Return -a mod modulus."""
    if modulus == WORD:
        return np.uint64(0) - a
    return np.where(a == 0, a, np.uint64(modulus) - a)


def mask_of(
    site: str,
    own: bytes | None,
    pairs: Iterable[tuple[str, bytes]],
    count: int,
    modulus: int,
) -> Words:
    """Return PRG(own) and the signed pair masks of `site`, added up.

    If own is None, it is the pair masks alone.

    pairs: (other site, seed shared with it).
    """
    total = np.zeros(count, np.uint64) if own is None else expand(own, count, modulus)
    for other, seed in pairs:
        # The order of the two names decides the sign, so that the masks of a pair
        # cancel.
        mask = expand(seed, count, modulus)
        total = add(total, mask if site < other else negate(mask, modulus), modulus)
    return total


def seal(key: bytes, text: bytes, bound: str) -> bytes:
    """Return text, encrypted and authenticated under a key, and bound to `bound`."""
    # The nonce travels in front of the ciphertext.
    nonce = secret(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text, bound.encode())


def unseal(key: bytes, sealed: bytes, bound: str) -> bytes:
    """Return the text. Another key, other words or a changed byte raise RoundRefused."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound.encode())
    except (InvalidTag, ValueError) as error:
        raise _refused("a sealed share that does not open") from error


def _refused(found: str) -> RoundRefused:
    return RoundRefused(
        "a message of another site",
        found=found,
        expected="one of this run, round and attempt, made with the keys of its sender",
        fix="the message was altered, replayed, or a site restarted: see the server's log",
    )
