"""One hospital's half of a secure sum: code an update, hide it, read the sum.

hold     code the update, on disk: a repeated attempt uses the same integers
submit   pack, tag, mask and encrypt them (star)
hop      the same, added to what the site before passed on (ring)
reveal   decrypt, check tags, unpack: the mean of all sites, and the next grid
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from wardround.core import files
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import RoundRefused
from wardround.core.rng import stream
from wardround.messages import statements
from wardround.messages.statements import Moment, Signed
from wardround.secagg import grids
from wardround.secagg.bfv import Cipher
from wardround.secagg.fixed_point import FixedStep, Grid, decode, encode, first_grid, fixed_grid, mean_of, next_grid
from wardround.secagg.key_agreement import KeyAgreement
from wardround.secagg.masks import derive
from wardround.secagg.roster import ring_order, roster_digest, start_words
from wardround.secagg.server import words_of
from wardround.secagg.spec import SecAggSpec
from wardround.secagg.tags import Tags


@final
@dataclass(frozen=True)
class Incoming:
    """What a site of the ring is handed; no statement and no payload for the first."""

    ready: tuple[str, ...]
    done: tuple[str, ...]
    statement: Signed | None
    payload: bytes


@final
class SecAggClient:
    """The sum of one job at one site. `key` is the seed of the sum key, if any.

    noise: under hospital-level DP, updates arrive noised, in steps of a fixed grid.
    cycle: the blocks of a round are those of `cycle` rounds before, and so is its grid.
    carries: what coding left over of a round is added to the next update; else `left`
        returns it to whoever adds it.
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
        self.secagg = secagg
        self.agreement = agreement
        self.folder = folder
        self.seed = seed
        self._key = key
        self.noise = noise
        self.cycle = cycle
        self._carries = carries and noise is None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @cached_property
    def _cipher(self) -> Cipher:
        return Cipher(self.secagg.modulus, self._key)

    def holds(self, round_: int) -> bool:
        """Return whether the update of a round is coded already."""
        return self._held(round_).is_file()

    def hold(
        self, round_: int, update: Arrays, patients: int, initial: Arrays, said: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Code an update once, write it down, and return what the receipt says.

        initial: the job's first weights, for round 0.
        said: JSON that goes with the update in every attempt. What coding left over of the
            round before joins only an update with the same `outbound_digest`.
        """
        if not self.holds(round_):
            if round_ == 0:
                self.begin({name: initial[name] for name in update if name in initial})
            grid = self.grid(round_)
            kept = self._carries and self.holds(round_ - 1)
            kept = kept and self.said(round_ - 1).get("outbound_digest") == said.get("outbound_digest")
            residual = self._read(round_ - 1, "residual") if kept else None
            draws = stream(self.seed, "rounding", self.agreement.name, round_)
            coded = encode(grid, update, residual, self.secagg.weight(patients), patients, draws)
            file = io.BytesIO()
            np.savez(
                file,
                fields=coded.fields.astype(np.int16),
                residual=coded.residual,
                clipped=coded.clipped,
                said=json.dumps(said),
            )
            # On the disk first: an attempt that is repeated reads these integers.
            files.write(self._held(round_), file.getvalue(), private=True, durable=True)
            for old in (self._held(round_ - 2), self._part(round_ - 2)):
                old.unlink(missing_ok=True)
        clipped, values = int(self._read(round_, "clipped")), self.grid(round_).fields
        return {"values": values, "clipped": clipped, "bits": self.secagg.bits}

    def begin(self, blocks: Arrays, round_: int = 0) -> None:
        """Write the first grid of these blocks, which follows from the job's first weights."""
        grids.write(self.folder, round_, self._first_grid(blocks))

    def left(self, round_: int, patients: int) -> dict[str, Array]:
        """Return what coding left over of the update of a round, by block and in its units."""
        values = self._read(round_, "residual") / self.secagg.weight(patients)
        return self.grid(round_).layout.unflatten(values.astype(np.float32))

    def fields(self, round_: int) -> NDArray[np.int32]:
        """Return the integers of a round: readable, so they stay at the site."""
        return self._read(round_, "fields").astype(np.int32)  # type: ignore[no-any-return]

    def said(self, round_: int) -> dict[str, Any]:
        """Return what was said when the update was coded."""
        return dict(json.loads(str(self._read(round_, "said"))))

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
        name = self.agreement.name
        order = ring_order(incoming.ready, prepares)
        before = order[: order.index(name)] if name in order else []
        if name not in order or [site for site in before if site in incoming.done] != list(incoming.done):
            raise statements.refused("the server", "a hop out of order", "the order that the mask keys give")
        payload = self._hidden(moment, prepares)
        if incoming.done:
            payload = self._cipher.dump(self._cipher.add(self._checked(moment, prepares, incoming), payload))
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
        if self.agreement.name not in sites:
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
        if self.agreement.name not in sites:
            return told
        kept = json.loads(path.read_text(encoding="utf-8")) if (path := self._part(moment.round)).is_file() else {}
        if kept.get("moment") != list(moment.words):
            raise statements.refused("the server", "a sum with this site that it did not hide an update for", "its own")
        return str(kept["roster"])

    def forget(self, round_: int) -> None:
        """Drop a round's integers: noised ones may enter the sums of ONE run only."""
        self._held(round_).unlink(missing_ok=True)

    def _first_grid(self, blocks: Arrays) -> Grid:
        if self.noise is not None:
            return fixed_grid(Layout.of(blocks), self.noise)
        return first_grid(blocks, self.secagg.bits, weighted=self.secagg.weighted)

    def grid(self, round_: int) -> Grid:
        """Return the grid of a round that this site has reached."""
        return grids.read(self.folder, round_)

    def _hidden(self, moment: Moment, prepares: Sequence[Signed], start: str = "") -> bytes:
        words = self.secagg.packing.pack(self.fields(moment.round))
        if self.secagg.encryption:
            roster = roster_digest(prepares)
            said = json.dumps({"moment": list(moment.words), "roster": roster}).encode()
            files.write(self._part(moment.round), said, private=True, durable=True)
            words = self._tags(moment, roster).put(words, self.agreement.name)
        words = self.agreement.mask(moment, prepares, words, start)
        return self._cipher.encrypt(words) if self.secagg.encryption else bytes(words.astype("<u8").tobytes())

    def _checked(self, moment: Moment, prepares: Sequence[Signed], incoming: Incoming) -> Any:
        sender = incoming.done[-1]
        if incoming.statement is None:
            raise statements.refused(sender, "a hop without its statement", "the statement that it signed")
        said = statements.read(incoming.statement, ["hop"], moment, self.agreement.authority)
        expected = (sender, list(incoming.done), roster_digest(prepares), self._grid_word(moment))
        if (said["site"], said["done"], said["roster"], said["grid"]) != expected:
            raise statements.refused(sender, "a hop of another order or grid", "this round's")
        if said["sha256"] != hashlib.sha256(incoming.payload).hexdigest():
            raise statements.refused(sender, "a hop that was altered on its way", "the payload as it was signed")
        return self._cipher.load(incoming.payload)

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

    def _read(self, round_: int, key: str) -> Any:
        """Return one part of what `hold` wrote, or raise RoundRefused."""
        path = self._held(round_)
        try:
            with np.load(path, allow_pickle=False) as file:
                return file[key]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RoundRefused(
                f"this site's update of round {round_ + 1}",
                found=f"no readable {path.name} ({type(error).__name__})",
                expected="what this site wrote when it trained",
                fix="start the job again",
            ) from error

    def _held(self, round_: int) -> Path:
        return self.folder / f"held-{round_:05d}.npz"

    def _part(self, round_: int) -> Path:
        return self.folder / f"roster-{round_:05d}.json"
