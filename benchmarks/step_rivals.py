"""The training steps of others: the predecessor's, written anew, and facebookresearch/vjepa2's own.

vjepa2 is imported from a work tree that lies outside of this repository.
"""

import copy
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from oct_vjepa import MaskingConfig
from oct_vjepa.model.configuration import SIZES
from oct_vjepa.presets.costs import step_flops
from step_arms import Arm, Shape, attend_naively, make_objective
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode


class NaiveAttention(nn.Module):
    """Self-attention that writes the N x N matrix down, scaled and then through the softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Mix the tokens, (B, N, D)."""
        qkv_BNSHD = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1))
        mixed_BHND = attend_naively(*qkv_BNSHD.permute(2, 0, 3, 1, 4).unbind(0))
        return self.proj(mixed_BHND.transpose(1, 2).flatten(-2))


class NaiveBlock(nn.Module):
    """Pre-norm block of the predecessor."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), NaiveAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x_BND: Tensor) -> Tensor:
        """Attend, then transform, (B, N, D)."""
        x_BND = x_BND + self.attention(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class NaiveEncoder(nn.Module):
    """The predecessor's encoder: a convolution, a learned table of positions, blocks, a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size = SIZES[shape.size]
        self.patches = nn.Conv3d(1, size.width, kernel_size=shape.patch, stride=shape.patch)
        self.positions = nn.Parameter(torch.randn(1, shape.tokens, size.width) * 0.02)
        self.blocks = nn.Sequential(
            *(NaiveBlock(size.width, size.heads) for _ in range(size.depth))
        )
        self.norm = nn.LayerNorm(size.width)

    def forward(self, x_BCZYX: Tensor) -> Tensor:
        """Tokens of all patches, (B, N, D)."""
        tokens = self.patches(x_BCZYX).flatten(2).transpose(1, 2)
        return self.norm(self.blocks(tokens + self.positions))


class Predecessor(nn.Module):
    """Two encoders that see all patches, an MLP with batch norm, and a masked loss of unit vectors.

    The teacher is a copy that nothing moves, as it was in fact trained.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = SIZES[shape.size].width
        self.student = NaiveEncoder(shape)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.predictor = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, context_BCZYX: Tensor, target_BCZYX: Tensor, mask_BN: Tensor) -> Tensor:
        """The loss; `mask_BN` is 1 where it counts."""
        with torch.no_grad():
            target_BND = self.teacher(target_BCZYX)
        tokens_BND = self.student(context_BCZYX)
        predicted_BND = self.predictor(tokens_BND.flatten(0, 1)).view_as(tokens_BND)
        unit_BND = functional.normalize(predicted_BND, dim=-1, eps=1e-8)
        goal_BND = functional.normalize(target_BND, dim=-1, eps=1e-8)
        error_BN = functional.mse_loss(unit_BND, goal_BND, reduction="none").mean(dim=-1)
        return (error_BN * mask_BN).sum() / (mask_BN.sum() + 1e-8)


def build_predecessor(shape: Shape) -> Arm:
    """pretraining/train.py: no EMA, the norm twice, one group for all weights."""
    with torch.device("meta"):
        blank, counter = torch.empty(shape.batch, 1, *shape.volume), FlopCounterMode(display=False)
        with counter:
            Predecessor(shape)(blank, blank, torch.ones(shape.batch, shape.tokens)).backward()
    runtime = shape.runtime()
    model = runtime.prepare(Predecessor(shape))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.05)
    context, target = shape.draw_volume(), shape.draw_volume()
    rank_BN = torch.rand(shape.batch, shape.tokens, generator=torch.Generator().manual_seed(0))
    mask_BN = (rank_BN < 0.6).float().to(shape.device)

    def step() -> None:
        with runtime.autocast():
            loss = model(context, target, mask_BN)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise ArithmeticError(f"the predecessor's loss is {loss.item()}")
        float(nn.utils.clip_grad_norm_(weights, max_norm=math.inf))
        nn.utils.clip_grad_norm_(weights, max_norm=0.01)
        optimizer.step()
        optimizer.zero_grad()

    return Arm(step, int(counter.get_total_flops()))


class Vjepa2(nn.Module):
    """The modules of facebookresearch/vjepa2, built as its app/vjepa/utils.py builds them.

    Changed: one channel, and our masks, which are as large as those that our own step gets.
    """

    def __init__(self, shape: Shape, tree: Path, *, recompute: bool) -> None:
        super().__init__()
        sys.path.insert(0, str(tree))  # its modules are called `src` and `app`
        from src.models import predictor, vision_transformer  # type: ignore[import-not-found]
        from src.utils.wrappers import MultiSeqWrapper, PredictorMultiSeqWrapper  # type: ignore[import-not-found]

        size, (width, depth, heads) = SIZES[shape.size], shape.predictor
        same: dict[str, Any] = {
            "img_size": shape.volume[1:],
            "patch_size": shape.patch[1],
            "num_frames": shape.volume[0],
            "tubelet_size": shape.patch[0],
            "mlp_ratio": size.mlp_ratio,
            "qkv_bias": True,
            "norm_layer": partial(nn.LayerNorm, eps=1e-6),
            "uniform_power": True,
            "use_sdpa": True,
            "use_rope": True,
            "use_activation_checkpointing": recompute,
        }
        self.student = MultiSeqWrapper(
            vision_transformer.VisionTransformer(
                in_chans=1, embed_dim=size.width, depth=size.depth, num_heads=size.heads, **same
            )
        )
        self.predictor = PredictorMultiSeqWrapper(
            predictor.VisionTransformerPredictor(
                embed_dim=size.width,
                predictor_embed_dim=width,
                depth=depth,
                num_heads=heads,
                use_mask_tokens=True,
                num_mask_tokens=2,
                zero_init_mask_tokens=True,
                **same,
            )
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(
        self, volume_BCZYX: Tensor, contexts: list[Tensor], targets: list[Tensor]
    ) -> Tensor:
        """The loss; each list holds patch ids, one tensor a mask set."""
        with torch.no_grad():
            (target_BND,) = self.teacher([volume_BCZYX])
            target_BND = functional.layer_norm(target_BND, target_BND.shape[-1:])
        tokens = self.student([volume_BCZYX], [contexts])
        (predictions,) = self.predictor(tokens, [contexts], [targets])
        losses = []
        for predicted_BMD, ids_BM in zip(predictions, targets, strict=True):
            ids_BMD = ids_BM.unsqueeze(-1).repeat(1, 1, target_BND.shape[-1])
            losses.append((predicted_BMD - target_BND.gather(1, ids_BMD)).abs().mean())
        return torch.stack(losses).mean()


def build_vjepa2(
    shape: Shape, tree: Path, *, compiled: bool = False, recompute: bool = False
) -> Arm:
    """The step of app/vjepa/train.py: no clipping; with bfloat16 a scaler all the same."""
    with torch.device("meta"):  # theirs calls .item() while it is built, which meta cannot
        flops = step_flops(make_objective(shape), shape.batch)
    runtime = shape.runtime()
    model = runtime.prepare(Vjepa2(shape, tree, recompute=recompute))
    if compiled:
        for part in (model.student, model.predictor, model.teacher):
            part.compile()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [one for one in trained if one.ndim > 1]}]
    groups += [{"params": [one for one in trained if one.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.04)
    scaler = GradScaler(shape.device, enabled=shape.device == "cuda")
    volume, masks = shape.draw_volume(), shape.draw_masks(MaskingConfig())
    contexts, targets = [one.context_BK for one in masks], [one.target_BM for one in masks]
    slow, fast = list(model.teacher.parameters()), list(model.student.parameters())

    def step() -> None:
        with runtime.autocast():
            loss = model(volume, contexts, targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_mul_(slow, 0.99925)
            torch._foreach_add_(slow, fast, alpha=1 - 0.99925)
        if not math.isfinite(float(loss)):
            raise ArithmeticError(f"vjepa2's loss is {float(loss)}")

    return Arm(step, flops)
