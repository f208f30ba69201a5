"""The encoder family: sizes, positions of every kind, spacing, layers out, and less memory."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from oct_vjepa import (
    Encoder,
    EncoderConfig,
    Jepa,
    JepaConfig,
    Masks,
    Predictor,
    PredictorConfig,
    encoder_config,
)
from oct_vjepa.model.absolute import resize_table, sincos_table
from oct_vjepa.model.attention import attend, fits_flash
from oct_vjepa.model.blocks import Block
from oct_vjepa.model.positions import Placement, patch_positions

CPU = torch.device("cpu")


def random_encoder(config, seed=0):
    """An encoder in which every bias and norm is random too."""
    torch.manual_seed(seed)
    encoder = Encoder(config)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return encoder.eval()


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "hidden", "millions"),
    [
        ("tiny", 192, 12, 3, 768, 5.5),
        ("small", 384, 12, 6, 1536, 21.7),
        ("base", 768, 12, 12, 3072, 85.8),
        ("large", 1024, 24, 16, 4096, 303.4),
        ("huge", 1280, 32, 16, 5120, 631.0),
        ("giant", 1408, 40, 22, 6144, 1011.4),
    ],
)
def test_a_named_size_has_the_shape_of_v_jepa_2(name, width, depth, heads, hidden, millions):
    with torch.device("meta"):
        encoder = Encoder(encoder_config(name, patch_size=(4, 16, 16), input_shape=(64, 384, 384)))
    assert (encoder.config.width, encoder.config.depth, encoder.config.heads) == (
        width, depth, heads,
    )  # fmt: skip
    assert encoder.blocks[-1].mlp.fc1.out_features == hidden
    block = 4 * width**2 + 2 * width * hidden + 9 * width + hidden
    wanted = depth * block + width * (4 * 16 * 16 + 1) + 2 * width
    parameters = sum(weight.numel() for weight in encoder.parameters())
    assert parameters == wanted
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1)


def test_length_positions_equal_index_positions_at_the_reference_spacing_to_the_last_bit():
    scale = (0.1, 0.0039, 0.0117)
    length = Placement("length", scale)
    spacing = torch.tensor([scale])
    ids = torch.tensor([[3, 1, 59, 20]])
    for some in (None, ids):
        wanted = patch_positions(Placement(), (4, 5, 3), some, CPU)
        assert torch.equal(patch_positions(length, (4, 5, 3), some, CPU, spacing), wanted)


@torch.no_grad()
def test_an_encoder_in_lengths_equals_one_in_index_at_the_reference_spacing(small_config, volume):
    index = random_encoder(small_config)
    length = Encoder(
        replace(small_config, position_unit="length", position_scale=(0.1, 0.0039, 0.0117))
    )
    length.load_state_dict(index.state_dict())
    spacing = torch.tensor([[0.1, 0.0039, 0.0117]]).expand(4, -1)
    ids = torch.tensor([[3, 7, 11]]).expand(4, -1)
    assert torch.equal(length(volume, spacing_B3=spacing), index(volume))
    assert torch.equal(length(volume, ids, spacing_B3=spacing), index(volume, ids))
    far = length(volume, spacing_B3=spacing * torch.tensor([3.0, 1.0, 1.0]))
    assert (far - index(volume)).abs().max() > 1e-4


def test_two_samplings_of_one_volume_place_the_same_point_at_the_same_position():
    placement, coarse_mm = Placement("length", (0.12, 0.004, 0.012)), (0.12, 0.004, 0.012)
    coarse = patch_positions(placement, (4, 3, 2), None, CPU, torch.tensor([coarse_mm]))
    fine_mm = torch.tensor([coarse_mm]) / 3  # three patches in the place of one, along each axis
    fine = patch_positions(placement, (12, 9, 6), None, CPU, fine_mm)
    fine = fine.reshape(12, 9, 6, 3)
    torch.testing.assert_close(fine[1::3, 1::3, 1::3].reshape(1, -1, 3), coarse, rtol=0, atol=1e-5)
    children = fine.reshape(4, 3, 3, 3, 2, 3, 3).mean(dim=(1, 3, 5)).reshape(1, -1, 3)
    torch.testing.assert_close(children, coarse, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("form", ["vjepa2", "interleaved"])
def test_a_scan_with_three_times_the_slices_gives_the_same_tokens_in_lengths_only(form):
    config = EncoderConfig(
        input_shape=(4, 8, 16), patch_size=(1, 4, 8), width=48, depth=3, heads=2, rotary=form,
        position_unit="length", position_scale=(0.3, 0.01, 0.02),
    )  # fmt: skip
    encoder = random_encoder(config)
    few = torch.randn(2, 1, 4, 8, 16, generator=torch.Generator().manual_seed(1))
    many = few.repeat_interleave(3, dim=2)  # the same object, sampled three times as often
    plane = 2 * 2
    middle = torch.cat([torch.arange(plane) + plane * (3 * z + 1) for z in range(4)]).expand(2, -1)
    spacing = torch.tensor([[0.3, 0.01, 0.02]]).expand(2, -1)
    finer = spacing / torch.tensor([3.0, 1.0, 1.0])
    wanted = encoder(few, spacing_B3=spacing)
    assert (encoder(many, middle, spacing_B3=finer) - wanted).abs().max() < 1e-5
    index = random_encoder(replace(config, position_unit="index"))
    assert (index(many, middle) - index(few)).abs().max() > 1e-2


@torch.no_grad()
def test_the_predictor_reads_the_spacing_as_the_encoder_does(small_config):
    config = replace(small_config, position_unit="length", position_scale=(1.0, 1.0, 1.0))
    torch.manual_seed(0)
    predictor = Predictor(PredictorConfig(width=24, depth=2, heads=2), config, mask_tokens=1)
    masks = Masks(torch.tensor([[0, 5, 9]]), torch.tensor([[1, 20]]))
    context = torch.randn(1, 3, 48, generator=torch.Generator().manual_seed(0))
    near = predictor(context, masks, 0, torch.ones(1, 3))
    assert not torch.equal(predictor(context, masks, 0, torch.full((1, 3), 2.0)), near)
    plain = Predictor(PredictorConfig(width=24, depth=2, heads=2), small_config, mask_tokens=1)
    plain.load_state_dict(predictor.state_dict())
    assert torch.equal(plain(context, masks, 0), near)


def test_lengths_without_a_spacing_are_refused(small_config, volume):
    encoder = Encoder(replace(small_config, position_unit="length"))
    with pytest.raises(
        ValueError, match=r"position_unit is \"length\": spacing_B3 must be \(B, 3\)"
    ):
        encoder(volume)


def test_span_stretches_rows_and_columns_but_not_slices():
    positions = patch_positions(Placement("span", span=16), (3, 4, 31), None, CPU)
    assert positions.amax(dim=(0, 1)).tolist() == [2.0, 15.0, 15.0]
    square = patch_positions(Placement("span", span=16), (3, 16, 16), None, CPU)
    assert torch.equal(square, patch_positions(Placement(), (3, 16, 16), None, CPU))


def test_sincos_positions_are_half_slices_a_quarter_rows_a_quarter_columns():
    grid, width = (2, 3, 5), 32
    table = sincos_table(grid, width)
    wanted = np.zeros((30, width))
    for row, (z, y, x) in enumerate(np.ndindex(*grid)):
        parts = []
        for place, size in ((z, 16), (y, 8), (x, 8)):
            angle = [place / 10000 ** (k / (size / 2)) for k in range(size // 2)]
            parts += [math.sin(one) for one in angle] + [math.cos(one) for one in angle]
        wanted[row] = parts
    np.testing.assert_allclose(table.numpy(), wanted, rtol=0, atol=1e-6)


def test_a_table_is_resized_along_all_three_axes():
    z, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in (4, 6, 8)), indexing="ij")
    table = torch.stack([z, y, x], dim=-1).flatten(0, 2)
    resized = resize_table(table, (4, 6, 8), (8, 3, 16)).reshape(8, 3, 16, 3)
    inside = resized[1:-1, :, 1:-1]  # a linear table stays linear away from the edges
    for axis, size in ((0, 4 / 8), (2, 8 / 16)):
        steps = inside[..., axis].diff(dim=axis)
        torch.testing.assert_close(steps, torch.full_like(steps, size), rtol=0, atol=1e-5)
    torch.testing.assert_close(resized[2, :, 3, 1], torch.tensor([0.5, 2.5, 4.5]))
    with pytest.raises(ValueError, match=r"192 rows does not belong to a grid of \(4, 6, 7\)"):
        resize_table(table, (4, 6, 7), (8, 3, 16))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["learned", "sincos"])
def test_tables_are_added_gathered_resized_and_saved(kind, small_config, volume, tmp_path):
    encoder = random_encoder(replace(small_config, positions=kind))
    ids = torch.tensor([[3, 7, 11]]).expand(4, -1)
    everything = torch.arange(24).expand(4, -1)
    torch.testing.assert_close(encoder(volume, everything), encoder(volume), rtol=0, atol=1e-6)
    assert encoder(volume, ids).shape == (4, 3, 48)
    assert encoder(torch.zeros(1, 1, 6, 8, 40)).shape == (1, 3 * 2 * 5, 48)
    flat = encoder(torch.full((1, 1, 4, 16, 24), 100.0))
    assert flat[0].std(dim=0).max() > 1e-3  # equal patches differ by their place alone
    encoder.save_pretrained(tmp_path / "encoder")
    assert torch.equal(Encoder.from_pretrained(tmp_path / "encoder")(volume), encoder(volume))
    assert ("positions.table" in encoder.state_dict()) == (kind == "learned")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"positions": "alibi"}, r"encoder\.positions \('alibi'\) must be one of"),
        ({"position_unit": "mm"}, r"encoder\.position_unit \('mm'\) must be one of"),
        ({"position_unit": "length", "positions": "learned"}, r"needs encoder\.positions 'rotary'"),
        ({"position_scale": (1.0, 0.0, 1.0)}, r"encoder\.position_scale .* must be positive"),
        ({"position_span": 1}, r"encoder\.position_span \(1\) must be at least 2"),
        ({"positions": "sincos", "width": 36}, r"encoder\.width \(36\) must be a multiple of 8"),
        ({"drop_path": 1.0}, r"encoder\.drop_path \(1\.0\) must be from 0 to below 1"),
        ({"attention": "flash3"}, r"encoder\.attention \('flash3'\) must be one of"),
    ],
)
def test_a_bad_choice_is_named_with_its_value(settings, text):
    with pytest.raises(ValueError, match=text):
        EncoderConfig(**settings)


def test_a_learned_table_is_not_decayed(small_config):
    jepa = Jepa(Encoder(replace(small_config, positions="learned")), JepaConfig())
    decayed, free = jepa.parameter_groups(0.04)
    assert any(weight is jepa.encoder.positions.table for weight in free["params"])
    assert all(weight.ndim >= 2 for weight in decayed["params"])


@torch.no_grad()
def test_layers_come_out_in_order_through_the_last_norm(encoder, volume):
    first, last = encoder(volume, layers=[0, 1])
    assert torch.equal(last, encoder(volume))
    (alone,) = encoder(volume, layers=[0])
    assert torch.equal(alone, first)
    assert not torch.equal(first, last)
    for layers in ([], [2], [1, 0], [-1]):
        with pytest.raises(ValueError, match="must be ascending numbers from 0 to 1"):
            encoder(volume, layers=layers)


def test_drop_path_drops_whole_samples_in_training_and_keeps_the_mean():
    torch.manual_seed(0)
    block = Block(width=12, heads=1, mlp_ratio=2.0, layer_norm_eps=1e-6, drop_path=0.25)
    branch = torch.ones(4000, 2, 3)
    kept = block._dropped(branch)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(kept[:, 0, 0], kept[:, 1, 2])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert block.eval()._dropped(branch) is branch


def test_drop_path_grows_from_0_to_its_value_at_the_last_block():
    encoder = Encoder(EncoderConfig(width=24, heads=1, depth=5, drop_path=0.2))
    rates = [block.drop_path for block in encoder.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_recomputing_gives_the_same_gradients_and_keeps_less(positions, small_config, volume):
    small_config = replace(small_config, positions=positions, depth=4)
    gradients, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder = Encoder(replace(small_config, recompute=recompute))
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, into=numbers: into.append(tensor.numel()) or tensor, lambda x: x
        ):
            loss = encoder(volume).square().sum()
        loss.backward()
        gradients.append([weight.grad for weight in encoder.parameters()])
        kept.append(sum(numbers))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=0)
    assert kept[1] < kept[0] / 3


def test_the_flash_kernel_is_for_lengths_that_its_blocks_divide():
    fitting = [tokens for tokens in range(1, 9217) if fits_flash(tokens)]
    assert fitting == [128, 256, 512, *range(1024, 9217, 1024)]


XLA = """
import torch, torch_xla
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.model.attention import attend
def gradients(recompute, device):
    torch.manual_seed(0)
    config = EncoderConfig(input_shape=(2, 8, 16), patch_size=(2, 8, 8), width=6, depth=1,
                           heads=1, recompute=recompute)
    encoder = Encoder(config).to(device)
    volume = torch.randn(2, 1, 2, 8, 16, generator=torch.Generator().manual_seed(1)).to(device)
    encoder(volume).square().mean().backward()
    return [weight.grad for weight in encoder.parameters()]
device = torch_xla.device()
again = gradients(True, device)
graph = torch_xla._XLAC._get_xla_tensors_hlo(again)
print("barrier" if "opt-barrier" in graph else "merged")
torch_xla.sync()  # all gradients as one graph; reading them one by one would compile each
host = gradients(False, "cpu")
print(max(float((a - b.cpu()).abs().max()) for a, b in zip(host, again)))
x = torch.randn(1, 128, 2, 8, device=device)
print(attend(x, x, x, "auto").shape == (1, 128, 16))  # no TPU: PyTorch's own attention
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch_xla") is None, reason="torch-xla is not installed")
def test_recomputing_gives_the_same_gradients_on_xla():
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {**os.environ, "PJRT_DEVICE": "CPU", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", XLA], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    barrier, difference, attended = done.stdout.split()
    assert barrier == "barrier", "the compiler may merge the recomputation with the first pass"
    assert float(difference) < 1e-5
    assert attended == "True"


@pytest.mark.parametrize("cast", [True, False])
def test_attention_in_bfloat16_on_a_cpu_is_that_in_float32_where_gradients_are_wanted(cast):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 70, 3, 8, generator=generator).bfloat16() for _ in range(3)]
    upstream = torch.randn(2, 70, 24, generator=generator).bfloat16()
    given = [part.clone().requires_grad_() for part in parts]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        mixed = attend(*given, "auto")
    wide = [part.float().requires_grad_() for part in parts]
    wanted = attend(*wide, "auto")
    assert torch.equal(mixed, wanted.bfloat16())
    found = torch.autograd.grad(mixed, given, upstream)
    for one, other in zip(found, torch.autograd.grad(wanted, wide, upstream.float()), strict=True):
        assert torch.equal(one, other.bfloat16())
