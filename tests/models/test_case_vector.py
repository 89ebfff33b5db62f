from __future__ import annotations

from typing import Any

import pytest
import torch

from wardround.core.errors import ConfigRefused, DataRefused, ModelRefused
from wardround.models.case_vector import CaseVector

CASES = [CaseVector(2, (4, 6), 3), CaseVector(1, (3, 4, 5), 0), CaseVector(0, (4, 4), 2)]


def parts(case: CaseVector, count: int = 3) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    images = torch.randn(count, case.modalities, *case.size)
    return images, torch.ones(count, case.modalities), torch.randn(count, case.columns), torch.ones(count, case.columns)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_packed_comes_out(case: CaseVector) -> None:
    given = parts(case)
    flat = case.pack(*given)
    assert flat.shape == (3, case.length)
    for found, expected in zip(case.unpack(flat), given, strict=True):
        assert torch.equal(found, expected)


def test_the_order_and_the_length() -> None:
    case = CaseVector(1, (1, 2), 2)
    assert [one.length for one in CASES] == [2 * 24 + 2 + 6, 60 + 1, 4]
    flat = case.pack(torch.tensor([[[[1.0, 2]]]]), torch.tensor([[True]]), torch.tensor([[3.0, 4]]), torch.ones(1, 2))
    assert flat.tolist() == [[1, 2, 1, 3, 4, 1, 1]]
    assert flat.dtype == torch.float32


def test_what_is_absent_is_zero_whatever_stands_there() -> None:
    case = CASES[0]
    images, presence, values, known = parts(case)
    presence[1, 0] = known[2, 1] = 0
    images[1, 0], values[2, 1] = float("nan"), float("inf")
    found = case.unpack(case.pack(images, presence, values, known))
    spoiled = torch.cat([part.flatten(1) for part in (images, presence, values, known)], 1)
    for one, other in zip(found, case.unpack(spoiled), strict=True):
        assert torch.equal(one, other)
    assert not found.images[1, 0].any()
    assert found.values[2, 1] == 0
    assert torch.equal(found.images[1, 1], images[1, 1])


def test_nothing_at_all_is_refused_and_anything_is_enough() -> None:
    case = CASES[0]
    images, presence, values, known = parts(case)
    presence[0], known[0] = 0, 0
    with pytest.raises(DataRefused, match="1 of the 3 patients"):
        case.pack(images, presence, values, known)
    known[0, 2] = 1
    flat = case.pack(images, presence, values, known)
    flat[1, -6 - 2 :] = 0
    with pytest.raises(DataRefused, match="1 of the 3 patients"):
        case.unpack(flat)


def test_a_batch_of_nobody() -> None:
    assert CASES[0].unpack(CASES[0].pack(*parts(CASES[0], 0))).images.shape == (0, 2, 4, 6)


@pytest.mark.parametrize("which", range(4))
def test_parts_that_do_not_fit_are_refused(which: int) -> None:
    given = list(parts(CASES[0]))
    given[which] = given[which][:, :1]
    with pytest.raises(ModelRefused, match=("images", "presence", "values", "known")[which]):
        CASES[0].pack(*given)


@pytest.mark.parametrize("shape", [(3, 55), (3, 57), (56,), (1, 3, 56)])
def test_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelRefused, match="56"):
        CASES[0].unpack(torch.ones(shape))


@pytest.mark.parametrize(
    "changed",
    [
        {"modalities": -1},
        {"modalities": True},
        {"modalities": 1.0},
        {"columns": -1},
        {"columns": "2"},
        {"modalities": 0, "columns": 0},
        {"size": (4,)},
        {"size": (1, 2, 3, 4)},
        {"size": (4, 0)},
        {"size": (4, 4.0)},
        {"size": 16},
        {"size": None},
    ],
    ids=str,
)
def test_nonsense_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused):
        CaseVector(**{"modalities": 1, "size": (4, 4), "columns": 1, **changed})


def test_a_size_from_json_is_a_list() -> None:
    assert CaseVector(1, [4, 4], 0) == CaseVector(1, (4, 4), 0)  # type: ignore[arg-type]
