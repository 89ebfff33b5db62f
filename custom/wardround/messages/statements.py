"""The signed statements of a secure sum: all that sites and server say, payload apart.

A statement is one line of JSON. It is bound to a run, a round and an attempt, and
travels with the signature and the certificate of its site. This table is the list to
review: a key more or less, or a value of another form, is refused.

    join      once per run: the site's X25519 key for sealed shares, the id of its sum
              key, a digest of the job as the site knows it
    prepare   each attempt with masks: a fresh mask key, a digest of its own mask, and
              for every site a sealed share and the digests of that share
    ready     ring: the site has trained; the digest of the global model it started from
    submit    star: the same, with the SHA-256 of the payload
    complain  instead of these two: whose share for this site cannot be opened, or is
              not the promised one
    justify   the answer of an accused site: for each accuser the one key that opens the
              share made for it
    hop       ring: the SHA-256 of the payload, and who has added an update so far
    unmask    shares of the own masks of the sites in the sum, and of the mask keys of
              the sites that are not in it
    judged    at the end: the digest of the final model

`roster` is a digest of the statements that say who takes part: `prepare` with masks,
`join` without. Their texts hold fresh keys of every site and the digest of its job, so
that whatever is bound to a roster belongs to one job and one set of sites.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from wardround.core.errors import RoundRefused
from wardround.messages.identity import Authority, Identity

_HEX = re.compile(r"(?:[0-9a-f]{2}){0,512}")
_NAME = re.compile(r"[\w.@-]{1,64}")
_KEY = re.compile(r"[0-9a-f]{64}")
# A sealed share is a key of 32 bytes, a nonce of 12, two shares of 66 and a tag of 16.
KEY_BYTES = 32
SEALED_BYTES = 192
SHARE_BYTES = 66
HEX = "hexadecimal digits"
KEY = "64 hexadecimal digits"
NAMES = "site names"
SEALED, DIGESTS, SHARES, KEYS = (
    f"{2 * size} hexadecimal digits by site" for size in (SEALED_BYTES, 2 * KEY_BYTES, SHARE_BYTES, KEY_BYTES)
)
BY_SITE = {
    form: re.compile(f"[0-9a-f]{{{2 * size}}}")
    for form, size in ((SEALED, SEALED_BYTES), (DIGESTS, 2 * KEY_BYTES), (SHARES, SHARE_BYTES), (KEYS, KEY_BYTES))
}
_MODEL = {"roster": HEX, "grid": HEX, "model": HEX}
SHAPES: dict[str, dict[str, str]] = {
    "join": {"channel": KEY, "key_id": HEX, "job": HEX},
    "prepare": {"peers": KEY, "mask": KEY, "own": KEY, "shares": SEALED, "digests": DIGESTS},
    "ready": _MODEL,
    "submit": _MODEL | {"sha256": HEX},
    "complain": {"roster": HEX, "against": NAMES},
    "justify": {"roster": HEX, "keys": KEYS},
    "hop": {"roster": HEX, "grid": HEX, "sha256": HEX, "done": NAMES},
    "unmask": {"roster": HEX, "survivors": NAMES, "shares": SHARES},
    "judged": {"model": HEX, "job": HEX},
}
_COMMON = {"kind", "site", "run", "round", "attempt"}
# A `prepare` statement grows with the number of sites: 256 of them fit into LONGEST.
LONGEST, MOST_ROUNDS = 262_144, 1_000_000


@final
@dataclass(frozen=True)
class Moment:
    """The run, the round and the attempt: part of every statement and derived key."""

    run: str
    round: int
    attempt: int

    @property
    def words(self) -> tuple[str | int, ...]:
        """Return the three values, as they enter a derived key and travel."""
        return (self.run, self.round, self.attempt)


@final
@dataclass(frozen=True)
class Signed:
    """A statement as it travels.

    text: the JSON that was signed.
    signature: the RSASSA-PSS signature of the text.
    certificate: the certificate of the site, in PEM.
    """

    text: str
    signature: bytes
    certificate: bytes

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def sign(identity: Identity, kind: str, moment: Moment, **fields: Any) -> Signed:
    """Return a signed statement.

    A statement that the table above does not describe is a RoundRefused.
    """
    content = {"kind": kind, "site": identity.name, **vars(moment), **fields}
    text = _canonical(content)
    _parse(text)
    return Signed(text, identity.sign(text), identity.certificate)


def read(signed: Signed, kinds: Sequence[str], moment: Moment, authority: Authority | None) -> dict[str, Any]:
    """Return the content of a statement of one of these kinds and of this moment.

    Another kind, another moment, a signature that does not fit or another form is a
    RoundRefused.

    authority: who checks the signature. None is for a site's own statement, whose
        signature is not checked.
    """
    content = _parse(signed.text)
    site, kind = content["site"], content["kind"]
    if kind not in kinds:
        raise refused(site, f"kind {kind!r}", f"one of {', '.join(kinds)}")
    found = Moment(content["run"], content["round"], content["attempt"])
    if found != moment:
        raise refused(
            site,
            f"round {found.round}, attempt {found.attempt}{'' if found.run == moment.run else ' of another run'}",
            f"round {moment.round}, attempt {moment.attempt} of this run: an old message was replayed",
        )
    if authority is not None:
        authority.require(site, signed.certificate, signed.text, signed.signature)
    return content


def read_own(site: str, signed: Signed, kind: str, moment: Moment, authority: Authority) -> dict[str, Any]:
    """Return what a site says of itself, checked as in `read`.

    A statement of another site is a RoundRefused.
    """
    said = read(signed, [kind], moment, authority)
    if said["site"] != site:
        raise refused(site, f"a statement of {said['site']}", "its own")
    return said


def peek(signed: Signed) -> dict[str, Any]:
    """Return the content of a statement without a check of who made it."""
    return _parse(signed.text)


def digest_of(statements: Sequence[Signed]) -> str:
    """Return one digest of several statements, independent of their order."""
    return hashlib.sha256("\n".join(sorted(one.text for one in statements)).encode()).hexdigest()


def refused(site: str, found: str, expected: str) -> RoundRefused:
    """Return the refusal of what a site said."""
    return RoundRefused(
        f"a statement of {site}",
        found=found,
        expected=expected,
        fix="the message was altered, replayed or reordered, or the sites run different versions",
    )


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _parse(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if len(text) <= LONGEST else {}
    except (ValueError, RecursionError):
        found = {}
    content: dict[str, Any] = found if isinstance(found, dict) else {}
    shape = SHAPES.get(str(content.get("kind")), {})
    if not shape or set(content) != _COMMON | set(shape):
        raise refused("a site", "no statement of a known kind", f"one of {', '.join(SHAPES)}")
    counts = all(type(content[key]) is int and -1 <= content[key] <= MOST_ROUNDS for key in ("round", "attempt"))
    if not (counts and _is(content["site"], _NAME) and _is(content["run"], _HEX)):
        raise refused("a site", "no site, run, round or attempt", "all of them")
    for key, form in shape.items():
        if not _fits(content[key], form):
            raise refused(content["site"], f"{key!r} in another form", form)
    # One content has one text. Digests of texts are compared, and a key that stands
    # twice could say two things to two readers.
    if _canonical(content) != text:
        raise refused(content["site"], "another spelling of its JSON", "sorted keys, no blanks, plain ASCII")
    return content


def _fits(value: Any, form: str) -> bool:
    if form in (HEX, KEY):
        return _is(value, _KEY if form == KEY else _HEX)
    if form == NAMES:
        return isinstance(value, list) and all(_is(name, _NAME) for name in value) and len(set(value)) == len(value)
    pattern = BY_SITE[form]
    return isinstance(value, Mapping) and all(_is(name, _NAME) and _is(text, pattern) for name, text in value.items())


def _is(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None
