from __future__ import annotations

import torch

from wardround.tasks.inputs import network_input


def test_images_then_constant_presence_channels():
    images = torch.randn(2, 4, 3, 4, 5)
    present = torch.tensor([[True, True, False, True], [False, True, True, True]])
    result = network_input(images, present)
    assert result.shape == (2, 8, 3, 4, 5)
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(result[:, :4], images)
    assert torch.equal(result[:, 4:], present.float()[:, :, None, None, None].expand(2, 4, 3, 4, 5))


def test_one_presence_row_serves_all_windows():
    result = network_input(torch.zeros(3, 4, 2, 2, 2), torch.tensor([True, False, False, True]))
    assert result[:, 4:, 0, 0, 0].tolist() == [[1, 0, 0, 1]] * 3


def test_the_record_comes_last_and_is_constant():
    images, present, record = torch.randn(2, 4, 2, 3, 4), torch.ones(4), torch.tensor([[0.5, 1], [-2, 0]])
    result = network_input(images, present, record)
    assert torch.equal(result[:, :8], network_input(images, present))
    assert torch.equal(result[:, 8:], record[:, :, None, None, None].expand(2, 2, 2, 3, 4))
    assert torch.equal(network_input(images, present, record[1])[:, 8:, 0, 0, 0], record[1].expand(2, 2))
    assert torch.equal(network_input(images, present, record[:, :0]), network_input(images, present))
