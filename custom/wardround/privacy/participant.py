"""Floor 3: one site's part in agreeing on masks and opening them: join, prepare, mask, unmask. Secrets stay in one file.

What a site refuses, whatever the server says: a set of fewer than min_sites; a message of another run, round or attempt; a
key that its owner did not sign; to use one mask for two updates or two sets of sites; to open a round for two different
sets of sites, or for another set than it masked for (the difference of two such sums is one hospital's update); to prepare
a round again with a site that was not asked before, or after a later one, or in a run that it has left: else two groups of
sites open one update in two sums.
Sources: Bonawitz et al. 2017, ePrint 2017/281, figure 4 (rounds 0 to 4, signed keys).
Deviations: 1. the mask key and own mask are made for one round and attempt and shared with every site that joined; 2. the
consistency check (round 3) is the rule above: a site answers for one set of survivors in a round, and no other; 3. pair
masks depend on what the round starts from (Pasquini et al. 2022, arXiv:2111.07380): a server that hands out the sums itself
could hand one site another model than all others, whose updates vanish; then the masks do not cancel and it reads noise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from wardround.errors import RoundRefused
from wardround.privacy import durable, masks, shamir, statements
from wardround.privacy.identity import Authority, Identity
from wardround.privacy.packing import Words
from wardround.privacy.protection import Protection
from wardround.privacy.statements import Moment, Signed

JOINED = -1
FILE = "secrets.json"


@final
class Participant:
    """A site in one job. folder: its own, on disk between processes | key_id: of its sum key ("" without encryption)."""

    def __init__(
        self, protection: Protection, identity: Identity, authority: Authority, key_id: str, folder: Path
    ) -> None:
        self.protection, self.identity, self.authority, self.key_id = protection, identity, authority, key_id
        self._file = folder / FILE

    @property
    def name(self) -> str:
        return self.identity.name

    def join(self, run: str) -> Signed:
        """Return this site's channel key for a run, the same when it is asked again; a run that it has left: RoundRefused."""
        kept = self._load()
        left = [*kept.get("left", []), *([kept["run"]] if kept.get("run") not in (None, run) else [])]
        if run in left:
            raise statements.refused(
                "the server", "a run that this site has left for another", "one run after the other"
            )
        if kept.get("run") != run:
            kept = {"run": run, "channel": masks.new_key().hex(), "opened": kept.get("opened"), "left": left}
            self._save(kept)
        channel = masks.public_of(bytes.fromhex(kept["channel"])).hex()
        return statements.sign(self.identity, "join", joined(run), channel=channel, key_id=self.key_id)

    def prepare(self, moment: Moment, joins: Sequence[Signed]) -> Signed:
        """Return a fresh mask key and sealed shares for every site that joined.

        a site more than when this round was prepared before, a round before the last that was prepared: RoundRefused
        """
        kept, peers = self._kept(moment.run), self._peers(moment.run, joins)
        mask, own, names = masks.new_key(), masks.new_key(), sorted(peers)
        last = kept.get("asked") or {"round": JOINED, "names": []}
        if moment.round < last["round"] or (moment.round == last["round"] and not set(names) <= set(last["names"])):
            raise statements.refused(
                "the server",
                f"round {moment.round + 1} again, for sites that were not in it",
                "a round that is repeated is repeated with those that are left",
            )
        kept["asked"] = {"round": moment.round, "names": names}
        threshold = self.protection.threshold_of(len(names))
        shares = {}
        parts = zip(
            names, shamir.split(mask, len(names), threshold), shamir.split(own, len(names), threshold), strict=True
        )
        for name, of_mask, of_own in parts:
            key = self._channel_key(kept, peers[name], moment.run)
            shares[name] = masks.seal(key, of_mask + of_own, bound(moment, self.name, name)).hex()
        digest = peers_digest(joins)
        kept["prepared"] = {"moment": list(moment.words), "mask": mask.hex(), "own": own.hex(), "used": ""}
        self._save(kept)
        return statements.sign(
            self.identity,
            "prepare",
            moment,
            peers=digest,
            mask=masks.public_of(mask).hex(),
            own=hashlib.sha256(own).hexdigest(),
            shares=shares,
        )

    def roster(self, moment: Moment, prepares: Sequence[Signed]) -> dict[str, dict[str, Any]]:
        """Return who takes part in a masked sum, by name, after checking every signature; {} without masks."""
        if not self.protection.masks:
            return {}
        found = read_roster(moment, prepares, self.authority)
        self.protection.require_enough(len(found), f"the sites of round {moment.round + 1}")
        prepared = self._prepared(moment)
        mine = found.get(self.name, {"mask": ""})
        if mine["mask"] != masks.public_of(bytes.fromhex(prepared["mask"])).hex():
            raise statements.refused(self.name, "another mask key than this site made", "its own statement, unchanged")
        return found

    def mask(self, moment: Moment, prepares: Sequence[Signed], words: Words, start: str = "") -> Words:
        """Return words under this site's masks (as they are without masks).

        start: of what model and grid the update is, the same at all sites (start_words); "" in a ring, whose sums are tagged
        another text, or another set of sites, for a moment that has one: RoundRefused
        """
        roster = self.roster(moment, prepares)
        if not roster:
            return words
        kept, names = self._kept(moment.run), roster_digest(prepares)
        prepared, used = self._prepared(moment), f"{names} {hashlib.sha256(words.tobytes()).hexdigest()}"
        if prepared["used"] not in ("", used):
            raise statements.refused(
                self.name, "a mask that was used for another update or set of sites", "a fresh attempt"
            )
        kept["prepared"]["used"] = used
        self._save(kept)
        modulus, secret = self.protection.modulus, bytes.fromhex(prepared["mask"])
        pairs = [
            (other, pair_seed(secret, bytes.fromhex(said["mask"]), self.name, other, moment, names, start))
            for other, said in roster.items()
            if other != self.name
        ]
        own = masks.mask_of(self.name, bytes.fromhex(prepared["own"]), pairs, len(words), modulus)
        return masks.add(words, own, modulus)

    def unmask(
        self, moment: Moment, joins: Sequence[Signed], prepares: Sequence[Signed], survivors: Sequence[str]
    ) -> Signed:
        """Return shares of the own masks of the survivors and of the mask keys of the others; written down before."""
        kept, roster, peers = self._kept(moment.run), self.roster(moment, prepares), self._peers(moment.run, joins)
        inside = sorted(set(survivors))
        self.protection.require_enough(len(inside), f"the sum of round {moment.round + 1}")
        least = self.protection.threshold_of(len(peers))
        if not set(inside) <= set(roster) <= set(peers) or self.name not in inside or len(inside) < least:
            raise statements.refused(
                "the server",
                f"a sum over {len(inside)} sites",
                f"at least {least} of those that prepared, this site too",
            )
        names, agreed = roster_digest(prepares), {said["peers"] for said in roster.values()}
        if not self._prepared(moment)["used"].startswith(f"{names} ") or agreed != {peers_digest(joins)}:
            raise statements.refused(
                "the server", "masks for another set of sites", "the set that this site masked for"
            )
        opened = kept.get("opened") or {"round": JOINED, "survivors": []}
        if moment.round < opened["round"] or (moment.round == opened["round"] and inside != opened["survivors"]):
            raise statements.refused(
                "the server",
                f"a second opening of round {moment.round + 1} for other sites",
                "one sum for each round: the difference of two is one hospital's update",
            )
        kept["opened"] = {"round": moment.round, "survivors": inside}
        self._save(kept)
        shares = {}
        for name, said in roster.items():
            key = self._channel_key(kept, peers[name], moment.run)
            sealed = bytes.fromhex(said["shares"].get(self.name, ""))
            both = masks.unseal(key, sealed, bound(moment, name, self.name))
            half = both[shamir.SHARE_BYTES :] if name in inside else both[: shamir.SHARE_BYTES]
            shares[name] = half.hex()
        return statements.sign(self.identity, "unmask", moment, roster=names, survivors=inside, shares=shares)

    def _peers(self, run: str, joins: Sequence[Signed]) -> dict[str, bytes]:
        """Return the channel key of every site that joined, after checking signatures and that all hold one sum key."""
        said = {}
        for one in joins:
            content = statements.read(one, ["join"], joined(run), self.authority)
            said[content["site"]] = content
        self.protection.require_enough(len(said), "the sites of this run")
        mine = masks.public_of(bytes.fromhex(self._kept(run)["channel"])).hex()
        if said.get(self.name, {}).get("channel") != mine:
            raise statements.refused(
                self.name, "another channel key than this site made", "its own statement, unchanged"
            )
        strangers = sorted(site for site, content in said.items() if content["key_id"] != self.key_id)
        if strangers:
            raise statements.refused(strangers[0], "another sum key than this site's", "one project, one key")
        return {site: bytes.fromhex(content["channel"]) for site, content in said.items()}

    def _channel_key(self, kept: Mapping[str, Any], public: bytes, run: str) -> bytes:
        return masks.shared(bytes.fromhex(kept["channel"]), public, "shares", run)

    def _kept(self, run: str) -> dict[str, Any]:
        kept = self._load()
        if kept.get("run") != run:
            raise statements.refused("the server", "a run that this site did not join", "join first")
        return kept

    def _prepared(self, moment: Moment) -> dict[str, Any]:
        prepared: dict[str, Any] = self._kept(moment.run).get("prepared") or {}
        if prepared.get("moment") != list(moment.words):
            raise statements.refused("the server", "an attempt that this site did not prepare", "prepare first")
        return prepared

    def _load(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        try:
            return {**json.loads(self._file.read_text(encoding="utf-8"))}
        except (TypeError, ValueError) as error:
            raise RoundRefused(
                f"this site's {FILE}",
                found="no readable JSON",
                expected="what this site wrote before",
                fix="start the job anew: without this file it is unknown what was opened already",
            ) from error

    def _save(self, kept: Mapping[str, Any]) -> None:
        """Write the secrets so that a crash leaves the old file or the new one; only the owner may read them."""
        durable.folder(self._file.parent)
        durable.write(self._file, json.dumps(kept).encode())


def joined(run: str) -> Moment:
    """Return the moment of all join statements of a run."""
    return Moment(run, JOINED, 0)


def bound(moment: Moment, sender: str, receiver: str) -> str:
    """Return the words that a sealed share is bound to."""
    return " ".join(str(word) for word in (*moment.words, sender, receiver))


def pair_seed(private: bytes, public: bytes, site: str, other: str, moment: Moment, roster: str, start: str) -> bytes:
    """Return the seed of the mask that two sites share for one moment, one roster and one start of the round."""
    return masks.shared(private, public, "mask", *sorted((site, other)), *moment.words, roster, start)


def start_words(model: str, grid: str) -> str:
    """Return what a round starts from as masks are bound to it: the digests of the global model and of the grid."""
    return f"{model} {grid}"


def roster_digest(prepares: Sequence[Signed]) -> str:
    """Return a digest of who takes part with which keys; "" without masks."""
    return statements.digest_of(prepares) if prepares else ""


def peers_digest(joins: Sequence[Signed]) -> str:
    """Return a digest of who joined with which channel keys."""
    return statements.digest_of(joins)


def read_roster(moment: Moment, prepares: Sequence[Signed], authority: Authority) -> dict[str, dict[str, Any]]:
    """Return the prepare statements by site, sorted; forged, doubled, or made for other sets of sites: RoundRefused."""
    said = [statements.read(one, ["prepare"], moment, authority) for one in prepares]
    found = {content["site"]: content for content in sorted(said, key=lambda content: str(content["site"]))}
    sets = {(content["peers"], *sorted(content["shares"])) for content in said}
    if len(found) != len(said) or len(sets) > 1 or any(found.keys() - content["shares"].keys() for content in said):
        raise statements.refused("the server", "mask keys made for different sets of sites", "one set for all")
    return found


def ring_order(names: Sequence[str], prepares: Sequence[Signed]) -> list[str]:
    """Return the order of a ring: fresh with the mask keys of every attempt, the same for all, chosen by nobody."""
    digest = roster_digest(prepares)
    return sorted(names, key=lambda name: hashlib.sha256(f"{digest} {name}".encode()).hexdigest())
