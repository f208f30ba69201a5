"""Files as facebookresearch/vjepa2 saves them, with random weights of a small size."""

import torch
from oct_vjepa import Encoder, EncoderConfig, PredictorConfig
from oct_vjepa.model.predictor import Predictor

OUTSIDE = ("patches.", "blocks.", "norm.")


def draw(module, seed):
    """The module with numbers everywhere: biases and mask tokens must not be zero either."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05)
    return module


def encoder_names(state):
    """Our names to theirs."""
    return {
        name.replace("patches.", "patch_embed.").replace("attention.", "attn."): value
        for name, value in state.items()
    }


def predictor_names(state):
    """Likewise; a mask token each, and every part but the tokens is called the predictor's."""
    found = {
        f"predictor_{name}".replace("attention.", "attn."): value
        for name, value in state.items()
        if name != "mask_tokens"
    }
    tokens = {f"mask_tokens.{n}": one[None, None] for n, one in enumerate(state["mask_tokens"])}
    return found | tokens


def write_hub(path, config: EncoderConfig, predictor: PredictorConfig, *, levels=1, dense=False):
    """Write a file of V-JEPA 2 with student, teacher and predictor; returns them as ours."""
    student, teacher = (draw(Encoder(config), seed) for seed in (1, 2))
    between = draw(Predictor(predictor, config, 2, levels=levels, dense=dense), 3)
    prefix = "module.backbone."
    whole = {
        "encoder": encoder_names(student.state_dict()),
        "target_encoder": encoder_names(teacher.state_dict()),
        "predictor": predictor_names(between.state_dict()),
    }
    torch.save(
        {key: {f"{prefix}{name}": one for name, one in part.items()} for key, part in whole.items()}
        | {"epoch": 1},
        path,
    )
    return student, teacher, between
