"""What do a job's card and its report say of the weights that training begins from?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def words(model: Mapping[str, Any]) -> str:
    """Return in sentences from which weights a job's network begins and what they were
    trained on; nothing where they are drawn.
    """
    given = model["args"].get("weights")
    if not isinstance(given, Mapping):
        return ""
    # Imported here: a job without weights is printed without torch.
    from wardround.models import shipped
    from wardround.models.warm_start import source

    said = f"the weights of {source(given)}. Every party compares its own file with this digest before it trains."
    if "shipped" not in given:
        return said
    about = shipped.card(given["shipped"])
    score = f"mean Dice on held-out phantoms {about['held_out_dice']['dice_mean']:.2f}"
    return f"{said} {about['what']} Made by `{about['command']}`; {score}."
