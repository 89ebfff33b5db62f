"""How did a bundle's model come to be, as its card says?

The card names hospitals, patients, sequences, score, privacy and known limits. A bundle
is made to be given away, so it withholds small numbers: counts below FEWEST, and a
score over fewer validation patients, unless the patients were invented. The rest is
what the file of weights holds, which at the server is what left the hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround.reports.verdict import NAMES
from wardround.tasks.components import LARGEST, LEAST
from wardround.training import origin

# The limit below which numbers about patients are withheld everywhere else too.
FEWEST = 5
NOT_REPORTED = "not reported"
FEW = f"not reported (fewer than {FEWEST}, or so at a hospital)"
NOT_USABLE = "NOT USABLE YET: below the floor on its hospital's own test patients"
LIMITS = (
    "adults' brain MR as the hospitals above acquire it; other scanners, ages, treatments and diseases were not tried",
    "the score is of the patients that the model was chosen with: expect less for others",
    "a missing sequence makes masks worse, and how much was not measured here",
)


def for_others(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's meta without numbers about too few patients.

    Scores are rounded to two digits.
    """
    kept = dict(meta)
    kept["val_score"] = _score(meta)
    found = _card(meta)
    if found:
        kept["card"] = {**found, "patients": _patients(meta)}
    return kept


def told(name: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of metadata.json about data and score.

    name: What the score is called.
    """
    score, data = _score(meta), meta.get("trained_on")
    return {
        "eval_metrics": {} if score is None else {name: score},
        "trained_on": dict(data) if isinstance(data, Mapping) else {"data": origin.UNKNOWN},
        "training_data": _data(meta),
    }


def card(metric: str, meta: Mapping[str, Any]) -> str:
    """Return the model card as Markdown."""
    found = _card(meta)
    score = _score(meta)
    patients = _patients(meta)
    who = "phantoms (invented)" if origin.is_synthetic(meta) else "patients"
    counts = ", ".join(f"{name} {FEW if n is None else n}" for name, n in (patients or {}).items())
    n = (patients or {}).get("val")
    shown = NOT_REPORTED if score is None else f"{score:.2f}" + (f" (n = {n})" if n is not None else "")
    mixed, filtered = mixed_words(meta), [str(one) for one in meta.get(LARGEST) or []]
    least = ", ".join(f"{name} {limit:.0f} mm^3" for name, limit in (meta.get(LEAST) or {}).items())
    rows = (
        *((("made of", mixed),) if mixed else ()),
        ("trained on", origin.words(meta)),
        ("hospitals", found.get("hospitals", NOT_REPORTED)),
        (f"{who} per split", counts or NOT_REPORTED),
        ("sequences (hospitals that have them)", _pairs(found.get("sequences"))),
        ("kinds of labels (hospitals)", _pairs(found.get("label_kinds"))),
        (f"{metric} on validation {who}, which the choice was made by", shown),
        ("rounds", found.get("rounds", meta.get("round", NOT_REPORTED))),
        ("privacy of the training", _privacy(meta)),
        *((("regions of which the largest part alone is kept", ", ".join(filtered)),) if filtered else ()),
        *((("regions that are dropped where they are smaller", least),) if least else ()),
        *((("verdict", NOT_USABLE),) if meta.get("usable") is False else ()),
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    limits = "\n".join(f"- {one}" for one in LIMITS)
    return f"""## Model card

| | |
|---|---|
{table}

Known limits:

{limits}
"""


def mixed_words(meta: Mapping[str, Any]) -> str:
    """Return how a blend or an interpolated model was made, "" for any other model.

    Its file says it; what makes no sense there is not reported.
    """
    said, name = meta.get("mixed"), meta.get("candidate")
    share = said.get("share") if isinstance(said, Mapping) else None
    if not isinstance(said, Mapping) or not isinstance(share, int | float) or not 0 < share < 1:
        return ""
    of = NAMES.get(str(said.get("of")), "shared")
    if name == "blend":
        steps = said.get("k")
        tuned = f" after {steps} fine-tuning steps" if isinstance(steps, int) and steps else ""
        return (
            f"the mean of two networks' probabilities: {share:.0%} of the hospital's own local model, {1 - share:.0%} of the "
            f"{of} model{tuned}"
        )
    if name == "interpolated":
        return f"one network with weights between two: {1 - share:.0%} of the {of} model, {share:.0%} of it fine-tuned"
    return ""


def _card(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    found = meta.get("card")
    return found if isinstance(found, Mapping) else {}


def _patients(meta: Mapping[str, Any]) -> dict[str, int | None] | None:
    """Return patients per split, None if they are not known.

    A number that is too small to be given away is None.
    """
    counts = _card(meta).get("patients")
    if not isinstance(counts, Mapping):
        return None
    least = 0 if origin.data_of(meta) == origin.PHANTOMS else FEWEST
    return {str(name): n if isinstance(n, int) and n >= least else None for name, n in counts.items()}


def _score(meta: Mapping[str, Any]) -> float | None:
    """Return the validation score to two digits.

    It is None over too few patients, and if their number was withheld.
    """
    score, patients = meta.get("val_score"), _patients(meta)
    if not isinstance(score, int | float) or isinstance(score, bool):
        return None
    few = patients is not None and patients.get("val") is None
    return None if few else round(float(score), 2)


def _data(meta: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in _card(meta).items() if key != "patients"}
    return {**kept, "patients": _patients(meta), "privacy": _privacy(meta)}


def _pairs(counts: object) -> str:
    if not isinstance(counts, Mapping) or not counts:
        return NOT_REPORTED
    return ", ".join(f"{name} ({n})" for name, n in counts.items())


def _privacy(meta: Mapping[str, Any]) -> str:
    """Return in words which noise the job's settings promised.

    The ledger of each hospital says what was spent.
    """
    settings = meta.get("settings")
    if not isinstance(settings, Mapping):
        return NOT_REPORTED
    found = {str(key): value for key, value in settings.items() if str(key).startswith(("dp", "private"))}
    if not found:
        return "no differential privacy: the weights are not protected by noise"
    return "differential privacy: " + ", ".join(f"{key} {value}" for key, value in found.items())
