import pytest
import torch

from wardround.tasks.covering import gaussian, slide, windows_of


@pytest.mark.parametrize("sides", [(8, 8, 8), (5, 6, 7), (20, 9, 8), (13, 17, 3), (37, 36, 41)])
@pytest.mark.parametrize("window", [(8, 8, 8), (16, 8, 4)])
@pytest.mark.parametrize(("overlap", "batch"), [(0.25, 4), (0.5, 3), (0.0, 1)])
def test_it_is_monais_sliding_window_bit_for_bit(sides, window, overlap, batch):
    from monai.inferers import sliding_window_inference

    volume = torch.randn(1, 4, *sides, generator=torch.Generator().manual_seed(0))
    network = torch.nn.Conv3d(4, 3, 3, padding=1)
    with torch.inference_mode():
        theirs = sliding_window_inference(volume, window, batch, network, overlap=overlap, mode="gaussian")
        ours = slide(volume, window, overlap, batch, network)
    assert torch.equal(ours, theirs)


def test_windows_cover_an_axis_and_the_last_one_ends_with_it():
    """32 voxels with an overlap of a quarter: steps of 24, and the third window is moved back to 70 - 32."""
    starts = [place[2].start for place in windows_of((32, 32, 70), (32, 32, 32), 0.25)]
    assert starts == [0, 24, 38]


def test_weights_are_a_gaussian_around_the_centre():
    """Next to the centre of 9 voxels, with a standard deviation of 9 / 8: exp(-1 / (2 (9 / 8)^2))."""
    weight = gaussian((9, 9, 9), torch.zeros(1))[0, 0]
    assert weight[4, 4, 4] == 1
    assert float(weight[4, 4, 5]) == pytest.approx(0.6737, abs=1e-4)
    assert float(weight.min()) == pytest.approx(1e-3)
