"""How is a share sealed so that its sender can prove what it sent, and nothing more?

    sealed = public key of the sender for this receiver and moment
             | AEAD(X25519(that key, channel key of the receiver), shares)

The private half is used for one receiver in one attempt. When a receiver complains that
a share does not open, its sender shows that half: everybody can then open this one
share, which the receiver was to have anyway, and see who lied. A false complaint costs
its sender its place. No site can be accused falsely, and no other share is revealed.
Sources: Bonawitz et al. 2017, ePrint 2017/281 (sealed shares); Pedersen 1991 (complaint
and justification).
Deviations: 1. A share is checked against a SHA-256 that its sender signed, not against
commitments to a polynomial: shares that are well sealed and yet give another secret
than the promised one show only when the sum is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from wardround.core.errors import RoundRefused
from wardround.core.keystream import KEY_BYTES
from wardround.messages import statements
from wardround.messages.statements import Moment
from wardround.secagg import masks
from wardround.secagg.shamir import SHARE_BYTES


def seal(
    private: bytes,
    channel: bytes,
    of_mask: bytes,
    of_own: bytes,
    moment: Moment,
    names: tuple[str, str],
) -> bytes:
    """Return both shares, sealed for one receiver.

    private: a key that is fresh for this receiver.
    channel: the receiver's public channel key.
    names: (sender, receiver).
    """
    key = masks.shared(private, channel, "shares", *moment.words)
    # The order on the wire: the public key, whose size is known, then the sealed
    # shares.
    return masks.public_of(private) + masks.seal(key, of_mask + of_own, bound(moment, *names))


def digests(of_mask: bytes, of_own: bytes) -> str:
    """Return what the sender signs of two shares: the SHA-256 of each, in hexadecimal."""
    return hashlib.sha256(of_mask).hexdigest() + hashlib.sha256(of_own).hexdigest()


def fits(share: bytes, said: Mapping[str, Any], receiver: str, *, own: bool) -> bool:
    """Return whether a share is the one that its sender promised to this receiver.

    own: whether it is a share of the sender's own mask, or else of its mask key.
    """
    promised = str(said["digests"].get(receiver, ""))
    return hashlib.sha256(share).hexdigest() == (promised[64:] if own else promised[:64])


def open_received(channel: bytes, said: Mapping[str, Any], moment: Moment, receiver: str) -> tuple[bytes, bytes]:
    """Return (share of the mask key, share of the own mask) that a site sent.

    The receiver owns the private channel key. A share that does not open, or that is
    not what was promised, raises RoundRefused.

    said: the sender's `prepare`.
    """
    return _open(
        masks.shared(channel, _public(said, receiver), "shares", *moment.words),
        said,
        moment,
        receiver,
    )


def is_justified(
    private: bytes,
    channel: bytes,
    said: Mapping[str, Any],
    moment: Moment,
    receiver: str,
) -> bool:
    """Return whether this private key shows that the share for `receiver` opens.

    It must open with the public channel key with which the receiver joined.
    """
    try:
        if masks.public_of(private) != _public(said, receiver):
            return False
        _open(
            masks.shared(private, channel, "shares", *moment.words),
            said,
            moment,
            receiver,
        )
    except RoundRefused:
        return False
    return True


def bound(moment: Moment, sender: str, receiver: str) -> str:
    """Return the words that a sealed share is bound to."""
    return " ".join(str(word) for word in (*moment.words, sender, receiver))


def _public(said: Mapping[str, Any], receiver: str) -> bytes:
    return bytes.fromhex(said["shares"].get(receiver, ""))[:KEY_BYTES]


def _open(key: bytes, said: Mapping[str, Any], moment: Moment, receiver: str) -> tuple[bytes, bytes]:
    sealed = bytes.fromhex(said["shares"].get(receiver, ""))[KEY_BYTES:]
    both = masks.unseal(key, sealed, bound(moment, said["site"], receiver))
    of_mask, of_own = both[:SHARE_BYTES], both[SHARE_BYTES:]
    if not (fits(of_mask, said, receiver, own=False) and fits(of_own, said, receiver, own=True)):
        raise statements.refused(
            said["site"],
            "a share that is not the promised one",
            "the share whose SHA-256 it signed",
        )
    return of_mask, of_own
