"""HD95 apart from its penalty: how near the outlines are where both exist, and how
often only one of them does.

The mean HD95 of BraTS counts 374 mm for a tumour that was missed or invented, so that
128 mm can mean "3 mm, and one of three missed". Beside it the report shows the mean
over the patients in whom expert and prediction both have the region, and the two
shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wardround.messages.allowed_names import regions_in


def apart(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return surface_mm_R, missed_R and invented_R, without intervals, for every region
    R that the rows know.

    rows: one mapping per patient, as tasks/metrics.py gives them. Rows without volumes
      give nothing.

    surface_mm is the mean over the patients in whom both sides have the region; without
    such a patient it is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for region in [one for one in regions_in(rows[0] if rows else ()) if f"ml_{one}" in rows[0]]:
        missed = [row[f"missed_{region}"] for row in rows]
        invented = [row[f"invented_{region}"] for row in rows]
        near = [row[f"hd95_mm_{region}"] for row in rows if both(row, region)]
        found |= {
            f"missed_{region}": _mean(missed),
            f"invented_{region}": _mean(invented),
        }
        found |= {f"surface_mm_{region}": _mean(near)} if near else {}
    return found


def both(row: Mapping[str, float], region: str) -> bool:
    """Return whether expert and prediction both have the region in every scan of the
    patient.
    """
    empty = row[f"missed_{region}"] + row[f"invented_{region}"]
    return empty == 0 and row[f"ml_{region}"] > 0 and row[f"ml_expert_{region}"] > 0


def in_words(test: Mapping[str, Any], region: str) -> str | None:
    """Return a text such as "7.5 mm in 2 of 3; missed in 1 of 3", or None where the
    test numbers do not say it.
    """
    missed = test.get(f"missed_{region}") or {}
    invented = test.get(f"invented_{region}") or {}
    near = test.get(f"surface_mm_{region}") or {}
    if missed.get("value") is None or invented.get("value") is None:
        return None
    cases = missed.get("cases")
    parts = [f"{near['value']:.1f} mm{_of(near.get('cases'), cases)}"] if near.get("value") is not None else []
    for word, at in (("missed", missed), ("invented", invented)):
        if at["value"]:
            parts.append(f"{word} in {_share(at['value'], cases)}")
    return "; ".join(parts) or "empty on both sides"


def one_in_words(row: Mapping[str, float], region: str) -> str:
    """Return the same for one patient: "7.5 mm", "missed", "invented", or "empty on
    both sides".
    """
    for word in ("missed", "invented"):
        if row[f"{word}_{region}"]:
            return word
    return f"{row[f'hd95_mm_{region}']:.1f} mm" if both(row, region) else "empty on both sides"


def _of(part: int | None, whole: int | None) -> str:
    return f" in {part} of {whole}" if part is not None and whole is not None and part != whole else ""


def _share(value: float, cases: int | None) -> str:
    if cases is None:
        return f"{value:.0%}"
    count = value * cases
    return f"{count:.0f} of {cases}" if abs(count - round(count)) < 0.2 else f"{value:.0%} of {cases}"


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {
        "value": sum(values) / len(values),
        "low": None,
        "high": None,
        "cases": len(values),
    }
