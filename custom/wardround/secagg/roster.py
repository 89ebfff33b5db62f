"""Who takes part in a secure sum, as every party reads it from signed statements?

`join` says once per run which channel key a site has and which job it serves. `prepare`
says for every attempt with masks which mask key it has. A roster is the statements of
one kind from all who take part. Its digest is in every later statement, in the seed of
every mask and in the key of every tag.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wardround.core.errors import RoundRefused
from wardround.messages import statements
from wardround.messages.identity import Authority
from wardround.messages.statements import Moment, Signed
from wardround.secagg import masks

# The round of the join statements: they come before the first round.
JOINED = -1
# An object without a repr of its own shows its address, another one in every process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def joined(run: str) -> Moment:
    """Return the moment of all join statements of a run."""
    return Moment(run, JOINED, 0)


def job_digest(job_id: str, *settings: object) -> str:
    """Return what binds a job's statements and keys to it.

    It is a digest of its id and of the settings that this site runs.
    """
    return hashlib.sha256(_ADDRESS.sub("", repr((job_id, *settings))).encode()).hexdigest()


def require_join(said: Mapping[str, Any]) -> None:
    """Raise RoundRefused unless others can seal shares for a join's channel key."""
    _require_key(said, "channel")


def require_prepare(said: Mapping[str, Any], joins: Sequence[Signed]) -> None:
    """Raise RoundRefused, naming its site, unless others can work with a `prepare`.

    It checks as much as one can see without the receivers' keys.
    """
    _require_key(said, "mask")
    peers = {statements.peek(one)["site"] for one in joins}
    fits = said["peers"] == peers_digest(joins) and said["site"] in peers
    if not (fits and said["shares"].keys() == said["digests"].keys() == peers):
        raise statements.refused(
            said["site"],
            f"shares for {len(said['shares'])} sites",
            "for those that joined",
        )


def _require_key(said: Mapping[str, Any], which: str) -> None:
    try:
        masks.shared(masks.new_key(), bytes.fromhex(said[which]), "check")
    except RoundRefused as refusal:
        raise statements.refused(said["site"], f"a {which} key that X25519 does not accept", "a fresh one") from refusal


def pair_seed(
    private: bytes,
    public: bytes,
    site: str,
    other: str,
    moment: Moment,
    roster: str,
    start: str,
) -> bytes:
    """Return the seed of the mask that two sites share.

    It is for one moment, one roster and one start of the round.
    """
    # The names are sorted, so that both sites derive the same seed.
    return masks.shared(private, public, "mask", *sorted((site, other)), *moment.words, roster, start)


def start_words(model: str, grid: str) -> str:
    """Return what masks are bound to: the digests of the global model and of the grid."""
    return f"{model} {grid}"


def roster_digest(prepares: Sequence[Signed]) -> str:
    """Return a digest of who takes part with which keys.

    It is of the `prepare` statements, or of the `join` statements without masks.
    """
    return statements.digest_of(prepares) if prepares else ""


def peers_digest(joins: Sequence[Signed]) -> str:
    """Return a digest of who joined with which channel keys."""
    return statements.digest_of(joins)


def read_roster(moment: Moment, prepares: Sequence[Signed], authority: Authority) -> dict[str, dict[str, Any]]:
    """Return the prepare statements by site, sorted.

    Statements that are forged, doubled or made for other sets of sites raise
    RoundRefused.
    """
    said = [statements.read(one, ["prepare"], moment, authority) for one in prepares]
    found = {content["site"]: content for content in sorted(said, key=lambda content: str(content["site"]))}
    sets = {(content["peers"], *sorted(content["shares"]), *sorted(content["digests"])) for content in said}
    if len(found) != len(said) or len(sets) > 1 or any(found.keys() - content["shares"].keys() for content in said):
        raise statements.refused(
            "the server",
            "mask keys made for different sets of sites",
            "one set for all",
        )
    return found


def read_joins(moment: Moment, joins: Sequence[Signed], authority: Authority) -> dict[str, dict[str, Any]]:
    """Return the join statements of a run by site, sorted.

    Statements that are forged, doubled or of two jobs raise RoundRefused.
    """
    said = [statements.read(one, ["join"], joined(moment.run), authority) for one in joins]
    found = {content["site"]: content for content in sorted(said, key=lambda content: str(content["site"]))}
    if len(found) != len(said) or len({content["job"] for content in said}) > 1:
        raise statements.refused(
            "the server",
            "joins of two jobs, or two of one site",
            "one for each site, of one job",
        )
    return found


def ring_order(names: Sequence[str], prepares: Sequence[Signed]) -> list[str]:
    """Return the order of a ring.

    It is fresh with the mask keys of every attempt, the same for all, and chosen by
    nobody.
    """
    digest = roster_digest(prepares)
    return sorted(names, key=lambda name: hashlib.sha256(f"{digest} {name}".encode()).hexdigest())
