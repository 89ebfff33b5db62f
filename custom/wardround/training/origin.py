"""What was a model trained on, according to its file?

A file says whose patients they were, whether they were invented and which regions they
taught. `trained_on` is {"data": one of phantoms, patients, mixed, unknown, nothing;
"sites": the number of hospitals of each kind}. A hospital's own file adds `"others":
true` if other hospitals contributed, whose data the file does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wardround.core.errors import ModelRefused

PHANTOMS = "phantoms"
PATIENTS = "patients"
MIXED = "mixed"
UNKNOWN = "unknown"
NOTHING = "nothing"
CLASSES = "classes"
# Every generated case has this prefix; a real one that has it counts as invented, which
# errs on the safe side.
PREFIX = "phantom-"
SHOUT = "TRAINED ON INVENTED PATIENTS (phantoms): nothing that this model says is about a real person"
# The same in what a header of NIfTI has room for (79 characters); a picture shows it too.
NOTICE = "MODEL TRAINED ON INVENTED PATIENTS: nothing here is about a real person"
NOT_KNOWN = "what this model was trained on is not known: its file does not say it"
_SAYS = (PHANTOMS, PATIENTS, MIXED, UNKNOWN, NOTHING)


def invented(cases: Iterable[str]) -> bool:
    """Return whether any case has the name of a phantom; one is enough."""
    return any(case.lower().startswith(PREFIX) for case in cases)


def of_sites(kinds: Iterable[bool | None], *, others: bool = False) -> dict[str, Any]:
    """Return `trained_on` for hospitals.

    kinds: For each hospital whether its patients are phantoms; None if it did not say.
    others: Whether more hospitals contributed, about which nothing is known here.
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
    return {
        "data": data,
        "sites": {name: counts[name] for name in known},
        **({"others": True} if others else {}),
    }


def of_rounds(num_rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `trained_on` of a shared model from its rounds.

    Counted are the hospitals whose updates were aggregated, with what they reported.
    """
    said: dict[str, bool | None] = {}
    for entry in num_rounds:
        facts = entry.get("facts", {})
        for site in entry.get("aggregated", facts):
            # A site that is silent in a later round keeps what it said earlier.
            told = facts.get(site, {}).get("phantoms")
            said[site] = told if isinstance(told, bool) else said.get(site)
    return of_sites(said.values())


def kind_of_rounds(
    num_rounds: Sequence[Mapping[str, Any]],
    kinds_of_task: Sequence[str],
) -> str | None:
    """Return the kind of labels that the hospitals of these rounds taught together.

    kinds_of_task: The task's kinds of masks, the most detailed first.

    None is returned if no hospital reported one.
    """
    kinds = {
        facts.get("label_kind")
        for entry in num_rounds
        for site, facts in entry.get("facts", {}).items()
        if site in entry.get("aggregated", entry["facts"])
    }
    return next((kind for kind in (CLASSES, *kinds_of_task) if kind in kinds), None)


def card_of_rounds(num_rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the card (`card_of_facts`) of a shared model.

    It is computed from what hospitals reported in the rounds in which they took part.
    """
    last: dict[str, Mapping[str, Any]] = {}
    for entry in num_rounds:
        facts = entry.get("facts", {})
        last |= {site: facts.get(site) or last.get(site, {}) for site in entry.get("aggregated", facts)}
    return card_of_facts(list(last.values())) | {"rounds": len(num_rounds)}


def card_of_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of what hospitals reported about their data.

    It holds nothing that did not leave them already. `patients` counts patients per
    split: a split is None where a hospital withheld its number because it is small, and
    all are None where a hospital reported none, as every hospital does under DP.
    `sequences` and `label_kinds` count the hospitals that have them.
    """
    cases = [one.get("cases") for one in facts]
    told = [one for one in cases if isinstance(one, Mapping)]
    return {
        "hospitals": len(facts),
        "patients": _added_up(told) if told and len(told) == len(facts) else None,
        "sequences": dict(Counter(name for one in facts for name, n in one.get("modalities", {}).items() if n)),
        "label_kinds": dict(
            Counter(str(one["label_kind"]) for one in facts if "label_kind" in one),
        ),
    }


def _added_up(cases: Sequence[Mapping[str, int | None]]) -> dict[str, int | None]:
    """Return the patients of all hospitals per split.

    A sum that lacks a withheld number would be false, so it is None.
    """
    splits: dict[str, int | None] = {}
    for part in ("train", "val", "test"):
        numbers = [one.get(part) for one in cases]
        known = [n for n in numbers if n is not None]
        splits[part] = sum(known) if len(known) == len(numbers) else None
    return splits


def data_of(meta: Mapping[str, Any]) -> str:
    """Return what a file says it was trained on; unknown if it makes no sense."""
    said = meta.get("trained_on")
    data = said.get("data") if isinstance(said, Mapping) else None
    return data if data in _SAYS else UNKNOWN


def is_synthetic(meta: Mapping[str, Any]) -> bool:
    """Return whether invented patients contributed to a model."""
    return data_of(meta) in (PHANTOMS, MIXED)


def notice(meta: Mapping[str, Any]) -> str:
    """Return NOTICE, which every output of a model of invented patients carries; "" for
    any other model.
    """
    return NOTICE if is_synthetic(meta) else ""


def words(meta: Mapping[str, Any]) -> str:
    """Return in one line, for people, what a model was trained on, and what it began from."""
    return f"{_words(meta)}{_began(meta)}"


def _began(meta: Mapping[str, Any]) -> str:
    """Return from which file of weights a model began; nothing where they were drawn."""
    model = meta.get("model")
    args = model.get("args") if isinstance(model, Mapping) else None
    given = args.get("weights") if isinstance(args, Mapping) else None
    if not isinstance(given, Mapping):
        return ""
    name = given.get("shipped")
    told = f"{name}, which were trained on synthetic patients only" if isinstance(name, str) else "a file of the job"
    return f"; it began from the weights of {told}"


def _words(meta: Mapping[str, Any]) -> str:
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


WORDS = {PHANTOMS: "phantoms", PATIENTS: "patients", UNKNOWN: "data not reported"}


def require_real(meta: Mapping[str, Any], file: object, allowed: bool, use: str) -> None:
    """Raise ModelRefused for a model of invented patients unless that is `allowed`.

    use: What the model would be used for, as the message says it.
    """
    if is_synthetic(meta) and not allowed:
        raise ModelRefused(
            f"the model {file}",
            found=words(meta),
            expected=f"a model of real patients for {use}",
            fix="train one with hospitals' data; or, to try out the program only, add --synthetic-model-ok",
        )
