"""Encoders of B-scans, and encoders of others, where an encoder of volumes stands."""

import argparse

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, WeightsError, embed_volumes
from oct_vjepa.evaluation.features import embed_batch, fingerprint_of, load_or_embed
from oct_vjepa.evaluation.foreign import (
    BscanModel,
    fit_weights,
    load_timm,
    read_weights,
    rename_weights,
)
from oct_vjepa.evaluation.sliced import SlicedEncoder, over_volumes, takes
from oct_vjepa.model.configuration import POOLS
from safetensors.torch import save_file
from torch import nn


@pytest.fixture
def bscan_encoder():
    torch.manual_seed(0)
    shape = EncoderConfig(input_shape=(1, 16, 32), patch_size=(1, 8, 16), width=24, depth=2)
    return Encoder(shape).eval()


@pytest.fixture
def volumes():
    return np.random.default_rng(0).integers(0, 255, (3, 5, 16, 32), dtype=np.uint8)


@pytest.mark.parametrize("pool", POOLS)
def test_a_sliced_encoder_gives_the_mean_over_the_b_scans(bscan_encoder, volumes, pool):
    found = embed_volumes(SlicedEncoder(bscan_encoder), volumes, pools=[pool])[pool]
    flat = volumes.reshape(15, 1, 16, 32)
    alone = embed_volumes(bscan_encoder, flat, pools=[pool])[pool]
    assert found == pytest.approx(alone.reshape(3, 5, -1).mean(axis=1), abs=1e-5)
    own = SlicedEncoder(bscan_encoder, pool=pool).embed(torch.from_numpy(volumes))
    assert own.detach().numpy() == pytest.approx(found, abs=1e-5)


def test_every_other_b_scan_is_taken_about_the_middle(bscan_encoder, volumes):
    sliced = SlicedEncoder(bscan_encoder, every=3)
    cut = sliced.cut(torch.from_numpy(volumes).unsqueeze(1))
    assert cut.each == 2
    assert torch.equal(cut.voxels[0, 0, 0], torch.from_numpy(volumes[0, 0]))
    assert torch.equal(cut.voxels[3, 0, 0], torch.from_numpy(volumes[1, 3]))
    with pytest.raises(ValueError, match=r"every \(0\)"):
        SlicedEncoder(bscan_encoder, every=0)


def test_an_encoder_of_stacks_sees_neighbouring_b_scans_together(volumes):
    torch.manual_seed(0)
    config = EncoderConfig(input_shape=(2, 16, 32), patch_size=(2, 8, 16), width=24, depth=1)
    sliced = SlicedEncoder(Encoder(config).eval())
    cut = sliced.cut(torch.from_numpy(volumes).unsqueeze(1))
    assert cut.voxels.shape == (6, 1, 2, 16, 32)
    assert torch.equal(cut.voxels[1, 0], torch.from_numpy(volumes[0, 2:4]))
    assert embed_volumes(sliced, volumes, pools=["max"])["max"].shape == (3, 24)
    with pytest.raises(ValueError, match="volumes of 1 B-scans, and the encoder takes 2"):
        embed_volumes(sliced, volumes[:, :1])


def test_positions_in_millimetres_reach_the_b_scans(volumes):
    torch.manual_seed(0)
    config = EncoderConfig(
        input_shape=(1, 16, 32), patch_size=(1, 8, 16), width=24, depth=2,
        position_unit="length", position_scale=(0.1, 0.01, 0.02),
    )  # fmt: skip
    sliced = SlicedEncoder(Encoder(config).eval())
    near = embed_volumes(sliced, volumes, spacing=(np.nan, 0.01, 0.02))["mean"]
    known = embed_volumes(sliced, volumes, spacing=(0.1, 0.01, 0.02))["mean"]
    far = embed_volumes(sliced, volumes, spacing=(np.nan, 0.04, 0.08))["mean"]
    assert np.array_equal(near, known), "one B-scan has no distance to the next"
    assert not np.array_equal(near, far)


def test_features_of_a_sliced_encoder_are_kept_under_its_own_name(bscan_encoder, volumes, tmp_path):
    ways = [SlicedEncoder(bscan_encoder), SlicedEncoder(bscan_encoder, every=2), bscan_encoder]
    assert len({fingerprint_of(one) for one in ways}) == 3
    for one in ways[:2]:
        load_or_embed(one, volumes, volumes_fingerprint="v", folder=tmp_path, pools=["mean"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{one.fingerprint}-v.safetensors" for one in ways[:2]}
    again = load_or_embed(ways[0], [], volumes_fingerprint="v", folder=tmp_path, pools=["mean"])
    assert np.array_equal(again["mean"], embed_volumes(ways[0], volumes, pools=["mean"])["mean"])


class Brightness:
    """An encoder of somebody else: no module, no settings."""

    fingerprint = "brightness-1"

    def embed(self, volumes):
        return volumes.float().mean(dim=(2, 3))[:, :2]


def test_anything_with_a_fingerprint_that_embeds_will_do(volumes, tmp_path):
    found = embed_volumes(Brightness(), volumes, batch_size=2)
    assert found.keys() == set(POOLS)
    assert found["max"] == pytest.approx(volumes.mean(axis=(2, 3))[:, :2])
    load_or_embed(Brightness(), volumes, volumes_fingerprint="v", folder=tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["brightness-1-v.safetensors"]


def test_an_encoder_that_pools_by_itself_says_what_it_cannot_give(bscan_encoder, volumes):
    with pytest.raises(ValueError, match="has no layers and tokens"):
        embed_volumes(Brightness(), volumes, layers=[0])
    with pytest.raises(ValueError, match="no tokens of whole volumes"):
        embed_batch(SlicedEncoder(bscan_encoder), volumes, pools=["mean"], tokens=True)
    wrong = Brightness()
    wrong.embed = lambda volumes: volumes.float()
    with pytest.raises(ValueError, match=r"gave \(3, 5, 16, 32\) for 3 volumes"):
        embed_volumes(wrong, volumes)


def two_dimensional(seed=0, channels=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, 4, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def over_bscans(model, **settings):
    return BscanModel(model, size=(16, 32), mean=(0.5,) * 3, std=(0.25,) * 3, **settings)


def test_a_2d_model_is_averaged_over_the_b_scans(volumes):
    model = two_dimensional()
    found = embed_volumes(over_bscans(model), volumes, pools=["mean"])["mean"]
    images = torch.from_numpy(volumes).flatten(0, 1).unsqueeze(1).float().expand(-1, 3, -1, -1)
    alone = model((images / 255 - 0.5) / 0.25).unflatten(0, (3, 5)).mean(dim=1)
    assert found == pytest.approx(alone.detach().numpy(), abs=1e-5)


def test_the_fingerprint_of_a_2d_model_knows_its_weights_and_its_cut():
    ways = [
        over_bscans(two_dimensional()), over_bscans(two_dimensional(1)),
        over_bscans(two_dimensional(), every=2), over_bscans(two_dimensional(), name="other"),
    ]  # fmt: skip
    assert len({one.fingerprint for one in ways}) == 4
    assert ways[0].fingerprint == over_bscans(two_dimensional()).fingerprint


def vit_state(depth=2, width=24, prefix=""):
    """Names and shapes of timm's vision transformer, 8 x 8 patches of 16 x 16 pixels."""
    torch.manual_seed(0)
    shapes = {
        "cls_token": (1, 1, width), "pos_embed": (1, 5, width), "norm.weight": (width,),
        "patch_embed.proj.weight": (width, 3, 8, 8), "patch_embed.proj.bias": (width,),
        "norm.bias": (width,),
    }  # fmt: skip
    for n in range(depth):
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block_shapes(width).items()}
    return {f"{prefix}{name}": torch.randn(shape) for name, shape in shapes.items()}


def block_shapes(width):
    return {
        "norm1.weight": (width,), "norm1.bias": (width,), "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
    }  # fmt: skip


def mirage_state(depth=2, width=24):
    torch.manual_seed(0)
    found = {
        "global_tokens": torch.randn(1, 1, width),
        "input_adapters.bscan.pos_emb": torch.randn(1, width, 2, 2),
        "input_adapters.bscan.proj.weight": torch.randn(width, 1, 8, 8),
        "input_adapters.bscan.proj.bias": torch.randn(width),
        "input_adapters.slo.proj.bias": torch.randn(width),
        "output_adapters.bscan.mask_token": torch.randn(1, 1, width),
    }
    for n in range(depth):
        for name, shape in block_shapes(width).items():
            found[f"encoder.{n}.{name}"] = torch.randn(shape)
    return found


def test_retfound_files_are_read_without_their_arguments(tmp_path):
    state = vit_state() | {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.bias": torch.zeros(8)}
    path = tmp_path / "retfound.pth"
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, path)
    found, layout = rename_weights(read_weights(path))
    assert found.keys() == vit_state().keys()
    assert layout == "plain"


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone."])
def test_prefixes_of_other_trainers_are_taken_off(prefix, tmp_path):
    path = tmp_path / "teacher.pth"
    torch.save({"teacher": vit_state(prefix=prefix) | {"dino_head.bias": torch.zeros(2)}}, path)
    assert rename_weights(read_weights(path))[0].keys() == vit_state().keys()


def test_mirage_becomes_a_transformer_of_b_scans():
    found, layout = rename_weights(mirage_state())
    assert layout == "mirage"
    assert found.keys() == vit_state().keys() - {"norm.weight", "norm.bias"}
    assert found["pos_embed"].shape == (1, 5, 24)
    assert not found["pos_embed"][:, 0].any(), "a global token has no position"
    places = mirage_state()["input_adapters.bscan.pos_emb"]
    assert torch.equal(found["pos_embed"][0, 2], places[0, :, 0, 1]), "raster order"


def test_weights_that_do_not_fit_are_named():
    model = two_dimensional()
    fitting = {name: one + 1 for name, one in model.state_dict().items()}
    assert fit_weights(model, fitting | {"more": torch.ones(1)}, "f") == ("more",)
    assert torch.equal(model.state_dict()["0.bias"], fitting["0.bias"])
    with pytest.raises(WeightsError, match=r"f: does not fit the model: lacks \['0.bias'\]"):
        fit_weights(model, {"0.weight": fitting["0.weight"]}, "f")
    with pytest.raises(WeightsError, match=r"0.bias is \(2,\), wanted \(4,\)"):
        fit_weights(model, fitting | {"0.bias": torch.ones(2)}, "f")


def test_without_timm_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(WeightsError, match="pip install timm"):
        load_timm("vit_tiny_patch16_224", weights=tmp_path / "none.pth")


SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_retfound_fits_a_model_of_timm(pool, volumes, tmp_path):
    pytest.importorskip("timm", reason="timm and torch-xla cannot be locked together")
    path = tmp_path / "retfound.pth"
    torch.save({"model": vit_state() | {"mask_token": torch.zeros(1)}}, path)
    encoder, unused = load_timm("vit_tiny_patch16_224", weights=path, global_pool=pool, **SMALL)
    assert unused == ()
    assert embed_volumes(encoder, volumes, pools=["mean"])["mean"].shape == (3, 24)


def test_mirage_fits_a_model_of_timm_and_attention_does_not_notice(volumes, tmp_path):
    timm = pytest.importorskip("timm", reason="timm and torch-xla cannot be locked together")
    path = tmp_path / "mirage.safetensors"
    save_file(mirage_state(), path)
    encoder, unused = load_timm("vit_tiny_patch16_224", weights=path, **SMALL)
    assert unused == ()
    state = mirage_state()
    image = torch.randn(1, 1, 16, 16)
    proj = nn.functional.conv2d(
        image, state["input_adapters.bscan.proj.weight"], state["input_adapters.bscan.proj.bias"],
        stride=8,
    )  # fmt: skip
    patches = (proj + state["input_adapters.bscan.pos_emb"]).flatten(2).transpose(1, 2)
    tokens = torch.cat([patches, state["global_tokens"]], dim=1)  # behind, as MIRAGE has it
    blocks = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL).eval().blocks
    blocks.load_state_dict(
        {name[8:]: one for name, one in state.items() if name.startswith("encoder.")}
    )
    with torch.no_grad():
        assert encoder.model(image)[0] == pytest.approx(blocks(tokens)[0, -1], rel=1e-3, abs=1e-3)


def test_an_encoder_goes_over_volumes_that_its_stacks_fill(bscan_encoder):
    shape = bscan_encoder.config.input_shape
    assert over_volumes(bscan_encoder, 1) is bscan_encoder
    assert over_volumes(bscan_encoder, 5).thickness == 1
    deep = EncoderConfig(
        input_shape=(4, *shape[1:]), patch_size=(2, 8, 8), width=12, depth=1, heads=1
    )
    assert takes(deep, (8, *shape[1:]))
    assert takes(deep, (4, *shape[1:]))
    assert not any(takes(deep, one) for one in ((6, *shape[1:]), (2, *shape[1:]), (8, 8, 8)))
    with pytest.raises(ValueError, match="6 B-scans are no stacks of 4"):
        over_volumes(Encoder(deep), 6)
