"""The server's part of a secure sum: check who says what, add, and unmask the sum.

What does not fit its signed statement is refused with the site's name and not added.
The length of an update follows from the server's own layout. Sites vote on what a round
starts from (digests of model and grid): updates are added by their start, and the sum
of the majority counts. Memory holds one sum for every start, one unless somebody lies.
A statement that honest sites cannot use is its sender's fault. What the server sees is
refused on arrival. Of a share that does not open its receiver complains; its sender
shows the one key that opens it, or is out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Any, final

import numpy as np

from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.keystream import KEY_BYTES, Words, expand
from wardround.messages import statements
from wardround.messages.identity import Authority
from wardround.messages.statements import Moment, Signed
from wardround.secagg import masks, sealed_shares, shamir
from wardround.secagg.bfv import SLOTS, Cipher
from wardround.secagg.roster import pair_seed, read_joins, read_roster, roster_digest, start_words
from wardround.secagg.spec import SecAggSpec
from wardround.secagg.tags import polynomials

MOST_SUBSETS = 1000
Start = tuple[str, str]


@dataclass
class _Sum:
    """The sum over sites with one start of the round, in the order of their arrival."""

    total: Any = None
    sites: list[str] = field(default_factory=list)


@final
class SecAggServer:
    """The sum of one job, round after round. `fields`: the sizes of updates, which take turns."""

    def __init__(self, secagg: SecAggSpec, authority: Authority, *fields: int) -> None:
        self.secagg = secagg
        self.authority = authority
        self._cipher = Cipher(secagg.modulus) if secagg.encryption else None
        words = [secagg.packing.words(one) for one in fields]
        self._counts = [SLOTS * polynomials(one) for one in words] if secagg.encryption else words

    def begin(self, moment: Moment, prepares: Sequence[Signed]) -> None:
        """Start an attempt with the sites that prepared or, without masks, joined."""
        self.moment = moment
        self._count = self._counts[moment.round % len(self._counts)]
        self.prepares = list(prepares)
        read = read_roster if self.secagg.masks else read_joins
        self.roster = read(moment, prepares, self.authority)
        self.agreed: dict[str, Start] = {}
        self.complaints: dict[str, Signed] = {}
        self.blamed: dict[str, str] = {}
        self._sums: dict[Start, _Sum] = {}
        self._chosen: Start | None = None

    @property
    def added(self) -> list[str]:
        """Return who is in the chosen sum, or before the choice in the largest."""
        return self._opened().sites if self._sums else []

    def ready(self, site: str, signed: Signed) -> None:
        """Note that a site has trained (ring)."""
        self._vote(site, self._read(site, signed, "ready", b""))

    def submit(self, site: str, signed: Signed, payload: bytes) -> None:
        """Add one site's payload (star) to the sum of those with the same start."""
        content = self._read(site, signed, "submit", payload)
        if site in self.agreed:
            raise statements.refused(site, "a second update", "one in each round")
        start = (content["model"], content["grid"])
        found = self._sums.get(start, _Sum())
        found.total = self._add(site, found.total, payload)
        found.sites.append(site)
        self._sums[start] = found
        self._vote(site, content)

    def hop(self, site: str, signed: Signed, payload: bytes) -> None:
        """Take the partial sum that a site passes on (ring): it replaces the last."""
        content = self._read(site, signed, "hop", payload)
        if content["done"] != [*self.added, site]:
            raise statements.refused(site, "a hop out of order", f"its own after those of {len(self.added)} sites")
        total, start = self._add(site, None, payload), self._chosen or ("", "")
        self._sums[start] = _Sum(total, [*self.added, site])
        self._chosen = start

    def settle(self) -> dict[str, str]:
        """Choose the start that most sites had; return why the others are out.

        Without a majority it raises ConfigRefused, and no site is blamed.
        """
        votes: dict[Start, list[str]] = {}
        for site, start in self.agreed.items():
            votes.setdefault(start, []).append(site)
        most = max(votes, key=lambda start: len(votes[start]), default=None)
        if most is None:
            return {}
        strangers = sorted(site for start, sites in votes.items() if start != most for site in sites)
        if 2 * len(votes[most]) <= len(self.agreed):
            raise ConfigRefused(
                "hospitals hold different global models",
                found=f"{len(votes)} different ones, none at more than half; others at {', '.join(strangers)}",
                expected="one model and one grid at every site",
                fix="start the job again; if it comes again, a message was altered or a site runs other code",
            )
        self._chosen = most
        self._sums.setdefault(most, _Sum())
        return dict.fromkeys(strangers, "it started from another model or grid than most hospitals")

    def complain(self, site: str, signed: Signed) -> None:
        """Note a site's complaint that shares for it do not open."""
        content = statements.read_own(site, signed, "complain", self.moment, self.authority)
        fits = content["roster"] == roster_digest(self.prepares) and site in self.roster
        if not (fits and content["against"] and set(content["against"]) <= self.roster.keys() - {site}):
            raise statements.refused(site, "a complaint about other sites", "one about sites that prepared")
        self.complaints[site] = signed

    def accused(self) -> dict[str, list[str]]:
        """Return by accused site who complains about it."""
        found: dict[str, list[str]] = {}
        for accuser, signed in self.complaints.items():
            for site in statements.peek(signed)["against"]:
                found.setdefault(site, []).append(accuser)
        return found

    def judge(self, joins: Sequence[Signed], answers: Mapping[str, Signed]) -> dict[str, str]:
        """Return who lied and how: the accused whose key opens nothing, or its accuser.

        answers: the `justify` statements; without one an accused is passed over.
        """
        channels = {said["site"]: bytes.fromhex(said["channel"]) for said in map(statements.peek, joins)}
        liars: dict[str, str] = {}
        for site, accusers in self.accused().items():
            if site not in answers:
                continue
            content = statements.read_own(site, answers[site], "justify", self.moment, self.authority)
            for accuser in accusers:
                private = bytes.fromhex(content["keys"].get(accuser, ""))
                said, channel = self.roster[site], channels.get(accuser, b"")
                if len(private) == KEY_BYTES and sealed_shares.is_justified(
                    private, channel, said, self.moment, accuser
                ):
                    liars[accuser] = f"it complains about a share of {site} that opens"
                else:
                    liars[site] = f"it gave {accuser} a share that does not open"
        return liars

    def read_shares(self, site: str, signed: Signed) -> dict[str, bytes]:
        """Return a survivor's shares, by owner, if they are those that were promised.

        Shares of another sum, or other shares, raise RoundRefused.
        """
        inside = sorted(self.added)
        content = statements.read_own(site, signed, "unmask", self.moment, self.authority)
        if (
            site not in inside
            or content["survivors"] != inside
            or content["shares"].keys() != self.roster.keys()
            or content["roster"] != roster_digest(self.prepares)
        ):
            raise statements.refused(site, "shares for another sum", "shares for the sites in this sum")
        shares = {owner: bytes.fromhex(share) for owner, share in content["shares"].items()}
        for owner, share in shares.items():
            if not sealed_shares.fits(share, self.roster[owner], site, own=owner in inside):
                raise statements.refused(site, f"a share of {owner} that was not promised", "the shares as they came")
        return shares

    def unmask(self, answers: Mapping[str, Signed]) -> list[str]:
        """Remove the masks from the sum; return the prepared sites that are not in it.

        Too few answers, or shares that give no promised secret: RoundRefused, nothing
        is opened, and `blamed` names a site that shared another secret.
        """
        inside = sorted(self.added)
        said = {site: self.read_shares(site, signed) for site, signed in answers.items()}
        peers = sorted(next(iter(self.roster.values()))["shares"])
        threshold = self.secagg.threshold_of(len(peers))
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
            total = masks.add(total, mask, self.secagg.modulus)
        correction, opened = masks.negate(total, self.secagg.modulus), self._opened()
        if self._cipher is not None:
            self._cipher.add_words(opened.total, correction)
        else:
            opened.total = masks.add(opened.total, correction, self.secagg.modulus)
        return dropped

    def _opened(self) -> _Sum:
        """Return the sum that counts."""
        if self._chosen is not None:
            return self._sums[self._chosen]
        return max(self._sums.values(), key=lambda one: len(one.sites))

    def payload(self) -> bytes:
        """Return the sum as it goes to the sites."""
        total = self._opened().total
        return self._cipher.dump(total) if self._cipher is not None else bytes(total.astype("<u8").tobytes())

    def _read(self, site: str, signed: Signed, kind: str, payload: bytes) -> dict[str, Any]:
        content = statements.read_own(site, signed, kind, self.moment, self.authority)
        if site not in self.roster:
            raise statements.refused(site, "an update without a mask key", "`join` and, with masks, `prepare` first")
        if content["roster"] != roster_digest(self.prepares):
            raise statements.refused(site, "masks for another set of sites", "this round's")
        if "sha256" in content and content["sha256"] != hashlib.sha256(payload).hexdigest():
            raise statements.refused(site, "a payload that does not fit its SHA-256", "the payload as it was signed")
        return content

    def _vote(self, site: str, content: Mapping[str, Any]) -> None:
        self.agreed[site] = (content["model"], content["grid"])

    def _add(self, site: str, total: Any, payload: bytes) -> Any:
        if self._cipher is not None:
            total = self._cipher.add(total, payload)
            self._require_count(site, self._cipher.words(total))
            return total
        words = words_of(payload)
        self._require_count(site, len(words))
        return words if total is None else masks.add(total, words, self.secagg.modulus)

    def _require_count(self, site: str, words: int) -> None:
        if words != self._count:
            raise statements.refused(site, f"{words} words", f"{self._count}, by the job's own network")

    def _own_mask(self, secret: bytes) -> Words:
        return expand(secret, self._count, self.secagg.modulus)

    def _pair_masks(self, dropped: str, secret: bytes, inside: Sequence[str]) -> Words:
        """Return what the survivors added for a site that is not in the sum."""
        digest = roster_digest(self.prepares)
        start = "" if self.secagg.ring else start_words(*self.agreed[inside[0]])
        publics = {other: bytes.fromhex(self.roster[other]["mask"]) for other in inside}
        pairs = [
            (other, pair_seed(secret, public, dropped, other, self.moment, digest, start))
            for other, public in publics.items()
        ]
        return masks.negate(masks.mask_of(dropped, None, pairs, self._count, self.secagg.modulus), self.secagg.modulus)

    def _secrets(
        self, peers: Sequence[str], said: Mapping[str, Mapping[str, bytes]], threshold: int, inside: Sequence[str]
    ) -> dict[str, bytes]:
        """Return own masks of the sites in the sum and mask keys of the others."""
        found: dict[str, bytes] = {}
        for site in self.roster:
            for chosen in islice(combinations(sorted(said), threshold), MOST_SUBSETS):
                shares = {peers.index(helper) + 1: said[helper][site] for helper in chosen}
                secret = self._promised(site, shares, site in inside)
                if secret is not None:
                    found[site] = secret
                    break
            else:
                self.blamed[site] = "it shared another secret than it promised"
                raise statements.refused(site, "shares that do not give its secret", "what it promised in `prepare`")
        return found

    def _promised(self, site: str, shares: Mapping[int, bytes], inside: bool) -> bytes | None:
        """Return the secret that the shares give, or None if it was not promised."""
        try:
            secret = shamir.combine(shares)
        except RoundRefused:
            return None
        said = self.roster[site]
        if inside:
            return secret if hashlib.sha256(secret).hexdigest() == said["own"] else None
        return secret if masks.public_of(secret).hex() == said["mask"] else None


def words_of(payload: bytes) -> Words:
    """Return the words of a plain payload, or raise RoundRefused."""
    if not payload or len(payload) % 8:
        raise RoundRefused(
            "a payload of words",
            found=f"{len(payload)} bytes",
            expected="a multiple of 8",
            fix="the message was truncated",
        )
    return np.frombuffer(payload, "<u8").astype(np.uint64)
