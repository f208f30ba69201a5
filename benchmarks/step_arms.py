"""The training steps that training_step.py compares: ours, the predecessor's, and vjepa2's own.

Each arm does what its own loop does from the volume on the device to the moved teacher: forward,
loss, backward, clipping where there is any, AdamW, EMA where there is any, and the numbers it reads
back. Volumes, views and masks are made before, as the feeds of all three make them.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from oct_vjepa import (
    Encoder,
    Jepa,
    JepaBatch,
    JepaConfig,
    MaskingConfig,
    Masks,
    PredictorConfig,
    encoder_config,
    sample_masks,
)
from oct_vjepa.model.configuration import SIZES
from oct_vjepa.model.patches import grid_of
from oct_vjepa.objectives.configuration import DenseJepaConfig
from oct_vjepa.objectives.objective import Objective
from oct_vjepa.presets.choices import VOXELS
from oct_vjepa.presets.costs import step_flops
from oct_vjepa.presets.sources import values
from oct_xla import LoopConfig, Runtime, pick_runtime
from oct_xla.devices.placing import Placed
from oct_xla.steps.learner import Learner
from oct_xla.steps.preemption import StopRequest
from oct_xla.telling.metrics import StepClock
from torch import Tensor
from torch.nn import functional

Step = Callable[[], object]
MATMUL = {"cpu": 2048, "cuda": 8192}  # edge of the square matrices that show the peak


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What all arms have in common."""

    size: str  # key of oct_vjepa.model.configuration.SIZES
    volume: tuple[int, int, int]  # voxels along (Z, Y, X)
    patch: tuple[int, int, int]
    batch: int
    predictor: tuple[int, int, int]  # width, depth, heads
    device: str
    objective: str = "vjepa2"  # or "voxels"

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along (Z, Y, X)."""
        return grid_of(self.volume, self.patch)

    @property
    def tokens(self) -> int:
        """Patches of a volume."""
        return math.prod(self.grid)

    @property
    def max_targets(self) -> int:
        """The bound of the larger presets, 2,048 targets of 9,216 patches, for this grid."""
        return max(1, self.tokens * 2 // 9)

    def runtime(self, precision: str = "") -> Runtime:
        """In the precision given; else float32 on the CPU, bfloat16 autocast on a GPU."""
        usual = "bf16" if self.device == "cuda" else "fp32"
        return pick_runtime(self.device, precision or usual)

    def draw_volume(self) -> Tensor:
        """Voxels on the device, (B, 1, Z, Y, X), float32."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, 1, *self.volume, generator=generator).to(self.device)

    def draw_masks(self, masking: MaskingConfig) -> tuple[Masks, ...]:
        """Masks on the device."""
        generator = torch.Generator().manual_seed(0)
        drawn = sample_masks(masking, self.grid, self.batch, generator=generator)
        return tuple(Masks(*(ids.to(self.device) for ids in one)) for one in drawn)


class Arm(NamedTuple):
    """One step, ready to be taken again and again."""

    step: Step
    flops: int  # of matrix products, recomputed ones not counted


def make_objective(
    shape: Shape, *, depth: int | None = None, subset: bool = False, recompute: bool = False
) -> Objective:
    """The objective of the shape with V-JEPA 2's two mask sets, with a new encoder.

    Args:
        shape: what all arms have in common.
        depth: blocks of the predictor; None takes those of the shape.
        subset: predict `shape.max_targets` targets of each mask set, not all.
        recompute: keep the inputs of the blocks only.
    """
    width, given_depth, heads = shape.predictor
    config = encoder_config(
        shape.size, input_shape=shape.volume, patch_size=shape.patch, recompute=recompute
    )
    masking = MaskingConfig()
    for one in masking.sets:
        one.max_targets = shape.max_targets if subset else None
    predictor = PredictorConfig(width=width, depth=depth or given_depth, heads=heads)
    kind = JepaConfig(predictor=predictor)
    if shape.objective == "voxels":
        kind = DenseJepaConfig(predictor=predictor, **values(VOXELS))
    return Jepa(Encoder(config), kind, masking)


def build_ours(
    shape: Shape,
    *,
    compiled: bool = False,
    recompute: bool = False,
    precision: str = "",
    **changes: Any,
) -> Arm:
    """A step of `oct_xla.fit`, with all that it measures for the log."""
    with torch.device("meta"):
        flops = step_flops(make_objective(shape, **changes), shape.batch)
    objective = make_objective(shape, recompute=recompute, **changes)
    if compiled:
        for part in (objective.encoder, objective.predictor, objective.teacher.encoder):
            part.compile()
    runtime = shape.runtime(precision)
    learner = Learner(objective, runtime, LoopConfig(steps=1_000_000), seed=0)
    batch = JepaBatch(shape.draw_volume(), shape.draw_masks(objective.masking))
    feed = Placed(itertools.repeat(batch), runtime, count=1_000_000)
    numbers = itertools.count()
    clock, stop = StepClock(), StopRequest()

    def step() -> None:  # its numbers are waited for, as where each step makes a row
        learner.read(learner.take(next(numbers), 1e-4, feed, clock, stop), clock)

    return Arm(step, flops)


def attend_naively(query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor) -> Tensor:
    """Attention as the predecessor computes it (models/vjepa_3d.py, Attention3D)."""
    scores_BHNN = (query_BHND @ key_BHND.transpose(-2, -1)) * query_BHND.shape[-1] ** -0.5
    return scores_BHNN.softmax(dim=-1) @ value_BHND


def build_attention(shape: Shape, *, naive: bool) -> Arm:
    """Forward and backward of one attention over all patches, without its linear maps."""
    size, runtime = SIZES[shape.size], shape.runtime()
    dtype = torch.bfloat16 if shape.device == "cuda" else torch.float32
    sides = (shape.batch, size.heads, shape.tokens, size.width // size.heads)
    query, key, value = (
        torch.randn(sides, device=runtime.device, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    attend = attend_naively if naive else functional.scaled_dot_product_attention
    upstream = torch.ones(sides, device=runtime.device, dtype=dtype)
    products = 6  # two forward, four backward

    def step() -> None:
        torch.autograd.grad(attend(query, key, value), (query, key, value), upstream)

    return Arm(step, products * 2 * shape.batch * shape.tokens**2 * size.width)


def build_matmul(shape: Shape) -> Arm:
    """The product of two large square matrices in the type of the step: the peak to reach.

    By the library that our linear maps take: on some CPUs it is twice as fast as `@`.
    """
    from oct_vjepa.model.linear import linear  # an earlier commit of ours may have none

    edge, runtime = MATMUL[shape.device], shape.runtime()
    dtype = torch.bfloat16 if shape.device == "cuda" else torch.float32
    left, right = (torch.randn(edge, edge, device=runtime.device, dtype=dtype) for _ in range(2))
    return Arm(lambda: linear(left, right, None), 2 * edge**3)
