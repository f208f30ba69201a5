"""Networks from scratch: of volumes in three dimensions, of B-scans in two."""

import pytest
import torch
from oct_judge.rivals.networks import Bscanwise, count, make_classifier

pytestmark = pytest.mark.slow  # MONAI takes 20 s to import


@pytest.mark.parametrize("name", ["monai_resnet10", "monai_densenet121"])
def test_of_one_bscan_a_network_has_two_dimensions(name):
    flat = make_classifier(name, 3, 0, bscans=1)
    deep = make_classifier(name, 3, 0, bscans=8)
    assert {one.ndim for one in flat.parameters()} <= {1, 2, 4}
    assert count(flat) < 0.7 * count(deep)
    assert flat(torch.zeros(2, 1, 1, 32, 64)).shape == (2, 3)


def test_a_network_of_bscans_averages_what_it_says_of_each():
    network = make_classifier("monai_resnet10_2d", 2, 0, bscans=4).eval()
    assert isinstance(network, Bscanwise)
    volume = torch.rand(1, 1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = network(volume)
        each = torch.cat([network(volume[:, :, [one]]) for one in range(4)])
        turned = network(volume.flip(2))
    assert each.std(dim=0).min() > 0
    torch.testing.assert_close(whole, each.mean(dim=0, keepdim=True))
    torch.testing.assert_close(whole, turned)
