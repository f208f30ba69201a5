"""What a preset costs: parameters, floating-point operations of a step, and memory."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from oct_vjepa.masking.masks import Masks
from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.weights import without_numbers
from oct_vjepa.objectives.objective import JepaBatch, Objective, Taught
from oct_vjepa.objectives.twoview import TwoView, TwoViewBatch
from oct_vjepa.presets.runs import Preset
from oct_vjepa.presets.sources import values

STATE_BYTES = 16
"""A trained parameter in float32 with its gradient and AdamW's two moments."""
TEACHER_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Numbers of one preset."""

    name: str
    tokens: int
    encoder: int  # parameters
    predictor: int  # parameters
    flops: int  # of one training step for one volume
    state_bytes: int  # parameters, gradients, moments, teacher; float32
    activation_bytes: int  # kept for the backward pass of one volume; bfloat16
    batch: int


def cost_of(name: str, chosen: Preset) -> Cost:
    """Count everything on the meta device: nothing is computed, nothing is stored."""
    with without_numbers():
        objective = chosen.assemble(Encoder(chosen.encoder.config()))
    config = chosen.encoder.config()
    encoder = count(objective.encoder)
    teacher = count(objective.teacher) if isinstance(objective, Taught) else 0
    predictor = count(objective) - encoder - teacher
    return Cost(
        name=name,
        tokens=config.tokens,
        encoder=encoder,
        predictor=predictor,
        flops=step_flops(objective),
        state_bytes=STATE_BYTES * (encoder + predictor) + TEACHER_BYTES * teacher,
        activation_bytes=activation_bytes(chosen, bytes_a_number=2),
        batch=int(chosen.training["batch_size"].value),
    )


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(weight.numel() for weight in module.parameters())


def step_flops(objective: Objective, batch: int = 1) -> int:
    """Operations of teacher, student, predictor and backward pass, counted on the meta device.

    Multiplications and additions of matrix products, each as one. Attention counts as its two
    products forward and four backward, whatever a fused kernel computes again; blocks that
    `recompute` runs a second time count twice forward.
    """
    config = objective.encoder.config
    masks = tuple(
        Masks(_blank_ids(batch, contexts), _blank_ids(batch, targets))
        for targets, contexts in (one.sizes(config.grid) for one in objective.masking.sets)
    )
    volume = torch.empty(batch, config.channels, *config.input_shape, device="meta")
    step = JepaBatch(volume, masks)
    views = TwoViewBatch(volume, volume, masks)
    counter = FlopCounterMode(display=False)
    with counter:
        objective.loss(views if isinstance(objective, TwoView) else step)["loss"].backward()
    return int(counter.get_total_flops())


def _blank_ids(batch: int, patches: int) -> Tensor:
    return torch.empty(batch, patches, dtype=torch.int64, device="meta")


def block_numbers(tokens: int, width: int, mlp_ratio: float = 4.0) -> int:
    """Numbers that one block keeps for the backward pass, with fused attention: N (10 D + 2 H).

    A token keeps its two residual inputs (2 D) and what the norms make of them (2 D), rotated
    queries and keys and the values (3 D), the packed qkv they are views of (2 D more than the
    values), the mixed values (D), and the MLP before and after its GELU (2 H).
    """
    return tokens * (10 * width + 2 * int(width * mlp_ratio))


def activation_bytes(chosen: Preset, *, bytes_a_number: int) -> int:
    """Bytes kept for the backward pass of one volume: all mask sets, encoder and predictor.

    With `recompute` a block keeps its input only, and one block at a time is whole. The teacher
    keeps nothing. The passing buffers of the forward pass are not in it.
    """
    config = chosen.encoder.config()
    numbers = 0
    for one in chosen.masking.config().sets:
        targets, contexts = one.sizes(config.grid)
        if not values(chosen.objective.settings).get("context_masked", True):
            contexts = config.tokens  # its student sees everything
        numbers += _stack(contexts, config.width, config.depth, config.mlp_ratio, config)
        if predictor := values(chosen.objective.predictor):
            width, depth = predictor["width"], predictor["depth"]
            numbers += _stack(contexts + targets, width, depth, 4.0, config)
        else:
            numbers += targets * 4 * config.width  # its MLP: input, norm, GELU, output
    return numbers * bytes_a_number


def _stack(tokens: int, width: int, depth: int, ratio: float, config: EncoderConfig) -> int:
    whole = block_numbers(tokens, width, ratio)
    return depth * tokens * width + whole if config.recompute else depth * whole
