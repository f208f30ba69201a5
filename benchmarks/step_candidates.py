"""What would each further idea save of a training step? Parts as they are against parts otherwise.

    OMP_NUM_THREADS=1 python benchmarks/step_candidates.py

Parts of a step of V-JEPA 2.1 with a voxel loss and two sets of blocks (half a million weights,
batch 16), which was the default when it was measured, and of the weights of a ViT-Small. Processor
time of one thread; both ways take turns, medians of the rounds, and the smallest and largest ratio
of one round. Both ways give equal numbers, to
rounding, which is checked.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from unittest import mock

import torch
from oct_launch import print_table
from oct_vjepa import Encoder, JepaBatch, encoder_config, sample_masks
from oct_vjepa.model import attention
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.model.positions import apply_rotary, make_rotary
from oct_vjepa.objectives.jepa import Jepa
from oct_vjepa.objectives.losses import normalise_targets
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.objectives.teacher import follow
from oct_vjepa.presets.choices import ENCODERS, MASKINGS, OBJECTIVES
from torch import Tensor, nn
from torch.nn import functional
from writing import write_results

ROUNDS, BATCH = 15, 16
Way = Callable[[], Tensor]
Pair = tuple[Way, Way]
"""As it is, and otherwise."""


def main() -> None:
    """Measure, print, write."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    blocks = MASKINGS["multiblock"].config()
    encoder = Encoder(replace(ENCODERS["cpu_smoke"].config(), patch_size=(2, 8, 16)))
    objective = build_objective(encoder, OBJECTIVES["vjepa21_voxels_smoke"].config(), blocks)
    assert isinstance(objective, Jepa)
    volume = torch.randint(0, 256, (BATCH, 1, 8, 64, 64), dtype=torch.uint8)
    draws = torch.Generator().manual_seed(0)
    masks = sample_masks(objective.masking, objective.encoder.config.grid, BATCH, generator=draws)
    batch = JepaBatch(volume, masks)
    small = Encoder(encoder_config("small", input_shape=(32, 256, 256), patch_size=(4, 16, 16)))
    pairs: Mapping[str, Pair] = {
        "AdamW that is not fused": unfused(objective.encoder),
        "AdamW that is not fused, ViT-S": unfused(small),
        "teacher by _foreach_lerp_": by_lerp(objective.encoder),
        "teacher by _foreach_lerp_, ViT-S": by_lerp(small),
        "rotary as a complex product": by_complex(objective.encoder),
        "a teacher pass for each mask set": twice_taught(objective, batch),
        "targets gathered before the last norm": gathered_first(objective, batch),
        "both mask sets packed into one pass": packed(objective, batch),
    }
    found = {name: measure(pair) for name, pair in pairs.items()}
    rows = [
        [name, f"{1e3 * one['as_it_is_s']:.2f}", f"{1e3 * one['otherwise_s']:.2f}", told(one)]
        for name, one in found.items()
    ]
    print_table(["otherwise", "as it is, ms", "otherwise, ms", "times as fast"], rows)
    write_results("step_candidates", ["torch"], {"rounds": ROUNDS, "batch": BATCH, "ideas": found})


def measure(pair: Pair) -> dict[str, float | list[float]]:
    """Median seconds of both ways, and how many times as fast the other is, with its range."""
    torch.testing.assert_close(pair[0](), pair[1](), rtol=1e-3, atol=1e-4)
    taken: tuple[list[float], list[float]] = [], []
    for number in range(ROUNDS):
        for turn in (number % 2, 1 - number % 2):
            began = time.process_time()
            pair[turn]()
            taken[turn].append(time.process_time() - began)
    ratios = sorted(one / other for one, other in zip(*taken, strict=True))
    medians = [median(one) for one in taken]
    return {
        "as_it_is_s": round(medians[0], 6),
        "otherwise_s": round(medians[1], 6),
        "times_as_fast": [
            round(one, 2) for one in (medians[0] / medians[1], *ratios[:: ROUNDS - 1])
        ],
    }


def told(found: Mapping[str, float | list[float]]) -> str:
    """The ratio with its range."""
    ratio = found["times_as_fast"]
    assert isinstance(ratio, list)
    return f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"


def unfused(module: nn.Module) -> Pair:
    """A step of AdamW on all weights."""

    def stepping(fused: bool) -> Way:
        own = copy.deepcopy(module)
        optimizer = torch.optim.AdamW(own.parameters(), lr=1e-4, fused=fused)
        draws = torch.Generator().manual_seed(1)
        for weight in own.parameters():
            weight.grad = torch.randn(weight.shape, generator=draws)

        def step() -> Tensor:
            optimizer.step()
            return next(own.parameters()).detach()

        return step

    return stepping(True), stepping(False)


def by_lerp(module: nn.Module) -> Pair:
    """A step of the teacher's average."""
    one, other = copy.deepcopy(module), copy.deepcopy(module)
    mine, theirs = list(other.parameters()), [weight.detach() for weight in module.parameters()]

    def following() -> Tensor:
        follow(one, module, 0.99)
        return next(one.parameters()).detach()

    def interpolating() -> Tensor:
        with torch.no_grad():
            torch._foreach_lerp_(mine, theirs, 0.01)
        return mine[0].detach()

    return following, interpolating


def by_complex(encoder: Encoder) -> Pair:
    """Rotation of queries and keys, forward and backward; for the form `interleaved` alone."""
    config = encoder.config
    width = config.width // config.heads
    places = torch.rand(1, config.tokens, 3) * 8
    rotary = make_rotary(places, width, "interleaved")
    turn = torch.complex(rotary.cos_BND[..., ::2], rotary.sin_BND[..., 1::2])[:, :, None, None]
    x = torch.randn(BATCH, config.tokens, 2, config.heads, width, requires_grad=True)

    def back(rotate: Callable[[Tensor], Tensor]) -> Tensor:
        x.grad = None
        rotated = rotate(x)
        rotated.sum().backward()
        return rotated.detach()

    def multiplied(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2)

    return partial(back, lambda x: apply_rotary(x, rotary)), partial(back, multiplied)


def twice_taught(objective: Jepa, batch: JepaBatch) -> Pair:
    """Targets of all mask sets."""

    def passes(count: int) -> Tensor:
        return torch.stack([objective.targets(batch.volume_BCZYX) for _ in range(count)])[0]

    return partial(passes, 1), partial(passes, len(batch.masks))


def gathered_first(objective: Jepa, batch: JepaBatch) -> Pair:
    """Norms of the teacher's last tokens, of which each mask set takes its targets.

    The report of a run speaks of all patches, so that gathering first would cost it that.
    """
    encoder = objective.teacher.encoder
    tokens = torch.randn(BATCH, encoder.config.tokens, encoder.config.width)
    ids = [one.target_BM for one in batch.masks]

    @torch.no_grad()
    def after() -> Tensor:
        whole = normalise_targets(encoder.norm(tokens))
        return torch.cat([gather_patches(whole, one) for one in ids], dim=1)

    @torch.no_grad()
    def before() -> Tensor:
        parts = [gather_patches(tokens, one) for one in ids]
        return torch.cat([normalise_targets(encoder.norm(part)) for part in parts], dim=1)

    return after, before


def packed(objective: Jepa, batch: JepaBatch) -> Pair:
    """The student's context of both mask sets, forward and backward: two passes, or one.

    In one pass a token may attend only to those of its own set, which takes a mask.
    """
    encoder = objective.encoder
    sets = [one.context_BK for one in batch.masks]
    owner = torch.cat([torch.full((one.shape[1],), float(n)) for n, one in enumerate(sets)])
    within = owner[:, None] == owner[None]

    def back(tokens: Tensor) -> Tensor:
        encoder.zero_grad()
        tokens.square().sum().backward()
        return tokens.detach()

    def apart() -> Tensor:
        return back(torch.cat([encoder(batch.volume_BCZYX, ids) for ids in sets], dim=1))

    def together() -> Tensor:
        masked = partial(functional.scaled_dot_product_attention, attn_mask=within)
        with mock.patch.object(attention, "pick_kernel", return_value=masked):
            return back(encoder(batch.volume_BCZYX, torch.cat(sets, dim=1)))

    return apart, together


if __name__ == "__main__":
    main()
