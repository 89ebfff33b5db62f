"""One site's part in agreeing on masks and opening them: join, prepare, mask, unmask; complain, justify.

Secrets stay in one file. What a site refuses, whatever the server says: a set of fewer than min_clients; a message of another
run, round or attempt, or of another job; a key that its owner did not sign; a second set of sites for one moment; more of a job
whose sum it refused; to use one mask for two updates or two sets of sites; to open a round for two different sets of sites, or
for another set than it masked for (the difference of two such sums is one hospital's update); to prepare a round again with a
site that was not asked before, or after a later one, or in a run that it has left: else two groups of sites open one update in
two sums. Sources: Bonawitz et al. 2017, ePrint 2017/281, figure 4 (rounds 0 to 4, signed keys). Deviations: 1. the mask key and
own mask are made for one round and attempt and shared with every site that joined; 2. the consistency check (round 3) is the
rule above: a site answers for one set of survivors in a round, and no other; 3. pair masks depend on what the round starts from
(Pasquini et al. 2022, arXiv:2111.07380): a server that hands out the sums itself could hand one site another model than all
others, whose updates vanish; then the masks do not cancel and it reads noise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from wardround.core import files
from wardround.core.errors import RoundRefused
from wardround.core.keystream import Words
from wardround.messages import statements
from wardround.messages.identity import Authority, Identity
from wardround.messages.statements import Moment, Signed
from wardround.secagg import masks, sealed_shares, shamir
from wardround.secagg.roster import JOINED, joined, pair_seed, peers_digest, read_roster, roster_digest
from wardround.secagg.spec import SecAggSpec

FILE = "secrets.json"


@final
class KeyAgreement:
    """A site in one job. folder: its own, on disk between processes | key_id: of its sum key ("" without encryption)

    job: a digest of the job as the site itself knows it (job_digest); sites that know another one are refused
    """

    def __init__(
        self, secagg: SecAggSpec, identity: Identity, authority: Authority, key_id: str, folder: Path, job: str
    ) -> None:
        self.secagg, self.identity, self.authority, self.key_id = secagg, identity, authority, key_id
        self.job, self._file = job, folder / FILE

    @property
    def name(self) -> str:
        return self.identity.name

    def join(self, run: str) -> Signed:
        """Return this site's channel key for a run, the same when it is asked again; a run that it has left: RoundRefused."""
        kept = self._load()
        self.require_going_on(kept)
        left = [*kept.get("left", []), *([kept["run"]] if kept.get("run") not in (None, run) else [])]
        if run in left:
            raise statements.refused(
                "the server", "a run that this site has left for another", "one run after the other"
            )
        if kept.get("run") != run:
            kept = {"run": run, "channel": masks.new_key().hex(), "opened": kept.get("opened"), "left": left}
            self._save(kept)
        channel = masks.public_of(bytes.fromhex(self._kept(run)["channel"])).hex()
        return statements.sign(self.identity, "join", joined(run), channel=channel, key_id=self.key_id, job=self.job)

    def prepare(self, moment: Moment, joins: Sequence[Signed]) -> Signed:
        """Return a fresh mask key and sealed shares for every site that joined; asked again for a moment: the same ones.

        Fresh keys for one moment, as often as a server asks, would let it choose the order of a ring.
        other sites than before for one moment, a site more than when this round was prepared before, a round before the last
        that was prepared: RoundRefused
        """
        kept, peers = self._kept(moment.run), self._peers(moment.run, joins)
        names, digest = sorted(peers), peers_digest(joins)
        before = kept.get("prepared") or {}
        if before.get("moment") == list(moment.words):
            if before["said"]["peers"] != digest:
                raise statements.refused(
                    "the server", "one attempt for two sets of sites", "a new attempt for those that are left"
                )
            return statements.sign(self.identity, "prepare", moment, **before["said"])
        last = kept.get("asked") or {"round": JOINED, "attempt": 0, "names": []}
        again = moment.round == last["round"]
        if (
            moment.round < last["round"]
            or (again and moment.attempt < last["attempt"])
            or (again and not set(names) <= set(last["names"]))
        ):
            raise statements.refused(
                "the server",
                f"round {moment.round + 1} again, for sites that were not in it",
                "a round that is repeated is repeated with those that are left",
            )
        kept["asked"] = {"round": moment.round, "attempt": moment.attempt, "names": names}
        mask, own, seal = masks.new_key(), masks.new_key(), masks.new_key()
        said: dict[str, Any] = {
            "peers": digest,
            "mask": masks.public_of(mask).hex(),
            "own": hashlib.sha256(own).hexdigest(),
        }
        said |= self._shares(mask, own, seal, peers, moment)
        kept["prepared"] = {"moment": list(moment.words), "mask": mask.hex(), "own": own.hex(), "seal": seal.hex()}
        kept["prepared"] |= {"used": "", "said": said}
        self._save(kept)
        return statements.sign(self.identity, "prepare", moment, **said)

    def _shares(
        self, mask: bytes, own: bytes, seal: bytes, peers: Mapping[str, bytes], moment: Moment
    ) -> dict[str, dict[str, str]]:
        """Return the sealed shares of both secrets for every site, and their digests."""
        names, threshold = sorted(peers), self.secagg.threshold_of(len(peers))
        of_mask, of_own = (shamir.split(one, len(names), threshold) for one in (mask, own))
        sealed, digests = {}, {}
        for name, a, b in zip(names, of_mask, of_own, strict=True):
            private = _seal_key(seal, name)
            sealed[name] = sealed_shares.seal(private, peers[name], a, b, moment, (self.name, name)).hex()
            digests[name] = sealed_shares.digests(a, b)
        return {"shares": sealed, "digests": digests}

    def roster(self, moment: Moment, prepares: Sequence[Signed]) -> dict[str, dict[str, Any]]:
        """Return who takes part, by name, after checking every signature.

        prepares: the `prepare` statements of a masked sum, the `join` statements of any other
        """
        if not self.secagg.masks:
            return {site: {} for site in self._peers(moment.run, prepares)}
        found = read_roster(moment, prepares, self.authority)
        self.secagg.require_enough(len(found), f"the sites of round {moment.round + 1}")
        prepared = self._prepared(moment)
        mine = found.get(self.name, {"mask": ""})
        if mine["mask"] != masks.public_of(bytes.fromhex(prepared["mask"])).hex():
            raise statements.refused(self.name, "another mask key than this site made", "its own statement, unchanged")
        return found

    def complaint(self, moment: Moment, prepares: Sequence[Signed]) -> Signed | None:
        """Return a signed complaint about the sites whose share for this one does not open; None when all open.

        It is made before anything is masked, so that the round can be run again without whoever lied.
        """
        if not self.secagg.masks:
            return None
        against = []
        for name, said in self.roster(moment, prepares).items():
            try:
                self._received(moment, said)
            except RoundRefused:
                against.append(name)
        if not against:
            return None
        names = roster_digest(prepares)
        return statements.sign(self.identity, "complain", moment, roster=names, against=sorted(against))

    def justify(self, moment: Moment, prepares: Sequence[Signed], complaints: Sequence[Signed]) -> Signed:
        """Return, for every site that signed a complaint about this one, the key that opens the share made for it."""
        self.roster(moment, prepares)
        seal, names = bytes.fromhex(self._prepared(moment)["seal"]), roster_digest(prepares)
        keys = {}
        for one in complaints:
            said = statements.read(one, ["complain"], moment, self.authority)
            if said["roster"] != names or self.name not in said["against"]:
                raise statements.refused("the server", "a complaint about other sites", "one about this site's shares")
            keys[said["site"]] = _seal_key(seal, said["site"]).hex()
        return statements.sign(self.identity, "justify", moment, roster=names, keys=keys)

    def _received(self, moment: Moment, said: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Return both shares that a site sent to this one; they do not open, or are not those promised: RoundRefused."""
        channel = bytes.fromhex(self._kept(moment.run)["channel"])
        return sealed_shares.open_received(channel, said, moment, self.name)

    def mask(self, moment: Moment, prepares: Sequence[Signed], words: Words, start: str = "") -> Words:
        """Return words under this site's masks (as they are without masks).

        start: of what model and grid the update is, the same at all sites (start_words); "" in a ring, whose sums are tagged
        another text, or another set of sites, for a moment that has one: RoundRefused
        """
        roster = self.roster(moment, prepares)
        if not self.secagg.masks:
            return words
        kept, names = self._kept(moment.run), roster_digest(prepares)
        prepared, used = self._prepared(moment), f"{names} {hashlib.sha256(words.tobytes()).hexdigest()}"
        if prepared["used"] not in ("", used):
            raise statements.refused(
                self.name, "a mask that was used for another update or set of sites", "a fresh attempt"
            )
        kept["prepared"]["used"] = used
        self._save(kept)
        modulus, secret = self.secagg.modulus, bytes.fromhex(prepared["mask"])
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
        if not self.secagg.masks:
            raise statements.refused("the server", "an opening where nothing is masked", "a job with masks")
        kept, roster, peers = self._kept(moment.run), self.roster(moment, prepares), self._peers(moment.run, joins)
        inside = sorted(set(survivors))
        self.secagg.require_enough(len(inside), f"the sum of round {moment.round + 1}")
        least = self.secagg.threshold_of(len(peers))
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
            of_mask, of_own = self._received(moment, said)
            shares[name] = (of_own if name in inside else of_mask).hex()
        return statements.sign(self.identity, "unmask", moment, roster=names, survivors=inside, shares=shares)

    def stop(self) -> None:
        """Take no more in this job: a sum was refused, and a server could learn from a second try, in another run too."""
        self._save({**self._load(), "stopped": self.job})

    def _peers(self, run: str, joins: Sequence[Signed]) -> dict[str, bytes]:
        """Return the channel key of every site that joined, after checking signatures and that all hold one sum key."""
        said = {}
        for one in joins:
            content = statements.read(one, ["join"], joined(run), self.authority)
            said[content["site"]] = content
        self.secagg.require_enough(len(said), "the sites of this run")
        mine = masks.public_of(bytes.fromhex(self._kept(run)["channel"])).hex()
        if said.get(self.name, {}).get("channel") != mine:
            raise statements.refused(
                self.name, "another channel key than this site made", "its own statement, unchanged"
            )
        strangers = sorted(site for site, content in said.items() if content["key_id"] != self.key_id)
        if strangers:
            raise statements.refused(strangers[0], "another sum key than this site's", "one project, one key")
        others = sorted(site for site, content in said.items() if content["job"] != self.job)
        if others:
            raise statements.refused(others[0], "another job, or other settings of it, than this site's", "one job")
        if len(said) != len(joins):
            raise statements.refused("the server", "two `join` statements of one site", "one channel key for each site")
        return {site: bytes.fromhex(content["channel"]) for site, content in said.items()}

    def _kept(self, run: str) -> dict[str, Any]:
        kept = self._load()
        if kept.get("run") != run:
            raise statements.refused("the server", "a run that this site did not join", "join first")
        self.require_going_on(kept)
        return kept

    def require_going_on(self, kept: Mapping[str, Any] | None = None) -> None:
        """Raise RoundRefused after a sum that was refused in this job. Not in this run: a run is any word that a server says."""
        if (self._load() if kept is None else kept).get("stopped") == self.job:
            raise statements.refused(
                "the server", "more of a job whose sum this site refused", "a new job: submit it again"
            )

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
        files.write(files.private_folder(self._file.parent) / FILE, json.dumps(kept), private=True, durable=True)


def _seal_key(seal: bytes, receiver: str) -> bytes:
    """Return the private key under which one receiver's share is sealed: it can be shown without telling any other."""
    return masks.derive(seal, "seal", receiver)
