"""What a model was trained on, as its file says it: whose patients, whether they were invented, which regions they taught.

A file's `trained_on` is {"data": phantoms, patients, mixed, unknown or nothing; "sites": kind -> number of hospitals}, and in a
hospital's own file `"others": true` where other hospitals had a share whose data the file does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wardround.core.errors import ModelRefused

PHANTOMS, PATIENTS, MIXED, UNKNOWN, NOTHING = "phantoms", "patients", "mixed", "unknown", "nothing"
CLASSES = "classes"
PREFIX = "phantom-"
SHOUT = "TRAINED ON INVENTED PATIENTS (phantoms): nothing that this model says is about a real person"
NOT_KNOWN = "what this model was trained on is not known: its file does not say it"
_SAYS = (PHANTOMS, PATIENTS, MIXED, UNKNOWN, NOTHING)


def invented(cases: Iterable[str]) -> bool:
    """Return whether any case has the name of a phantom: one is enough to say so."""
    return any(case.lower().startswith(PREFIX) for case in cases)


def of_sites(kinds: Iterable[bool | None], *, others: bool = False) -> dict[str, Any]:
    """Return `trained_on` of hospitals by whether each one's patients are phantoms (None: it did not say).

    others: more hospitals had a share, and nothing is known of them here
    """
    counts = Counter(UNKNOWN if one is None else PHANTOMS if one else PATIENTS for one in kinds)
    known = [name for name in (PHANTOMS, PATIENTS, UNKNOWN) if counts[name]]
    if not known:
        data = NOTHING
    elif known == [PHANTOMS]:
        data = PHANTOMS
    elif counts[PHANTOMS]:
        data = MIXED
    else:
        data = UNKNOWN if counts[UNKNOWN] or others else PATIENTS
    return {"data": data, "sites": {name: counts[name] for name in known}, **({"others": True} if others else {})}


def of_rounds(num_rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `trained_on` of a shared model from its rounds: hospitals whose updates are in a sum, and what they said."""
    said: dict[str, bool | None] = {}
    for entry in num_rounds:
        facts = entry.get("facts", {})
        for site in entry.get("aggregated", facts):
            told = facts.get(site, {}).get("phantoms")
            said[site] = told if isinstance(told, bool) else said.get(site)
    return of_sites(said.values())


def kind_of_rounds(num_rounds: Sequence[Mapping[str, Any]], kinds_of_task: Sequence[str]) -> str | None:
    """Return the kind of labels whose regions the hospitals of these rounds taught, all together; none said one: None.

    kinds_of_task: the task's kinds of masks, the one that tells most first
    """
    kinds = {
        facts.get("label_kind")
        for entry in num_rounds
        for site, facts in entry.get("facts", {}).items()
        if site in entry.get("aggregated", entry["facts"])
    }
    return next((kind for kind in (CLASSES, *kinds_of_task) if kind in kinds), None)


def card_of_rounds(num_rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the card (see `card_of_facts`) of a shared model, from what the hospitals told in the rounds that they are in."""
    last: dict[str, Mapping[str, Any]] = {}
    for entry in num_rounds:
        facts = entry.get("facts", {})
        last |= {site: facts.get(site) or last.get(site, {}) for site in entry.get("aggregated", facts)}
    return card_of_facts(list(last.values())) | {"rounds": len(num_rounds)}


def card_of_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what hospitals said about their data, added up: it holds nothing that did not leave them.

    patients: per split, None where a hospital did not tell its number, because it is small; None for all where a hospital
    told none (under differential privacy none does) | sequences, label_kinds: how many hospitals have them
    """
    cases = [one.get("cases") for one in facts]
    told = [one for one in cases if isinstance(one, Mapping)]
    return {
        "hospitals": len(facts),
        "patients": _added_up(told) if told and len(told) == len(facts) else None,
        "sequences": dict(Counter(name for one in facts for name, n in one.get("modalities", {}).items() if n)),
        "label_kinds": dict(Counter(str(one["label_kind"]) for one in facts if "label_kind" in one)),
    }


def _added_up(cases: Sequence[Mapping[str, int | None]]) -> dict[str, int | None]:
    """Return the patients of all hospitals per split; a sum without one that is not told would be false, so it is None."""
    splits: dict[str, int | None] = {}
    for part in ("train", "val", "test"):
        numbers = [one.get(part) for one in cases]
        known = [n for n in numbers if n is not None]
        splits[part] = sum(known) if len(known) == len(numbers) else None
    return splits


def data_of(meta: Mapping[str, Any]) -> str:
    """Return what a file says it was trained on; nothing that makes sense: unknown."""
    said = meta.get("trained_on")
    data = said.get("data") if isinstance(said, Mapping) else None
    return data if data in _SAYS else UNKNOWN


def is_synthetic(meta: Mapping[str, Any]) -> bool:
    """Return whether invented patients had a share in a model."""
    return data_of(meta) in (PHANTOMS, MIXED)


def words(meta: Mapping[str, Any]) -> str:
    """Return in one line what a model was trained on, for people."""
    said = meta.get("trained_on")
    data, said = data_of(meta), said if isinstance(said, Mapping) else {}
    sites = said.get("sites")
    counts = sites if isinstance(sites, Mapping) else {}
    number = {
        name: one for name in (PHANTOMS, PATIENTS, UNKNOWN) if isinstance(one := counts.get(name), int) and one > 0
    }
    parts = [f"{WORDS[name]} of {one} hospital{'s' if one > 1 else ''}" for name, one in number.items()]
    parts += ["data of other hospitals that this file does not know"] if said.get("others") is True else []
    if data == NOTHING:
        return "trained on nothing yet: the first weights of a job"
    if not parts:
        return SHOUT if is_synthetic(meta) else NOT_KNOWN
    told = f"trained on {' and '.join(parts)}"
    return f"{SHOUT} ({told})" if is_synthetic(meta) else told


WORDS = {PHANTOMS: "phantoms", PATIENTS: "patients", UNKNOWN: "data not told"}


def require_real(meta: Mapping[str, Any], file: object, allowed: bool, use: str) -> None:
    """Raise ModelRefused for a model of invented patients, unless that was asked for; use: what it would be used for."""
    if is_synthetic(meta) and not allowed:
        raise ModelRefused(
            f"the model {file}",
            found=words(meta),
            expected=f"a model of real patients for {use}",
            fix="train one with hospitals' data; or, to try out the program only, add --synthetic-model-ok",
        )
