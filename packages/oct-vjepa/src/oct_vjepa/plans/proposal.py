"""Rules from facts to settings; each value with its reason, and where that comes from.

A reason begins with "ours" where it is a choice of this project that nothing published settles, and
names a file or a paper where something does. What a step costs is never estimated: `fit_to_hours`
takes what was measured.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from oct_vjepa.model.configuration import grid_of
from oct_vjepa.plans.facts import Facts, Measured
from oct_vjepa.presets.choices import ENCODERS, MASKINGS, OBJECTIVES, QUICK, SLOW
from oct_vjepa.presets.named import NamedMasking, NamedObjective
from oct_vjepa.presets.runs import BETAS, CLIP, DECAY, PRESETS, Preset
from oct_vjepa.presets.sources import DENSE, VIT, Given, Settings

MANY_TOKENS = 4096
"""Above it the predictor costs more than the encoders unless targets are bounded."""
FEW_TOKENS = 512
"""Up to it single patches are hidden: what was measured has 128 to 256, docs/learning.md."""
FEW_VOLUMES = 3000
PASSES = 100
LEAST_STEPS, MOST_STEPS = 800, 100_000
SLOWEST = 0.00075  # one less V-JEPA 2's momentum
QUICKEST = 0.02  # one less the momentum of 800 steps
HORIZON = 16
"""Steps of a run for each step that the teacher looks back: 50 of 800, as in cpu_smoke."""

CLOSEST: Mapping[str, Preset] = {
    "cpu_smoke": PRESETS["cpu_smoke"],
    "bscan_tiny": PRESETS["cpu_smoke"],
    "small": PRESETS["small_oct"],
    "base": PRESETS["base_oct"],
}
"""Size of an encoder to the preset whose predictor and rate are taken, unless `RATES` has one."""
RATES: Mapping[str, Given] = {
    "small": Given(5e-4, "ours: between the pilots' 1.5e-3 and ViT-B's 2.5e-4; not tried"),
}


def propose(facts: Facts) -> Preset:
    """Settings for these facts, with as many steps as the data asks for.

    Raises:
        ValueError: no patch divides the volumes.
    """
    size = _size(facts)
    patch = _patch(facts.input_shape)
    tokens = math.prod(grid_of(facts.input_shape, patch.value))
    closest = CLOSEST[size.value]
    batch = _batch(facts)
    masking, objective = _method(facts, tokens)
    wanted = math.ceil(PASSES * facts.volumes / batch.value)
    steps = min(max(wanted, LEAST_STEPS), MOST_STEPS)
    passes = steps * batch.value / facts.volumes
    said = f"{passes:,.0f} passes over {facts.volumes:,} volumes: {PASSES}, but {LEAST_STEPS:,} to "
    plan = Preset(
        purpose=f"proposed for {facts.volumes:,} volumes on {facts.device}",
        encoder=replace(ENCODERS[size.value], size=size).but(
            input_shape=Given(facts.input_shape, "what the window gives"),
            patch_size=patch,
            rotary=Given("interleaved", f"{DENSE}/models/utils/modules.py"),
            **_recompute(facts, tokens),
        ),
        masking=masking,
        objective=objective.with_predictor(closest.objective.predictor),
        schedule={
            "peak": RATES.get(size.value, closest.schedule["peak"]),
            "warmup_fraction": closest.schedule["warmup_fraction"],
            "end": closest.schedule["end"],
        },
        training={
            "batch_size": batch,
            "accumulate": Given(1, "ours: until a batch is found not to fit"),
            "steps": Given(steps, f"ours: {said}{MOST_STEPS:,} steps"),
            "weight_decay": DECAY,
            "betas": BETAS,
            "clip_norm": CLIP,
        },
    )
    return _with_steps(plan, plan.training["steps"])


def fit_to_hours(plan: Preset, facts: Facts, measured: Measured) -> Preset:
    """The proposal with no more steps than the hours allow, at the measured pace."""
    affordable = int(facts.hours * 3600 / measured.step_s)
    wanted = int(plan.training["steps"].value)
    given = plan.training["steps"]
    if affordable < wanted:
        reason = (
            f"measured: {measured.step_s:.3g} s a step, so many in {facts.hours:g} h; the data "
            f"asks for {wanted:,}"
        )
        given = Given(max(affordable, 1), reason)
    fits = "a batch fits at once" if measured.accumulate == 1 else "fewer do not fit the memory"
    parts = Given(measured.accumulate, f"measured: {fits}")
    return _with_steps(replace(plan, training={**plan.training, "accumulate": parts}), given)


def hours_of(plan: Preset, measured: Measured) -> float:
    """Hours that all steps take at the measured pace."""
    return float(plan.training["steps"].value * measured.step_s / 3600)


def _with_steps(plan: Preset, steps: Given) -> Preset:
    """The plan with so many steps, and with the momentum and the schedule that go with them."""
    count = int(steps.value)
    away = min(max(HORIZON / count, SLOWEST), QUICKEST)
    ema: Settings = SLOW
    if away > SLOWEST:
        reason = (
            f"ours: the teacher looks back a {HORIZON}th of the run, 0.98 at 800 steps; on small "
            "data 0.99 to 0.9995 are worth a try (facebookresearch/vjepa2 issue 93)"
        )
        ema = {"ema_start": Given(round(1 - away, 5), reason), "ema_end": QUICK["ema_end"]}
    long = count >= 50_000
    kind = Given(
        "wsd" if long else "cosine",
        "V-JEPA 2: warm-up, constant, then a cooldown" if long else "ours: as the pilots",
    )
    return replace(
        plan,
        objective=plan.objective.but(**ema),
        schedule={"kind": kind, **plan.schedule},
        training={**plan.training, "steps": steps},
    )


def _size(facts: Facts) -> Given:
    flat = facts.input_shape[0] == 1
    if not facts.accelerated:
        if flat:
            return Given("bscan_tiny", "ours: 2.7 million weights, which a CPU trains in minutes")
        return Given("cpu_smoke", "ours: half a million weights, which a CPU trains in minutes")
    if facts.volumes < FEW_VOLUMES or facts.memory_gb < 24:
        why = f"fewer than {FEW_VOLUMES:,} volumes" if facts.volumes < FEW_VOLUMES else "its memory"
        return Given("small", f"{VIT}; ours: {why}; 22 million weights, preset small_oct")
    return Given("base", f"{VIT}; preset base_oct. ViT-L: experiment=continued, with weights")


def _method(facts: Facts, tokens: int) -> tuple[NamedMasking, NamedObjective]:
    """Masks and objective: where few patches were tried, those that were best there."""
    if tokens > FEW_TOKENS:
        bounded = "multiblock_bounded" if tokens > MANY_TOKENS else "multiblock"
        return MASKINGS[bounded], OBJECTIVES["vjepa21_voxels"]
    flat = facts.input_shape[0] == 1
    return MASKINGS["mae"], OBJECTIVES["vjepa21_filters" if flat else "vjepa2_voxels"]


def _patch(shape: tuple[int, int, int]) -> Given:
    deep, high, wide = shape
    z = 1 if deep == 1 else _divisor(deep, (4, 2, 1) if deep >= 32 else (2, 1))
    y = _divisor(high, (16, 8, 4) if high >= 192 else (8, 4))
    tiny = deep > 1 and wide <= 64
    x = _divisor(wide, (8, 4) if tiny else (16, 8, 4))
    if not (z and y and x):
        raise ValueError(f"plan: no patch divides volumes of {shape}; take a multiple of 16")
    tokens = math.prod(grid_of(shape, (z, y, x)))
    why = "8 rows a patch keep layers apart, ours" if y == 8 else "16 x 16 as in V-JEPA 2"
    if tiny:
        why = "small lesions are seen, preset cpu_smoke"
    return Given((z, y, x), f"{tokens:,} patches a volume; {why}")


def _divisor(size: int, sizes: tuple[int, ...]) -> int:
    return next((one for one in sizes if size % one == 0), 0)


def _batch(facts: Facts) -> Given:
    usual = (
        Given(32, "presets small_oct and base_oct")
        if facts.accelerated
        else Given(16, "preset cpu_smoke")
    )
    if facts.volumes >= usual.value:
        return usual
    return Given(facts.volumes, "all volumes: there are no more")


def _recompute(facts: Facts, tokens: int) -> Settings:
    if facts.accelerated and tokens > MANY_TOKENS and facts.memory_gb < 60:
        reason = f"ours: {tokens:,} patches in {facts.memory_gb:.0f} GB; a third more time"
        return {"recompute": Given(True, reason)}
    return {}
