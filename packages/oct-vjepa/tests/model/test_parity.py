"""The encoder and the predictor compute what transformers' VJEPA2Model computes."""

import copy

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, Masks, Predictor, PredictorConfig

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def oracle():
    """A random VJEPA2Model on a grid of 4 x 4 x 4; every bias and mask token is not zero."""
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        crop_size=64, patch_size=16, frames_per_clip=8, tubelet_size=2, in_chans=3,
        hidden_size=96, num_attention_heads=3, num_hidden_layers=3,
        pred_hidden_size=48, pred_num_attention_heads=3, pred_num_hidden_layers=2,
        pred_num_mask_tokens=2, pred_zero_init_mask_tokens=False,
    )  # fmt: skip
    model = transformers.VJEPA2Model(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)  # also what starts at 0 or 1
    return model


def ours_from(theirs):
    """Our state of one stack of transformer blocks, from theirs."""
    state = {}
    for index, layer in enumerate(theirs.layer):
        attention, here = layer.attention, f"blocks.{index}"
        for kind in ("weight", "bias"):
            parts = [getattr(getattr(attention, part), kind) for part in ("query", "key", "value")]
            state[f"{here}.attention.qkv.{kind}"] = torch.cat(parts)
            state[f"{here}.attention.proj.{kind}"] = getattr(attention.proj, kind)
            for name, part in (("norm1", layer.norm1), ("norm2", layer.norm2)):
                state[f"{here}.{name}.{kind}"] = getattr(part, kind)
            for name, part in (("fc1", layer.mlp.fc1), ("fc2", layer.mlp.fc2)):
                state[f"{here}.mlp.{name}.{kind}"] = getattr(part, kind)
    state["norm.weight"], state["norm.bias"] = theirs.layernorm.weight, theirs.layernorm.bias
    return state


@pytest.fixture(scope="module")
def config():
    return EncoderConfig(
        input_shape=(8, 64, 64), patch_size=(2, 16, 16), channels=3, width=96, depth=3, heads=3
    )


@pytest.fixture(scope="module")
def ours(oracle, config):
    encoder, proj = Encoder(config), oracle.encoder.embeddings.patch_embeddings.proj
    state = ours_from(oracle.encoder)
    state |= {"patches.proj.weight": proj.weight, "patches.proj.bias": proj.bias}
    encoder.load_state_dict(state)
    return encoder.eval()


@pytest.fixture(scope="module")
def volume():
    return torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def masks():
    """Unsorted on purpose: HF sorts, we do not need to."""
    order = torch.rand(2, 64, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    return Masks(context_BK=order[:, :20], target_BM=order[:, 25:60])


@torch.no_grad()
def test_encoder_equals_transformers(oracle, ours, volume):
    theirs = oracle.encoder(volume.transpose(1, 2)).last_hidden_state
    assert theirs.std() > 0.1
    assert (ours(volume) - theirs).abs().max() < TOLERANCE


@torch.no_grad()
def test_masked_encoder_equals_transformers_blocks_on_gathered_patches(oracle, ours, volume, masks):
    ids = masks.context_BK
    hidden = oracle.encoder.embeddings(volume.transpose(1, 2))
    hidden = hidden.gather(1, ids.unsqueeze(-1).expand(-1, -1, 96))
    for layer in oracle.encoder.layer:
        hidden = layer(hidden, ids)[0]
    theirs = oracle.encoder.layernorm(hidden)
    assert (ours(volume, ids) - theirs).abs().max() < TOLERANCE
    encoded_then_gathered = ours(volume).gather(1, ids.unsqueeze(-1).expand(-1, -1, 96))
    assert (theirs - encoded_then_gathered).abs().max() > 1e-2  # masking is not that


@torch.no_grad()
def test_predictor_equals_transformers_with_mask_token_1(oracle, config, volume, masks):
    predictor = Predictor(PredictorConfig(width=48, depth=2, heads=3), config, mask_tokens=2)
    theirs, state = oracle.predictor, ours_from(oracle.predictor)
    state |= {
        "embed.weight": theirs.embeddings.predictor_embeddings.weight,
        "embed.bias": theirs.embeddings.predictor_embeddings.bias,
        "mask_tokens": theirs.embeddings.mask_tokens.flatten(1),
        "proj.weight": theirs.proj.weight,
        "proj.bias": theirs.proj.bias,
    }
    predictor.load_state_dict(state)
    tokens = oracle.encoder(volume.transpose(1, 2)).last_hidden_state
    wanted = theirs(tokens, [masks.context_BK], [masks.target_BM]).last_hidden_state
    context = tokens.gather(1, masks.context_BK.unsqueeze(-1).expand(-1, -1, 96))
    assert (predictor(context, masks, 1) - wanted).abs().max() < TOLERANCE
    assert (predictor(context, masks, 0) - wanted).abs().max() > 1e-3  # the token matters


@torch.no_grad()
def test_patch_embedding_equals_its_convolution(ours, volume):
    patches, volume = copy.deepcopy(ours.patches).double(), volume.double()
    convolved = patches.proj(volume).flatten(2).transpose(1, 2)
    assert (patches(volume) - convolved).abs().max() < 1e-12
