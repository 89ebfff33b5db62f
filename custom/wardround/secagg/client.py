"""One hospital's half of a secure sum: hide what was coded, read the sum.

hold     code the update, on disk (secagg/coded_updates.py)
submit   pack, tag, mask and encrypt its integers (star)
hop      the same, added to what the site before passed on (ring)
reveal   decrypt, check tags, unpack: the mean of all sites, and the next grid
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from wardround.core import files
from wardround.core.arrays import Array
from wardround.core.errors import RoundRefused
from wardround.messages import statements
from wardround.messages.statements import Moment, Signed
from wardround.secagg import grids
from wardround.secagg.bfv import Cipher
from wardround.secagg.coded_updates import CodedUpdates
from wardround.secagg.fixed_point import FixedStep, Grid, decode, mean_of, next_grid
from wardround.secagg.incoming_hop import Incoming
from wardround.secagg.key_agreement import KeyAgreement
from wardround.secagg.masks import derive
from wardround.secagg.roster import ring_order, roster_digest, start_words
from wardround.secagg.server import words_of
from wardround.secagg.spec import SecAggSpec
from wardround.secagg.tags import Tags


@final
class SecAggClient(CodedUpdates):
    """The sum of one job at one site. `key` is the seed of the sum key, if any.

    cycle: the blocks of a round are those of `cycle` rounds before, and so is its grid.
    noise, carries: those of CodedUpdates.
    """

    def __init__(
        self,
        secagg: SecAggSpec,
        agreement: KeyAgreement,
        key: bytes | None,
        folder: Path,
        seed: int,
        noise: FixedStep | None = None,
        cycle: int = 1,
        carries: bool = True,
    ) -> None:
        super().__init__(secagg, agreement.name, folder, seed, noise, carries)
        self.agreement = agreement
        self._key = key
        self.cycle = cycle

    @cached_property
    def _cipher(self) -> Cipher:
        return Cipher(self.secagg.modulus, self._key)

    def submit(self, moment: Moment, prepares: Sequence[Signed], model: str) -> tuple[Signed, bytes]:
        """Return statement and payload for a round, or a complaint about bad shares."""
        if (complaint := self.agreement.complaint(moment, prepares)) is not None:
            return complaint, b""
        start = self._word("model", moment, model), self._grid_word(moment)
        payload = self._hidden(moment, prepares, start_words(*start))
        return self._signed("submit", moment, prepares, payload, model=start[0]), payload

    def ready(self, moment: Moment, prepares: Sequence[Signed], model: str) -> Signed:
        """Return the statement that this site awaits its hop, or a complaint."""
        if (complaint := self.agreement.complaint(moment, prepares)) is not None:
            return complaint
        words = {"grid": self._grid_word(moment), "model": self._word("model", moment, model)}
        said = {**words, "roster": roster_digest(prepares)}
        return statements.sign(self.agreement.identity, "ready", moment, **said)

    def hop(self, moment: Moment, prepares: Sequence[Signed], incoming: Incoming) -> tuple[Signed, bytes]:
        """Return this site's hop: what it was handed, once checked, plus its update."""
        name = self.name
        order = ring_order(incoming.ready, prepares)
        before = order[: order.index(name)] if name in order else []
        if name not in order or [site for site in before if site in incoming.done] != list(incoming.done):
            raise statements.refused("the server", "a hop out of order", "the order that the mask keys give")
        payload = self._hidden(moment, prepares)
        if incoming.done:
            roster, grid = roster_digest(prepares), self._grid_word(moment)
            handed = self._cipher.load(incoming.checked(moment, roster, grid, self.agreement.authority))
            payload = self._cipher.dump(self._cipher.add(handed, payload))
        return self._signed("hop", moment, prepares, payload, done=[*incoming.done, name]), payload

    def reveal(
        self, moment: Moment, sites: Sequence[str], payload: bytes, ratio: float, roster: str = ""
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return (mean update, what is known of it), and write the next grid of its blocks.

        After another sum or a wrong key (RoundRefused) this site leaves the job: a
        server could learn from a second try. A site that is not in the sum drops its
        integers.

        ratio: the learning rate of the round with that grid over this one's.
        roster: the digest of who took part, for a site that did not.
        """
        self.secagg.require_enough(len(set(sites)), f"the sum of round {moment.round + 1}")
        self.agreement.require_going_on()
        grid = self.grid(moment.round)
        try:
            totals, patients = self._open(moment, sites, payload, roster, grid)
        except RoundRefused:
            self.agreement.stop()
            raise
        following = grid if self.noise is not None else next_grid(grid, totals, len(sites), ratio)
        grids.write(self.folder, moment.round + self.cycle, following)
        if self.name not in sites:
            self.forget(moment.round)
        known = {"sites": len(sites), "patients": patients if self.secagg.weighted else None}
        return mean_of(grid, totals, self.secagg.denominator(len(sites), patients)), known

    def _open(
        self, moment: Moment, sites: Sequence[str], payload: bytes, roster: str, grid: Grid
    ) -> tuple[NDArray[np.int64], int]:
        """Return (sums, patients); RoundRefused unless it is the sum of these sites."""
        count = self.secagg.packing.words(grid.fields)
        if self.secagg.encryption:
            tags = self._tags(moment, self._roster(moment, sites, roster))
            words = tags.check(self._cipher.decrypt(payload), count, sites)
        else:
            words = words_of(payload)
        totals, patients = decode(grid, self.secagg.packing.unpack(words, grid.fields, len(sites)))
        if self.secagg.weighted and patients < len(sites):
            raise RoundRefused(
                "the patients in a sum",
                found=f"fewer than its {len(sites)} sites",
                expected="at least one for each",
                fix="a message was altered, or the sites run different versions",
            )
        return totals, patients

    def _roster(self, moment: Moment, sites: Sequence[str], told: str) -> str:
        """Return the digest of who took part: this site's record, or else `told`."""
        if self.name not in sites:
            return told
        path = self.roster_file(moment.round)
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("moment") != list(moment.words):
            raise statements.refused("the server", "a sum with this site that it did not hide an update for", "its own")
        return str(kept["roster"])

    def _hidden(self, moment: Moment, prepares: Sequence[Signed], start: str = "") -> bytes:
        words = self.secagg.packing.pack(self.fields(moment.round))
        if self.secagg.encryption:
            roster = roster_digest(prepares)
            said = json.dumps({"moment": list(moment.words), "roster": roster}).encode()
            files.write(self.roster_file(moment.round), said, private=True, durable=True)
            words = self._tags(moment, roster).put(words, self.name)
        words = self.agreement.mask(moment, prepares, words, start)
        return self._cipher.encrypt(words) if self.secagg.encryption else bytes(words.astype("<u8").tobytes())

    def _signed(self, kind: str, moment: Moment, prepares: Sequence[Signed], payload: bytes, **more: Any) -> Signed:
        return statements.sign(
            self.agreement.identity,
            kind,
            moment,
            roster=roster_digest(prepares),
            grid=self._grid_word(moment),
            sha256=hashlib.sha256(payload).hexdigest(),
            **more,
        )

    def _word(self, kind: str, moment: Moment, digest: str) -> str:
        """Return a digest as it is sent: keyed, or few blocks could be guessed."""
        return digest if self._key is None else derive(self._key, kind, *moment.words, digest).hex()

    def _grid_word(self, moment: Moment) -> str:
        return self._word("grid", moment, self.grid(moment.round).digest)

    def _tags(self, moment: Moment, roster: str) -> Tags:
        return Tags(self._key or b"", self.secagg.modulus, *moment.words, roster)
