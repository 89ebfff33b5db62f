"""A round that a server asks twice: the second answer is the first, bit for bit, and the ledger is charged once."""

from dataclasses import replace

import numpy as np
import pytest

from wardround.flare import resend_cache
from wardround.flare.outbound import Asked

ASKED = Asked(1, "aa" * 32, 1)


def test_what_was_released_is_the_answer_to_the_same_question(tmp_path, update):
    given = update()
    assert resend_cache.answer(tmp_path, ASKED) is None
    resend_cache.keep(tmp_path, ASKED, given)
    again = resend_cache.answer(tmp_path, ASKED)
    np.testing.assert_array_equal(again.delta["model:w"], given.delta["model:w"])
    assert (again.weight, again.numbers, again.facts) == (given.weight, given.numbers, given.facts)
    assert resend_cache.is_released(tmp_path, ASKED, again)


def test_another_round_or_another_model_is_another_question(tmp_path, update):
    resend_cache.keep(tmp_path, ASKED, update())
    for other in (Asked(2, ASKED.model, 2), Asked(1, "bb" * 32, 1)):
        assert resend_cache.answer(tmp_path, other) is None
        assert not resend_cache.is_released(tmp_path, other, update())


@pytest.mark.parametrize("what", ["a block", "the weight", "a number", "a fact"])
def test_anything_that_differs_is_a_release_of_its_own(tmp_path, update, what):
    given = update()
    resend_cache.keep(tmp_path, ASKED, given)
    changed = {
        "a block": replace(given, delta={"model:w": given.delta["model:w"] * np.float32(1.0001)}),
        "the weight": replace(given, weight=4.0),
        "a number": replace(given, numbers={**given.numbers, "val_score": 0.26}),
        "a fact": update(device="cuda"),
    }[what]
    assert resend_cache.is_released(tmp_path, ASKED, given)
    assert not resend_cache.is_released(tmp_path, ASKED, changed)


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_what_cannot_be_read_was_never_released(tmp_path, update, damage):
    resend_cache.keep(tmp_path, ASKED, update())
    path = tmp_path / resend_cache.RELEASED
    path.unlink() if damage == "absent" else path.write_bytes(path.read_bytes()[:-30])
    assert resend_cache.answer(tmp_path, ASKED) is None
    assert not resend_cache.is_released(tmp_path, ASKED, update())


def test_how_the_round_before_counted_is_no_part_of_the_question(tmp_path, update):
    """A server that restarts may no longer know who missed a round; the weights that it sends are what is asked."""
    resend_cache.keep(tmp_path, ASKED, update())
    assert resend_cache.is_released(tmp_path, Asked(ASKED.round, ASKED.model, since=0), update())
