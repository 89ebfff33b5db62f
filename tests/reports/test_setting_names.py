from typing import Any

import pytest

from wardround.reports.setting_names import value_words, words_of


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sampling.patch", [32, 32, 16], "32 x 32 x 16"),
        ("model_selection.steps", [0, 5], "0, 5"),
        ("model_selection.blend", [], "none"),
        ("fedavg_baseline", True, "yes"),
        ("secagg.masks", False, "no"),
        ("dp.delta", 1e-5, "1e-05"),
        ("clip_norm", 10.0, "10"),
        ("dp.max_update_norm", 0.003712, "0.003712"),
        ("model_selection.rule", "one_standard_error", "one standard error"),
        ("model.name", "vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("task.augmentation", "", "none"),
        ("sharing_class", "wardround.algorithms.sharing.Everything", "Everything"),
        ("algorithm_class", "mine.algorithms.HalfWay", "mine.algorithms.HalfWay"),
        ("names", ["dice_ET", "t1"], "dice_ET, t1"),
    ],
)
def test_values_are_words(name: str, value: Any, words: str) -> None:
    assert value_words(name, value) == words


def test_every_setting_has_words() -> None:
    assert words_of("num_rounds") == "rounds"
    assert words_of("algorithm.home_share") == "algorithm: home share"
