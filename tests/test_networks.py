"""Networks from scratch: of volumes in three dimensions, of B-scans in two."""

import pytest
import torch
from oct_judge.rivals.networks import Bscanwise, check_network, count, make_classifier
from oct_launch import Mistake

pytestmark = pytest.mark.slow  # MONAI takes 20 s to import


@pytest.mark.parametrize("name", ["monai_resnet10", "monai_densenet121"])
def test_of_one_bscan_a_network_has_two_dimensions(name):
    flat = make_classifier(name, 3, 0, shape=(1, 32, 64))
    deep = make_classifier(name, 3, 0, shape=(8, 32, 64))
    assert {one.ndim for one in flat.parameters()} <= {1, 2, 4}
    assert count(flat) < 0.7 * count(deep)
    assert flat(torch.zeros(2, 1, 1, 32, 64)).shape == (2, 3)


def test_a_network_of_bscans_averages_what_it_says_of_each():
    network = make_classifier("monai_resnet10_2d", 2, 0, shape=(4, 32, 32)).eval()
    assert isinstance(network, Bscanwise)
    volume = torch.rand(1, 1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = network(volume)
        each = torch.cat([network(volume[:, :, [one]]) for one in range(4)])
        turned = network(volume.flip(2))
    assert each.std(dim=0).min() > 0
    torch.testing.assert_close(whole, each.mean(dim=0, keepdim=True))
    torch.testing.assert_close(whole, turned)


def test_a_network_of_timm_takes_the_window_or_says_why_not():
    pytest.importorskip("timm", reason="timm and torch-xla cannot be locked together")
    for name in ("timm_resnet18", "timm_vit_tiny_patch16_224"):
        check_network(name, (2, 32, 64))
        network = make_classifier(name, 3, 0, shape=(2, 32, 64)).eval()
        assert isinstance(network, Bscanwise)
        assert network(torch.zeros(2, 1, 2, 32, 64)).shape == (2, 3)
    first, again, other = (
        next(make_classifier("timm_resnet18", 3, seed, shape=(1, 32, 64)).parameters())
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for name, shape, said in (
        ("timm_resnet19", (1, 32, 64), "resnet19"),
        ("timm_vit_tiny_patch16_224", (1, 8, 64), ""),
    ):
        with pytest.raises(Mistake, match=rf"compare\.networks \({name}\): .*{said}"):
            check_network(name, shape)
