"""A round that a server asks twice: the second answer is the first, bit for bit, and the ledger is charged once."""

from dataclasses import replace

import numpy as np
import pytest

from wardround.flare import outbox

WEIGHTS = {"model:w": np.zeros((2, 3), np.float32)}


def test_what_was_released_is_the_answer_to_the_same_question(tmp_path, update):
    given = update()
    assert outbox.expect(tmp_path, 1, WEIGHTS) is None
    outbox.keep(tmp_path, given)
    again = outbox.expect(tmp_path, 1, WEIGHTS)
    np.testing.assert_array_equal(again.delta["model:w"], given.delta["model:w"])
    assert (again.weight, again.numbers, again.facts) == (given.weight, given.numbers, given.facts)
    assert outbox.is_released(tmp_path, again)


def test_another_round_or_another_model_is_another_question(tmp_path, update):
    outbox.expect(tmp_path, 1, WEIGHTS)
    outbox.keep(tmp_path, update())
    other = {"model:w": np.ones((2, 3), np.float32)}
    for round_, weights in ((2, WEIGHTS), (1, other)):
        assert outbox.expect(tmp_path, round_, weights) is None
        assert not outbox.is_released(tmp_path, update())


@pytest.mark.parametrize("what", ["a block", "the weight", "a number", "a fact"])
def test_anything_that_differs_is_a_release_of_its_own(tmp_path, update, what):
    given = update()
    outbox.expect(tmp_path, 1, WEIGHTS)
    outbox.keep(tmp_path, given)
    changed = {
        "a block": replace(given, delta={"model:w": given.delta["model:w"] * np.float32(1.0001)}),
        "the weight": replace(given, weight=4.0),
        "a number": replace(given, numbers={**given.numbers, "val_score": 0.26}),
        "a fact": update(device="cuda"),
    }[what]
    assert outbox.is_released(tmp_path, given)
    assert not outbox.is_released(tmp_path, changed)


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_what_cannot_be_read_was_never_released(tmp_path, update, damage):
    outbox.expect(tmp_path, 1, WEIGHTS)
    outbox.keep(tmp_path, update())
    path = tmp_path / outbox.RELEASED
    path.unlink() if damage == "absent" else path.write_bytes(path.read_bytes()[:-30])
    assert outbox.expect(tmp_path, 1, WEIGHTS) is None
    assert not outbox.is_released(tmp_path, update())


def test_what_was_released_without_a_question_is_no_answer(tmp_path, update):
    outbox.keep(tmp_path, update())
    assert not outbox.is_released(tmp_path, update())
