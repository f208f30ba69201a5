"""How fast this machine trains: random voxels instead of scans, a table instead of an encoder."""

import json
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import oct_vjepa
import oct_xla
import torch
from numpy.typing import NDArray
from oct_launch import EXIT_STOPPED, Mistake, mistakes, print_table, refuse_url
from oct_vjepa.objectives.objective import Objective
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.presets.costs import count, step_flops
from oct_xla.errors import OutOfMemoryError
from oct_xla.folder.journal import Row
from oct_xla.loop import PROFILE
from oct_xla.telling.work import Work, measure_peak
from samples import PretrainSamples
from settings import PretrainConfig

RESULT = "bench.json"
DIFFERENT = 8  # volumes; more are no other work, and have to be drawn
SPACING_MM = (0.1, 0.004, 0.012)  # of macula6, for encoders whose positions are lengths


class Entry(NamedTuple):
    """What is known of a volume."""

    spacing: tuple[float, float, float]


class RandomVolumes:
    """Volumes of noise; as many as one likes, of which few differ.

    Args:
        shape: (Z, Y, X) of each.
        length: how many there are said to be.
        seed: names them.
    """

    def __init__(self, shape: tuple[int, int, int], length: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._drawn = generator.integers(0, 256, (DIFFERENT, *shape), dtype=np.uint8)
        self.entries: Sequence[Entry] = [Entry(SPACING_MM)] * length

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self._drawn[index % DIFFERENT]

    def ahead(self, numbers: Iterable[int]) -> None:
        """They are here already."""


class Rows(list[dict[str, float]]):
    """Keeps what a run tells."""

    def write(self, row: Row) -> None:
        """Keep one row."""
        self.append(dict(row))

    def close(self) -> None:
        """Nothing to finish."""


def bench(config: PretrainConfig) -> int:
    """Train on noise for some steps, print what that took, and return the exit code.

    The first rows are left out: they hold compilation and cold caches.
    """
    refuse_url("run_dir", config.run_dir)
    with mistakes(ValueError):
        if config.loop.steps < 2 * config.loop.log_every:
            raise ValueError(
                f"loop.steps ({config.loop.steps}) must be at least 2 x loop.log_every"
                f" ({config.loop.log_every}): the first rows are left out"
            )
        if config.pairs != "none":
            raise ValueError(f"pairs ({config.pairs}) must be none here: noise is of nobody")
        runtime = config.runtime.pick()
        torch.manual_seed(config.seed)
        encoder = oct_vjepa.Encoder(config.encoder)
        objective = build_objective(encoder, config.objective, config.masking)
    length = max(config.feed.batch_size * config.loop.steps, DIFFERENT)
    samples = PretrainSamples(
        RandomVolumes(config.encoder.input_shape, length, config.seed),
        range(length),
        config.masking,
        augment=config.augment,
        encoder=config.encoder,
        seed=config.seed,
    )
    work = work_of(config, runtime)
    parameters = count(objective)  # before it is cut over devices
    rows = Rows()
    place = make_place(Path(config.run_dir), runtime)
    try:
        result = oct_xla.fit(
            objective,
            oct_xla.Feed(samples, length, config.feed),
            config.loop,
            runtime=runtime,
            run_dir=place,
            learning_rate=lambda step: config.schedule.at(step, config.loop.steps),
            seed=config.seed,
            sinks=[rows],
            progress=True,
            work=work,
        )
        keep_traces(place / PROFILE, Path(config.run_dir) / PROFILE, runtime)
    except OutOfMemoryError as error:  # the folder with its note is gone at once
        raise Mistake(f"{error}; raise loop.accumulate") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)  # of hosts that share no disk each has one
    runtime.close()
    if result.reason == "stopped":
        return EXIT_STOPPED
    if runtime.rank == 0:
        tell(config, runtime, parameters, work, rows)
    return 0


def work_of(config: PretrainConfig, runtime: oct_xla.Runtime) -> Work | None:
    """Count the operations of a step, and time what the devices can do; None: cannot be counted.

    Counted on the meta device by torch.utils.flop_counter, without what `recompute` does twice; the
    same as 24 N D^2 + 4 N^2 D for each block and pass (`oct_vjepa.presets.costs`).
    """
    plain = replace(config.encoder, recompute=False)
    try:
        with torch.device("meta"):
            objective: Objective = build_objective(
                oct_vjepa.Encoder(plain), config.objective, config.masking
            )
            flops = step_flops(objective)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        if runtime.rank == 0:
            print(f"no MFU: this objective's operations cannot be counted: {error}")
        return None
    return Work(flops, measure_peak(runtime))


def make_place(run_dir: Path, runtime: oct_xla.Runtime) -> Path:
    """Make a folder for the checkpoints of this bench, the same for all processes."""
    made = ""
    if runtime.rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix="bench-", dir=run_dir)
    return Path(runtime.share(made)[0])


def keep_traces(made: Path, kept: Path, runtime: oct_xla.Runtime) -> None:
    """Move the traces of this process out of a folder that goes, in place of those of before."""
    for name in (f"rank-{runtime.rank}.json", f"rank-{runtime.rank}"):
        if not (made / name).exists():
            continue
        kept.mkdir(parents=True, exist_ok=True)
        if (kept / name).is_dir():
            shutil.rmtree(kept / name)
        (made / name).replace(kept / name)
        print(f"trace: {kept / name}")
    runtime.share("")  # nobody takes the folder away before


def tell(
    config: PretrainConfig,
    runtime: oct_xla.Runtime,
    parameters: int,
    work: Work | None,
    rows: Sequence[Mapping[str, float]],
) -> None:
    """Print the table, and write the same numbers to bench.json in the run folder."""
    first = sum(row["step"] <= config.loop.log_every for row in rows)
    before, late = rows[first - 1], rows[first:]
    mean = {key: statistics.fmean(row[key] for row in late) for key in late[0]}
    volumes_per_s = mean["volumes_per_s"]
    numbers = {
        "seconds_a_step": config.feed.batch_size / volumes_per_s,
        "volumes_per_s": volumes_per_s,
        "volumes_per_s_and_device": volumes_per_s / runtime.devices,
        **{f"{part}_fraction": mean[f"{part}_fraction"] for part in ("compute", "wait", "save")},
        "data_wait_fraction": mean["data_wait_fraction"],
        "peak_memory_gb": late[-1]["peak_memory_gb"],
        "compilations": late[-1]["compilations"],
        "compilations_while_measured": late[-1]["compilations"] - before["compilations"],
    }
    if work is not None:
        numbers["tflop_a_volume"] = work.flops_per_volume / 1e12
        numbers["tflops_per_s"] = work.flops_per_volume * volumes_per_s / 1e12
        numbers["peak_tflops_per_s"] = work.peak_flops_per_s / 1e12
        numbers["mfu"] = mean["mfu"]
    settings = {
        "runtime": runtime.name,
        "devices": runtime.devices,
        "precision": runtime.precision,
        "parallel": runtime.parallel,
        "parameters": parameters,
        "volume": list(config.encoder.input_shape),
        "tokens": config.encoder.tokens,
        "batch_size": config.feed.batch_size,
        "accumulate": config.loop.accumulate,
        "steps_measured": int(late[-1]["step"]) - config.loop.log_every,
        "torch": torch.__version__,
    }
    shown = [[key, str(value)] for key, value in settings.items()]
    print_table(["bench", ""], [*shown, *([key, f"{one:.4g}"] for key, one in numbers.items())])
    path = Path(config.run_dir) / RESULT
    path.write_text(json.dumps({"settings": settings, **numbers}, indent=1) + "\n")
    print(f"the same: {path}")
