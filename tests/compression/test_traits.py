"""What goes with what: computed from the traits, each culprit named."""

from dataclasses import dataclass

import pytest

from wardround.compression.half import Half
from wardround.compression.low_rank import LowRank
from wardround.compression.quantise import Quantise
from wardround.compression.rand_k import RandK
from wardround.compression.top_k import TopK
from wardround.core.errors import ConfigRefused
from wardround.core.traits import ADDITIVE, BOUNDED, FIXED_LAYOUT, READABLE, Traits, require_fit

SECURE = frozenset({ADDITIVE, FIXED_LAYOUT})


@dataclass(frozen=True)
class Needs:
    """An aggregation or a stage of which only the traits matter."""

    traits: Traits
    name: str = "the next part"


@pytest.fixture(params=["half", "quantise", "top_k", "rand_k", "low_rank"])
def stage(request, blocks):
    return {
        "half": Half(blocks),
        "quantise": Quantise(8, 256, 0, blocks, "alpha"),
        "top_k": TopK(0.1, blocks, "alpha"),
        "rand_k": RandK(8, 0, blocks),
        "low_rank": LowRank(2, 0, blocks),
    }[request.param]


def test_every_compression_goes_with_a_readable_aggregation(stage):
    require_fit([stage], Needs(Traits(needs=frozenset({READABLE}))))


def test_only_linear_ones_pass_through_a_secure_sum(stage):
    secure = Needs(Traits(needs=SECURE))
    if stage.name in ("rand_k", "low_rank"):
        require_fit([stage], secure)
    else:
        with pytest.raises(ConfigRefused, match=f"since {stage.name}"):
            require_fit([stage], secure)


def test_no_compression_after_a_mask_that_nobody_reads_through(stage):
    mask = Needs(Traits(breaks=frozenset({READABLE, ADDITIVE})), "a mask")
    with pytest.raises(ConfigRefused, match="since a mask"):
        require_fit([mask, stage], Needs(Traits()))


def test_error_feedback_ends_a_bound_on_the_norm(stage):
    clip = Needs(Traits(gives=frozenset({BOUNDED})), "clip")
    noise = Needs(Traits(needs=frozenset({BOUNDED})), "noise")
    require_fit([clip, noise, stage], Needs(Traits()))
    with pytest.raises(ConfigRefused, match=f"since {stage.name}"):
        require_fit([clip, stage, noise], Needs(Traits()))
