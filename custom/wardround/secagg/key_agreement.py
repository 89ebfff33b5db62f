"""One site's part in agreeing on masks and opening them: join, prepare, mask, unmask.

What a site refuses, whatever the server says, is listed in secagg/__init__.py with the
sources. Its secrets stay in one file.
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
    """A site in one job, with a folder of its own that outlives its processes.

    job: digest of the job as this site knows it (job_digest); others are refused.
    """

    def __init__(
        self, secagg: SecAggSpec, identity: Identity, authority: Authority, key_id: str, folder: Path, job: str
    ) -> None:
        self.secagg = secagg
        self.identity = identity
        self.authority = authority
        self.key_id = key_id
        self.job = job
        self._file = folder / FILE

    @property
    def name(self) -> str:
        return self.identity.name

    def join(self, run: str) -> Signed:
        """Return the channel key for a run, or refuse a run that was left."""
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
        """Return a fresh mask key and sealed shares for every site that joined.

        For one moment they stay the same: a server that gets others as often as it asks
        could choose the order of a ring. Other sites for one moment, an earlier round,
        or new sites in a repeated round raise RoundRefused.
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
        mask = masks.new_key()
        own = masks.new_key()
        seal = masks.new_key()
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
        """Return the sealed shares of both secrets for every site, with digests."""
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

        prepares: the `prepare` statements or, without masks, the `join` statements.
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
        """Return a complaint about sites whose share does not open, or None.

        Nothing is masked yet, so the round can be run without whoever lied.
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
        """Return the key of its share for every site that complained about this one."""
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
        """Return both shares of a sender; RoundRefused unless they are as promised."""
        channel = bytes.fromhex(self._kept(moment.run)["channel"])
        return sealed_shares.open_received(channel, said, moment, self.name)

    def mask(self, moment: Moment, prepares: Sequence[Signed], words: Words, start: str = "") -> Words:
        """Return words under this site's masks, once for an update and a set of sites.

        start: the model and grid of the update (start_words); "" in a ring.
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
        """Return shares of survivors' own masks and of the others' mask keys."""
        if not self.secagg.masks:
            raise statements.refused("the server", "an opening where nothing is masked", "a job with masks")
        kept = self._kept(moment.run)
        roster = self.roster(moment, prepares)
        peers = self._peers(moment.run, joins)
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
        # On the disk before the shares leave: a restart must not open another set.
        kept["opened"] = {"round": moment.round, "survivors": inside}
        self._save(kept)
        shares = {}
        for name, said in roster.items():
            of_mask, of_own = self._received(moment, said)
            shares[name] = (of_own if name in inside else of_mask).hex()
        return statements.sign(self.identity, "unmask", moment, roster=names, survivors=inside, shares=shares)

    def stop(self) -> None:
        """Leave this job after a refused sum: a server could learn by trying twice."""
        self._save({**self._load(), "stopped": self.job})

    def _peers(self, run: str, joins: Sequence[Signed]) -> dict[str, bytes]:
        """Return the checked channel key of every site that joined."""
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
        """Raise RoundRefused after a refused sum of this job, in whichever run."""
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
                fix="start the job again: without this file it is unknown what was opened already",
            ) from error

    def _save(self, kept: Mapping[str, Any]) -> None:
        """Write the secrets, for the owner only; a crash leaves a whole file."""
        files.write(files.private_folder(self._file.parent) / FILE, json.dumps(kept), private=True, durable=True)


def _seal_key(seal: bytes, receiver: str) -> bytes:
    """Return the key that seals one share; it can be shown without the others."""
    return masks.derive(seal, "seal", receiver)
