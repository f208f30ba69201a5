"""Colours of tokens."""

import pytest
import torch
from oct_vjepa.maps import principal_colours


def test_equal_tokens_get_equal_colours_and_unlike_ones_do_not():
    kinds = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    noise = 0.01 * torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    colours = principal_colours(kinds[torch.arange(40) % 2] + noise)
    assert colours.min() >= 0
    assert colours.max() <= 1
    first, second = colours[::2, 0], colours[1::2, 0]
    assert (first.mean() - second.mean()).abs() > 0.8
    assert first.std() < 0.1


def test_the_picture_does_not_depend_on_the_sign_that_the_decomposition_happens_to_choose():
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(principal_colours(tokens)[order], principal_colours(tokens[order]))


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        principal_colours(torch.zeros(2, 8))
