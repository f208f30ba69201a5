"""A plan from top to bottom: look at the data and the machine, propose, time some steps, write."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import oct_vjepa
import oct_xla
import torch
from oct_io.space.windows import find_window
from oct_io.survey import Sampled, Survey, WindowChoice, choose_window, sample_cache, survey
from oct_io.threads import usable_cpus
from oct_launch import Mistake, Stages, mistakes
from oct_vjepa.plans.facts import Facts, Measured
from oct_vjepa.plans.proposal import fit_to_hours, hours_of, propose
from oct_vjepa.presets.runs import Preset
from oct_vjepa.presets.sources import Given
from planfile import Estimate, write_plan
from samples import PretrainSamples
from settings import PretrainConfig

SAMPLED = 16
"""Scans that are decoded and trained on to see what that takes."""
HALVINGS = 5
"""How often a micro-batch is halved that does not fit the memory."""
CPU_HOURS, ACCELERATOR_HOURS = 1.0, 24.0


def make_plan(config: PretrainConfig) -> int:
    """Write the plan that `config.propose` asks for; returns the exit code."""
    target = Path(config.propose.to)
    if target.suffix != ".yaml" or target.exists():
        raise Mistake(f"propose.to={target}: must be a new file that ends in .yaml")
    runtime = config.runtime.pick()
    with Stages() as stages:
        found, looked = survey(config.data, stages)
        for line in found.describe():
            stages.say(line)
        window = choose_window(found, accelerated=runtime.name != "cpu")
        with mistakes(ValueError):
            facts = gather(config, found, window, runtime)
            plan = propose(facts)
        with tempfile.TemporaryDirectory(prefix="oct-plan-") as scratch:
            sampled = sample_cache(
                config.data, looked, window.name, Path(scratch) / "cache", SAMPLED
            )
            stages.say(f"{window.name}: timing {config.propose.timed_steps} steps")
            measured = time_steps(config, plan, sampled, runtime)
    runtime.close()
    plan = fit_to_hours(plan, facts, measured)
    estimate = Estimate(
        train_hours=hours_of(plan, measured),
        cache_hours=sampled.seconds * found.scans / usable_cpus() / 3600,
        cache_gb=found.scans * sampled.volumes[0].nbytes / 1e9,
        free_gb=shutil.disk_usage(standing(Path(config.data.cache))).free / 1e9,
        workers=workers_for(facts),
    )
    said = [describe(facts), *estimate.describe(measured), *busy(facts)]
    write_plan(target, config, plan, window, estimate, [*found.describe(), *said])
    for line in said:
        print(line)
    print(f"plan: {target}; read its reasons, then: uv run apps/pretrain plan={target}")
    return 0


def gather(
    config: PretrainConfig, found: Survey, window: WindowChoice, runtime: oct_xla.Runtime
) -> Facts:
    """What the proposal goes by."""
    accelerated = runtime.name != "cpu"
    hours = config.propose.hours or (ACCELERATOR_HOURS if accelerated else CPU_HOURS)
    return Facts(
        volumes=max(found.training, 1),
        participants=max(found.participants, 1),
        input_shape=find_window(window.name).require_fixed_shape(),
        device=runtime.name,
        memory_gb=memory_gb(runtime),
        cores=usable_cpus(),
        hours=hours,
    )


def standing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there: on the disk that it will lie on."""
    here = folder.absolute()
    return next(one for one in (here, *here.parents) if one.exists())


def memory_gb(runtime: oct_xla.Runtime) -> float:
    """Memory of the device, or of the machine where the device does not say."""
    if runtime.device.type == "cuda":
        return torch.cuda.get_device_properties(runtime.device).total_memory / 1e9
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def describe(facts: Facts) -> str:
    """One line on the machine."""
    return f"machine: {facts.device}, {facts.memory_gb:.0f} GB of memory, {facts.cores} cores"


def busy(facts: Facts) -> list[str]:
    """What to know of a machine that others use, too."""
    load = os.getloadavg()[0]
    if load < 1.5 * facts.cores:
        return []
    return [
        f"the machine was busy, {load:.0f} processes for {facts.cores} cores: alone it is faster"
    ]


def workers_for(facts: Facts) -> Given:
    """Processes that prepare samples."""
    if not facts.accelerated:
        return Given(0, "a CPU trains with all of its cores, and a cache needs none")
    return Given(max(0, min(8, facts.cores - 1)), f"{facts.cores} cores, one for the loop")


def time_steps(
    config: PretrainConfig, plan: Preset, sampled: Sampled, runtime: oct_xla.Runtime
) -> Measured:
    """Take steps of the proposed model on real scans; what does not fit is cut into micro-batches.

    Raises:
        Mistake: not even the smallest micro-batch fits.
    """
    batch = int(plan.training["batch_size"].value)
    for halved in range(HALVINGS + 1):
        parts = 2**halved
        if batch % parts:
            break
        try:
            return _time(config, plan, sampled, runtime, parts)
        except (oct_xla.DeviceError, torch.OutOfMemoryError):
            if runtime.device.type == "cuda":
                torch.cuda.empty_cache()
    raise Mistake("a step of the proposed model does not fit the memory; choose a smaller window")


def _time(
    config: PretrainConfig, plan: Preset, sampled: Sampled, runtime: oct_xla.Runtime, parts: int
) -> Measured:
    torch.manual_seed(config.seed)
    objective = plan.assemble(oct_vjepa.Encoder(plan.encoder.config()))
    batch, steps = int(plan.training["batch_size"].value), config.propose.timed_steps
    count = len(sampled.volumes)
    samples = PretrainSamples(
        sampled.volumes,
        [number % count for number in range(max(batch, count))],
        plan.masking.config(),
        augment=config.augment,
        encoder=plan.encoder.config(),
        seed=config.seed,
    )
    clock = Clock()
    loop = oct_xla.LoopConfig(
        steps=steps + 1, accumulate=parts, log_every=1, checkpoint_every=0, evaluate_every=0
    )
    oct_xla.fit(
        objective,
        oct_xla.Feed(samples, len(samples), oct_xla.FeedConfig(batch_size=batch)),
        loop,
        runtime=runtime,
        learning_rate=lambda step: 1e-6,
        sinks=[clock],
    )
    rows = clock.rows[1:]  # the first one compiles, allocates and warms up
    passed = sorted(batch / row["volumes_per_s"] for row in rows)
    return Measured(
        step_s=passed[len(passed) // 2],
        steps=len(rows),
        accumulate=parts,
        memory_gb=max(row.get("peak_memory_gb") or 0.0 for row in rows),
    )


class Clock:
    """A sink that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write(self, row: Mapping[str, float]) -> None:
        """Keep a row."""
        self.rows.append(dict(row))

    def close(self) -> None:
        """Nothing is open."""
