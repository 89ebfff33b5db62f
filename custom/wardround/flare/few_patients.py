"""Few patients: which statistics leave a site, and how far they are rounded. A
statistic of few patients would tell their own values, so it stays at the site.

| number                                   | below `least` patients   | `least` or more |
|------------------------------------------|--------------------------|-----------------|
| validation score, training loss          | null                     | two digits      |
| a candidate's scores, intervals and gain | {}: it was scored        | two digits      |
| which model to deploy, the floor         | as it is                 | as it is        |
| patients of a part (train, val, test)    | null                     | as it is        |
| patients by class (if ANY class has few) | all classes are left out | as they are     |
| scans by sequence                        | 1 for a scan, 0 for none | as they are     |
| seconds                                  | two digits               | two digits      |

Seconds are of the machine, and grow with the number of patients that it scores. Where a
job hides that number they do not leave at all (Outbound.withholds_training_time).

Why `least` is 5: the mean and the two ends of a bootstrap interval are three equations.
With two patients the ends ARE the two scores, with three the third score follows, and
with four one number is free. From five patients on two are free, and rounding widens
that further.

Synthetic patients are exempt, because no person stands behind them. The site itself
says so, from its own folder; a job cannot. `least` is the hospital's own
("fewest_patients" in its local/wardround.json). Numbers for which nobody counted
patients count as numbers of no patient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.core import files
from wardround.flare import plaintext_messages, workspaces
from wardround.messages.allowed_names import LEAST_PATIENTS

FILE = "patients.json"
PARTS = ("train", "val", "test")
OVER = {"loss": "train", "val_score": "val"}


@dataclass(frozen=True)
class Patients:
    """What a site knows of its own data.

    train: the number of training patients.
    val: the number of validation patients.
    test: the number of test patients.
    least: from how many patients on a statistic may leave.
    synthetic: whether the patients are synthetic.
    counted: False where the site wrote nothing down, so that an interval's own count is
        all there is.
    """

    train: int = 0
    val: int = 0
    test: int = 0
    least: int = LEAST_PATIENTS
    synthetic: bool = False
    counted: bool = True

    def tells(self, count: int) -> bool:
        """Return whether a statistic of so many patients may leave."""
        return self.synthetic or count >= self.least


def keep(fl_ctx: FLContext, patients: Patients) -> None:
    """Write down what the site knows: its filter and its policy see messages only."""
    files.write(workspaces.state_folder(fl_ctx) / FILE, json.dumps(asdict(patients)), private=True, durable=True)


def known(fl_ctx: FLContext, facts: Mapping[str, Any] | None = None) -> Patients:
    """Return what `keep` wrote.

    Where nothing was written, the counts that the message states are used; where it
    states none, there is no patient at all. A message alone does not make patients
    synthetic: only what the site itself wrote down does.
    """
    path = workspaces.state_folder(fl_ctx) / FILE
    if path.is_file():
        return Patients(**json.loads(path.read_text(encoding="utf-8")))
    said = (facts or {}).get("cases") or {}
    train, val, test = (int(said.get(part) or 0) for part in PARTS)
    return Patients(train, val, test, counted=False)


def two_digits(value: float) -> float:
    """Return the value with two digits: 0.8371 is 0.84, 12.37 is 12, 128.4 is 130.

    Values below 1 keep two digits after the point.
    """
    places_ = 2 if abs(value) < 1 else 1 - math.floor(math.log10(abs(value)))
    # Adding 0.0 turns -0.0 into 0.0, so that equal values have one spelling.
    return round(float(value), min(2, places_)) + 0.0


def update(given: plaintext_messages.Update, patients: Patients) -> plaintext_messages.Update:
    """Return the update with only those numbers and facts that may leave."""
    return replace(given, numbers=numbers(given.numbers, patients), facts=facts(given.facts, patients))


def numbers(given: Mapping[str, float | None], patients: Patients) -> dict[str, float | None]:
    """Return the numbers of a round that may leave."""
    told = dict(given)
    for name, part in OVER.items():
        if told.get(name) is not None:
            told[name] = _value(told[name], getattr(patients, part), patients)
    return _with_rough_seconds(told, patients)


def facts(given: Mapping[str, Any], patients: Patients) -> dict[str, Any]:
    """Return the facts that may leave. Small counts of patients are left out."""
    if patients.synthetic:
        return dict(given)
    told = dict(given)
    if told.get("cases") is not None:
        told["cases"] = {
            part: n if n is not None and n >= patients.least else None for part, n in told["cases"].items()
        }
    if any(0 < n < patients.least for n in (told.get("classes") or {}).values()):
        told.pop("classes")
    if not patients.tells(patients.train + patients.val + patients.test):
        told["modalities"] = {name: min(1, n) for name, n in told["modalities"].items()}
    return told


def scores(given: Mapping[str, Any], patients: Patients) -> dict[str, Any]:
    """Return the scores that may leave."""
    told = {**given, "candidates": {name: _candidate(one, patients) for name, one in given["candidates"].items()}}
    if told.get("val_score") is not None:
        told["val_score"] = _value(told["val_score"], patients.val, patients)
    return _with_rough_seconds(told, patients)


def _with_rough_seconds(told: dict[str, Any], patients: Patients) -> dict[str, Any]:
    """Return numbers with seconds of two digits. Those of synthetic patients stay as
    they are.
    """
    if told.get("seconds") is None or patients.synthetic:
        return told
    return told | {"seconds": two_digits(told["seconds"])}


def _candidate(given: Mapping[str, Any] | None, patients: Patients) -> dict[str, Any]:
    if patients.synthetic:
        return dict(given or {})
    told = {"k": (given or {}).get("k"), "val": _value((given or {}).get("val"), patients.val, patients)}
    test = {key: _interval(one, patients) for key, one in ((given or {}).get("test") or {}).items()}
    told |= {
        "test": {key: one for key, one in test.items() if one},
        "gain": _interval((given or {}).get("gain"), patients),
    }
    tells = told["val"] is not None or told["test"] or told["gain"]
    return told if tells else {}


def _interval(given: Mapping[str, Any] | None, patients: Patients) -> dict[str, Any] | None:
    """Return an interval of enough patients, rounded, or None.

    The message's own count can only lower the number of patients that is used.
    """
    if not given:
        return None
    said = given.get("cases")
    count = min(n for n in (said, patients.test if patients.counted or said is None else said) if n is not None)
    if not patients.tells(count):
        return None
    ends = {key: given.get(key) for key in ("value", "low", "high")}
    told: dict[str, Any] = {key: None if end is None else two_digits(end) for key, end in ends.items()}
    return told | ({"cases": said} if "cases" in given else {})


def _value(given: float | None, count: int, patients: Patients) -> float | None:
    """Return a number of enough patients, rounded; otherwise return None.

    A number of synthetic patients is not rounded.
    """
    if given is None or not patients.tells(count):
        return None
    return float(given) if patients.synthetic else two_digits(given)
