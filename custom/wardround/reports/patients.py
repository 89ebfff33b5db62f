"""One patient's scores in the words of a physician. They are for the hospital's own
page and never leave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from wardround.core.terminal import counted
from wardround.messages.allowed_names import regions_in
from wardround.reports.distances import one_in_words

Row = Mapping[str, float]
_CLASS = "p "


def patient_score(row: Row) -> float:
    """Return how well a model did on a patient: its Dice, or the probability that it
    gave the true class.
    """
    if "class" not in row:
        return float(row["dice_mean"])
    return float(row[_CLASS + _names(row)[int(row["class"])]])


def in_words(row: Row) -> dict[str, object]:
    """Return the cells for one patient by their headings.

    Segmentation has Dice, also of each region, the volumes predicted and of the expert
    in ml, and the distance in mm, or that a side is empty. Classification has what the
    expert and the model say, by name, and every probability.
    """
    if "class" in row:
        names = _names(row)
        said = max(names, key=lambda name: row[_CLASS + name])
        chances = {f"Probability of {name}": float(row[_CLASS + name]) for name in names}
        return {"Expert": names[int(row["class"])], "Model says": said, **chances}
    cells: dict[str, object] = {"Dice": float(row["dice_mean"])}
    for region in [one for one in regions_in(row) if f"dice_{one}" in row]:
        cells[f"Dice {region}"] = float(row[f"dice_{region}"])
        cells[f"{region}, ml: predicted / expert"] = f"{row[f'ml_{region}']:.1f} / {row[f'ml_expert_{region}']:.1f}"
        cells[f"{region} outline within"] = one_in_words(row, region)
    return cells


def summary(rows: Sequence[Row]) -> str:
    """Return one plain sentence on how the chosen model did on the test patients; ""
    where there is no patient.
    """
    if not rows:
        return ""
    who = f"On {counted(len(rows), 'patient')} that nobody trained on"
    if "class" in rows[0]:
        right = sum(in_words(row)["Expert"] == in_words(row)["Model says"] for row in rows)
        return f"{who}, the chosen model names the expert's class in {right} of {len(rows)}."
    scores = [patient_score(row) for row in rows]
    return (
        f"{who}, the outline of the chosen model overlaps the expert's by {fmean(scores):.0%} on average (Dice), and by "
        f"{min(scores):.0%} in the worst case."
    )


def _names(row: Row) -> list[str]:
    return [key.removeprefix(_CLASS) for key in row if key.startswith(_CLASS)]
