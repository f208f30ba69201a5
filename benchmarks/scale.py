"""How do order, feed and checkpoints grow, and what does a ViT-g ask of a machine?

The order: positions of one step looked up by 64 hosts, at 10^6 to 10^9 samples, in the first step
and in the middle of a later epoch; memory is what Python allocated meanwhile. At 10^6 samples a
whole epoch of 64 hosts is drawn, and every sample counted. At 10^9 those of 100 steps.

The checkpoints: states of several sizes, cut over 1 to 64 hosts, whose parts are written with their
hashes one after the other, put together, read and verified, on the local disk. The models:
parameters, operations of a step by torch.utils.flop_counter on the meta device, and bytes for each
volume and parameter; nothing of that has run on an accelerator.

    python benchmarks/scale.py
"""

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oct_vjepa import EncoderConfig, MaskingConfig
from oct_vjepa.masking.configuration import MaskSetConfig
from oct_vjepa.model.configuration import PredictorConfig, encoder_config
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.configuration import JepaConfig
from oct_vjepa.objectives.jepa import Jepa
from oct_vjepa.presets.costs import STATE_BYTES, TEACHER_BYTES, block_numbers, count, step_flops
from oct_xla import Checkpoints, Feed, FeedConfig
from oct_xla.devices.sharding import Piece
from writing import write_results

HOSTS, BATCH = 64, 2048
LENGTHS = (10**6, 10**7, 10**8, 10**9)
MODELS = ("base", "large", "giant")
WINDOW = {"input_shape": (64, 384, 384), "patch_size": (4, 16, 16)}
CHECKPOINTS = ((64, 1), (256, 1), (1024, 1), (256, 4), (256, 16), (256, 64), (1024, 64))
"""Megabytes, and hosts that write a part each."""

TENSORS, WIDTH = 300, 384  # as of a ViT-S with its predictor, teacher and moments


def nothing(index: int, epoch: int) -> int:
    """Stand for a sample; only its number counts here."""
    del epoch
    return index


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds, megabytes that Python allocated at the most, and the result."""
    tracemalloc.start()
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return seconds, peak, result


def first_keys(feed: Feed, step: int) -> list[list[tuple[int, int]]]:
    """What each host takes in one step."""
    return [next(feed.keys(step, rank=host, world=HOSTS)) for host in range(HOSTS)]


def measure_order(length: int) -> dict[str, Any]:
    """One step of all hosts at the start and far inside, and whether they share a sample."""
    feed = Feed(nothing, length, FeedConfig(batch_size=BATCH))
    far = 2 * feed.steps_per_epoch + feed.steps_per_epoch // 2
    begin_s, peak_mb, begin = timed(lambda: first_keys(feed, 0))
    resume_s, _, resumed = timed(lambda: first_keys(feed, far))
    disjoint = all(len({key for keys in one for key in keys}) == BATCH for one in (begin, resumed))
    return {
        "begin_ms_a_host": round(1e3 * begin_s / HOSTS, 3),
        "resume_ms_a_host": round(1e3 * resume_s / HOSTS, 3),
        "peak_mb": round(peak_mb, 2),
        "hosts_disjoint": disjoint,
    }


def count_epoch(length: int, steps: int) -> dict[str, Any]:
    """Draw `steps` steps of all hosts, and count how often each sample comes."""
    feed = Feed(nothing, length, FeedConfig(batch_size=BATCH))
    start, taken = time.process_time(), []
    for host in range(HOSTS):
        keys = feed.keys(0, rank=host, world=HOSTS)
        taken.append(np.array([[index for index, _ in next(keys)] for _ in range(steps)]))
    drawn = np.concatenate([one.ravel() for one in taken])
    return {
        "steps": steps,
        "drawn": int(drawn.size),
        "different": int(np.unique(drawn).size),
        "us_a_sample": round(1e6 * (time.process_time() - start) / drawn.size, 3),
    }


def measure_checkpoint(megabytes: int, hosts: int) -> dict[str, Any]:
    """Have each host write its part, one after the other, put them together, and read all."""
    rows = megabytes * 10**6 // (4 * WIDTH * TENSORS) // hosts * hosts
    tensors = {f"tensor{number}": torch.randn(rows, WIDTH) for number in range(TENSORS)}
    size_gb = sum(tensor.numel() * 4 for tensor in tensors.values()) / 1e9
    each, parts_s = rows // hosts, []
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(Path(folder) / "checkpoints")
        store.open(1)
        written = []
        for host in range(hosts):
            own = slice(host * each, (host + 1) * each)
            pieces = {
                name: Piece(tensor[own], (host * each, 0), tuple(tensor.shape))
                for name, tensor in tensors.items()
            }
            start = time.perf_counter()
            written.append(store.write(1, pieces, part=host, parts=hosts))
            parts_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        place = store.commit(1, written[0], {"step": 1}, parts=hosts)
        commit_s = time.perf_counter() - start
        start = time.perf_counter()
        found = store.load(1)
        read_s = time.perf_counter() - start
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
        files = list(place.iterdir())
        state_kb = (place / "state.json").stat().st_size / 1e3
    return {
        "gb": round(size_gb, 3),
        "tensors": TENSORS,
        "hosts": hosts,
        "files": len(files),
        "state_kb": round(state_kb, 1),
        "write_ms_of_a_host": round(1e3 * statistics.median(parts_s), 1),
        "write_s_a_gb": round(sum(parts_s) / size_gb, 2),
        "commit_ms": round(1e3 * commit_s, 1),
        "read_s_a_gb": round(read_s / size_gb, 2),
    }


def describe_model(size: str) -> dict[str, Any]:
    """Parameters, operations of a step for one volume, and bytes, with the bounded masks."""
    config: EncoderConfig = encoder_config(size, **WINDOW)
    masking = MaskingConfig(
        sets=[
            MaskSetConfig(
                blocks=blocks,
                scale=scale,
                target_fraction=target,
                context_fraction=context,
                max_targets=2048,
            )
            for blocks, scale, target, context in ((8, 0.15, 0.60, 0.30), (2, 0.70, 0.80, 0.15))
        ]
    )
    with torch.device("meta"):
        jepa = Jepa(Encoder(config), JepaConfig(predictor=PredictorConfig()), masking)
        flops = step_flops(jepa)
    encoder = count(jepa.encoder)
    trained = encoder + count(jepa.predictor)
    contexts = [one.sizes(config.grid)[1] for one in masking.sets]
    whole = [config.depth * block_numbers(one, config.width, config.mlp_ratio) for one in contexts]
    kept = [
        config.depth * one * config.width + block_numbers(one, config.width, config.mlp_ratio)
        for one in contexts
    ]
    return {
        "encoder_parameters": encoder,
        "trained_parameters": trained,
        "tokens": config.tokens,
        "tflop_a_volume": round(flops / 1e12, 2),
        "state_gb": round((STATE_BYTES * trained + TEACHER_BYTES * encoder) / 1e9, 2),
        "checkpoint_gb": round((12 * trained + 4 * encoder) / 1e9, 2),
        "encoder_activations_gb_a_volume_bf16": round(2 * sum(whole) / 1e9, 2),
        "the_same_with_recompute": round(2 * sum(kept) / 1e9, 2),
    }


def main() -> None:
    """Measure, print and write everything."""
    facts = {
        "hosts": HOSTS,
        "batch_size": BATCH,
        "order": {f"{length:.0e}": measure_order(length) for length in LENGTHS},
        "epoch_of_1e6": count_epoch(10**6, 10**6 // BATCH),
        "part_of_1e9": count_epoch(10**9, 100),
        "checkpoints": [measure_checkpoint(*one) for one in CHECKPOINTS],
        "models": {size: describe_model(size) for size in MODELS},
    }
    for name, value in facts.items():
        print(name, value)
    write_results("scale", ("torch", "numpy", "oct-xla", "oct-vjepa"), facts)


if __name__ == "__main__":
    main()
