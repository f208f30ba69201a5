"""Linear maps by oneDNN: the numbers and gradients of PyTorch's own, where they are taken."""

import pytest
import torch
from oct_vjepa import Encoder
from oct_vjepa.model.linear import Linear, linear_by_onednn
from torch.nn import functional

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


def parts(rows, inside, out, *, bias=True):
    generator = torch.Generator().manual_seed(0)
    sides = [(*rows, inside), (out, inside), *([(out,)] if bias else [])]
    return [torch.randn(side, generator=generator).requires_grad_() for side in sides]


@pytest.mark.parametrize("rows", [(7,), (2, 33), (2, 3, 5)])
@pytest.mark.parametrize(("inside", "out"), [(24, 96), (96, 24), (48, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_gives_the_numbers_and_gradients_of_pytorch(rows, inside, out, bias):
    given = parts(rows, inside, out, bias=bias)
    x, weight, offset = given if bias else (*given, None)
    wanted = functional.linear(x, weight, offset)
    found = linear_by_onednn(x, weight, offset)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad(found, given, upstream),
        torch.autograd.grad(wanted, given, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_onednn_takes_views_that_are_not_contiguous():
    x, weight, bias = parts((6, 9), 24, 48)
    some = x.transpose(0, 1)[1:]
    wanted = functional.linear(some, weight, bias)
    torch.testing.assert_close(linear_by_onednn(some, weight, bias), wanted, rtol=1e-5, atol=1e-5)
    to_x, to_weight = torch.autograd.grad(linear_by_onednn(some, weight, bias).sum(), [x, weight])
    theirs = torch.autograd.grad(wanted.sum(), [x, weight])
    torch.testing.assert_close((to_x, to_weight), theirs, rtol=1e-5, atol=1e-4)


def test_frozen_weights_get_no_gradient_and_the_input_does():
    x, weight, bias = parts((3,), 24, 48)
    frozen = linear_by_onednn(x, weight.detach(), bias.detach())
    frozen.sum().backward()
    torch.testing.assert_close(x.grad, weight.detach().sum(0).expand(3, -1), rtol=1e-5, atol=1e-5)
    assert weight.grad is None


def test_autocast_and_bfloat16_are_left_to_pytorch():
    map_ = Linear(24, 48)
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert map_(x).dtype == torch.bfloat16
    assert map_.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_every_linear_map_of_an_encoder_is_one_of_these(small_config):
    linear = [part for part in Encoder(small_config).modules() if isinstance(part, torch.nn.Linear)]
    assert linear
    assert all(isinstance(part, Linear) for part in linear)
