"""Floor 3: the server's part of a hidden sum: check who says what, add as it arrives, open the masks of the sum alone.

Memory holds one sum, however many sites there are. Whatever does not fit its signed statement is refused with the name of
the site and is not added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations, islice
from typing import Any, final

import numpy as np

from wardround.errors import ConfigRefused, RoundRefused
from wardround.privacy import masks, shamir, statements
from wardround.privacy.bfv import Cipher
from wardround.privacy.identity import Authority
from wardround.privacy.packing import Words
from wardround.privacy.participant import pair_seed, read_roster, roster_digest, start_words
from wardround.privacy.protection import Protection
from wardround.privacy.statements import Moment, Signed

MOST_SUBSETS = 1000


@final
class Collector:
    """The sum of one job, round after round."""

    def __init__(self, protection: Protection, authority: Authority) -> None:
        self.protection, self.authority = protection, authority
        self._cipher = Cipher(protection.modulus) if protection.encryption else None

    def begin(self, moment: Moment, prepares: Sequence[Signed]) -> None:
        """Start an attempt with the sites that prepared (none without masks)."""
        self.moment, self.prepares = moment, list(prepares)
        self.roster = read_roster(moment, prepares, self.authority) if self.protection.masks else {}
        self.added: list[str] = []
        self.agreed: dict[str, tuple[str, str]] = {}
        self._count = 0
        self._total: Any = None

    def ready(self, site: str, signed: Signed) -> None:
        """Note that a site has trained (ring)."""
        self._read(site, signed, "ready", b"")

    def submit(self, site: str, signed: Signed, payload: bytes) -> None:
        """Add one site's payload (star)."""
        self._read(site, signed, "submit", payload)
        if site in self.added:
            raise statements.refused(site, "a second update", "one in each round")
        self._total = self._add(self._total, payload)
        self.added.append(site)

    def hop(self, site: str, signed: Signed, payload: bytes) -> None:
        """Take the partial sum that a site passes on (ring): it replaces the one before."""
        content = self._read(site, signed, "hop", payload)
        if content["done"] != [*self.added, site]:
            raise statements.refused(site, "a hop out of order", f"its own after those of {len(self.added)} sites")
        self._total = self._add(None, payload)
        self.added.append(site)

    def unmask(self, answers: Mapping[str, Signed]) -> list[str]:
        """Remove the masks from the sum with the answers of the survivors; return who was recovered (not in the sum).

        too few answers, or no `threshold` of them that gives what was promised in `prepare`: RoundRefused, nothing is
        opened | some wrong shares among enough right ones: the right ones are found
        """
        inside = sorted(self.added)
        said = {}
        for site, signed in answers.items():
            content = statements.read(signed, ["unmask"], self.moment, self.authority)
            if (
                content["site"] != site
                or site not in inside
                or content["survivors"] != inside
                or content["shares"].keys() != self.roster.keys()
                or content["roster"] != roster_digest(self.prepares)
            ):
                raise statements.refused(site, "shares for another sum", "shares for the sites in this sum")
            said[site] = content["shares"]
        peers = sorted(next(iter(self.roster.values()))["shares"])
        threshold = self.protection.threshold_of(len(peers))
        if len(said) < threshold:
            raise RoundRefused(
                f"the masks of round {self.moment.round + 1}",
                found=f"{len(said)} of {threshold} answers",
                expected=f"{threshold} sites to open the sum",
                fix="mend the sites named in this log; the round is run again with those that are left",
            )
        secrets = self._secrets(peers, said, threshold, inside)
        dropped = [site for site in self.roster if site not in inside]
        total = np.zeros(self._count, np.uint64)
        for site, secret in secrets.items():
            mask = self._own_mask(secret) if site in inside else self._pair_masks(site, secret, inside)
            total = masks.add(total, mask, self.protection.modulus)
        correction = masks.negate(total, self.protection.modulus)
        if self._cipher is not None:
            self._cipher.add_words(self._total, correction)
        else:
            self._total = masks.add(self._total, correction, self.protection.modulus)
        return dropped

    def payload(self) -> bytes:
        """Return the sum as it goes to the sites."""
        if self._cipher is not None:
            return self._cipher.dump(self._total)
        return bytes(self._total.astype("<u8").tobytes())

    def disagreement(self) -> str:
        """Return who starts from another model or grid than most, "" when all agree."""
        groups: dict[tuple[str, str], list[str]] = {}
        for site, both in self.agreed.items():
            groups.setdefault(both, []).append(site)
        smaller = sorted(groups.values(), key=len)[:-1]
        return ", ".join(sorted(site for sites in smaller for site in sites))

    def require_agreement(self) -> None:
        """Raise ConfigRefused, naming them, when some sites start from another model or grid than most."""
        strangers = self.disagreement()
        if strangers:
            raise ConfigRefused(
                "two sites hold different global models",
                found=f"others at {strangers}",
                expected="one model and one grid at every site",
                fix="start the job anew; if it comes again, a message was altered or a site runs other code",
            )

    def _read(self, site: str, signed: Signed, kind: str, payload: bytes) -> dict[str, Any]:
        content = statements.read_own(site, signed, kind, self.moment, self.authority)
        if self.protection.masks and site not in self.roster:
            raise statements.refused(site, "an update without a mask key", "`prepare` first")
        if content["roster"] != roster_digest(self.prepares):
            raise statements.refused(site, "masks for another set of sites", "this round's")
        if "sha256" in content and content["sha256"] != hashlib.sha256(payload).hexdigest():
            raise statements.refused(site, "a payload that does not fit its SHA-256", "the payload as it was signed")
        if "model" in content:
            self.agreed[site] = (content["model"], content["grid"])
        return content

    def _add(self, total: Any, payload: bytes) -> Any:
        if self._cipher is not None:
            total = self._cipher.add(total, payload)
            self._count = self._cipher.words(total)
            return total
        words = words_of(payload)
        if total is not None and len(words) != len(total):
            raise statements.refused("a site", f"{len(words)} words", f"{len(total)}")
        self._count = len(words)
        return words if total is None else masks.add(total, words, self.protection.modulus)

    def _own_mask(self, secret: bytes) -> Words:
        return masks.expand(secret, self._count, self.protection.modulus)

    def _pair_masks(self, dropped: str, secret: bytes, inside: Sequence[str]) -> Words:
        """Return what the survivors added for a site that is not in the sum: the negative of what it would have added."""
        digest = roster_digest(self.prepares)
        start = "" if self.protection.ring else start_words(*self.agreed[inside[0]])
        publics = {other: bytes.fromhex(self.roster[other]["mask"]) for other in inside}
        pairs = [
            (other, pair_seed(secret, public, dropped, other, self.moment, digest, start))
            for other, public in publics.items()
        ]
        return masks.negate(
            masks.mask_of(dropped, None, pairs, self._count, self.protection.modulus), self.protection.modulus
        )

    def _secrets(
        self, peers: Sequence[str], said: Mapping[str, Mapping[str, str]], threshold: int, inside: Sequence[str]
    ) -> dict[str, bytes]:
        """Return by site the own mask of who is in the sum and the mask key of who is not, as promised in `prepare`."""
        wrong = ""
        for chosen in islice(combinations(sorted(said), threshold), MOST_SUBSETS):
            found: dict[str, bytes] = {}
            for site in self.roster:
                shares = {peers.index(helper) + 1: bytes.fromhex(said[helper][site]) for helper in chosen}
                secret = self._promised(site, shares, site in inside)
                if secret is None:
                    wrong = site
                    break
                found[site] = secret
            else:
                return found
        raise statements.refused(wrong, "shares that do not give its secret", "what it promised in `prepare`")

    def _promised(self, site: str, shares: Mapping[int, bytes], inside: bool) -> bytes | None:
        """Return the secret that the shares give, None when it is not the one that the site promised."""
        try:
            secret = shamir.combine(shares)
        except RoundRefused:
            return None
        said = self.roster[site]
        if inside:
            return secret if hashlib.sha256(secret).hexdigest() == said["own"] else None
        return secret if masks.public_of(secret).hex() == said["mask"] else None


def words_of(payload: bytes) -> Words:
    """Return the words of a plain payload; no whole number of them: RoundRefused."""
    if not payload or len(payload) % 8:
        raise RoundRefused(
            "a payload of words",
            found=f"{len(payload)} bytes",
            expected="a multiple of 8",
            fix="the message was truncated",
        )
    return np.frombuffer(payload, "<u8").astype(np.uint64)
