"""What do our checkpoints promise that torch.distributed.checkpoint does not; what is the price?

Three ways to write the same 24 tensors of 80 MB, one process: `oct_xla.Checkpoints`,
torch.distributed.checkpoint as it comes, and with its safetensors writer; the last two into a
folder a step. Of the first of these the newest folder with `.metadata` is taken up, which is
written last; the safetensors writer leaves no such mark, so there it is the newest by name.

    killed     a process that saves step after step is killed (kill -9) at a seeded moment; how many
               of the folders that were left are taken up whole, and how many are not to be read
    one byte   a byte of a finished checkpoint is changed at a seeded place, in turn in its largest
               file and in one of the small ones that say what lies where, if it has any; how many
               are refused, read as other numbers, or read as they were
    time       median seconds of a save and of a load; ours hashes each byte, flushes each to disk
    beside     two processes reduce gradients by gloo while a save goes on beside them, in the group
               of the training and in one of its own: does it end? Ours needs no group

    uv run python benchmarks/checkpoint_formats.py [--kills 20] [--bytes 40]

Some five minutes of one core.
"""

import argparse
import itertools
import json
import multiprocessing
import pickletools
import shutil
import statistics
import tempfile
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from oct_xla import CheckpointError, Checkpoints
from writing import write_results

COUNT, SIDE = 24, 913  # 80 MB of float32
SAVES = 7
LIMIT_S = 30
OURS, PLAIN, SAFE = "ours", "torch.distributed.checkpoint", "the same in safetensors"
WAYS = (OURS, PLAIN, SAFE)
SMALL = 1 << 20  # bytes
SPAWN = multiprocessing.get_context("spawn")
WHOLE, REFUSED, WRONG = "whole", "not to be read", "other numbers, no word"


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    """Weights that say which step they are of."""
    return {f"weight-{one:02d}": torch.full((SIDE, SIDE), float(step)) for one in range(COUNT)}


def save(way: str, root: Path, step: int) -> None:
    """Write the checkpoint of a step."""
    tensors = tensors_of(step)
    if way == OURS:
        Checkpoints(root).save(step, tensors, {"step": step})
        return
    folder = root / f"step-{step:08d}"
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dcp.save(tensors, storage_writer=writer if way == SAFE else dcp.FileSystemWriter(folder))


def load(way: str, root: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """The newest checkpoint: its step, and what its tensors are."""
    if way == OURS:
        found = Checkpoints(root).restore()
        if found is None:
            raise FileNotFoundError(root)
        return found.state["step"], dict(found.tensors)
    mark = "step-*/.metadata" if way == PLAIN else "step-*/*.safetensors"
    folder = max(root.glob(mark)).parent
    tensors = tensors_of(-1)
    reader = dcp.HuggingFaceStorageReader(str(folder))
    dcp.load(tensors, storage_reader=reader if way == SAFE else dcp.FileSystemReader(folder))
    return int(folder.name.removeprefix("step-")), tensors


def outcome(way: str, root: Path) -> str:
    """How the newest checkpoint is taken up.

    We promise one kind of error; torch may raise any, and its own one is no Exception.
    """
    refusals = (CheckpointError,) if way == OURS else (dcp.api.CheckpointException, Exception)
    try:
        step, tensors = load(way, root)
    except refusals:
        return REFUSED
    right = tensors_of(step)
    same = all(torch.equal(tensors[name], right[name]) for name in right)
    return WHOLE if same and len(tensors) == len(right) else WRONG


def killed(way: str, tries: int, scratch: Path) -> dict[str, int]:
    """Kill a saving process at seeded moments; what is left, counted."""
    dice, found = np.random.default_rng(0), Counter[str]()
    for one in range(tries):
        root, saved = scratch / f"killed-{one}", SPAWN.Event()
        process = SPAWN.Process(target=save_for_ever, args=(way, root, saved), daemon=True)
        process.start()
        saved.wait()
        time.sleep(dice.uniform(0.05, 1.5))
        process.kill()
        process.join()
        found[outcome(way, root)] += 1
        shutil.rmtree(root)
    return dict(found)


def save_for_ever(way: str, root: Path, saved: Event) -> None:
    """Save step after step; told once one is whole."""
    for step in itertools.count():
        save(way, root, step)
        saved.set()


def one_byte(way: str, tries: int, scratch: Path) -> dict[str, int]:
    """Change one byte, as the docstring on top says; what is read then, counted."""
    dice, found = np.random.default_rng(1), Counter[str]()
    whole, root = scratch / "whole", scratch / "changed"
    save(way, whole, 3)
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    largest = max(files, key=lambda file: file.stat().st_size)
    small = [path for path in files if path.stat().st_size < SMALL] or [largest]
    for one in range(tries):
        shutil.copytree(whole, root)
        path = small[dice.integers(len(small))] if one % 2 else largest
        content = bytearray(path.read_bytes())
        content[dice.integers(len(content))] ^= 1 << int(dice.integers(8))
        (root / path.relative_to(whole)).write_bytes(content)
        found[outcome(way, root)] += 1
        shutil.rmtree(root)
    return dict(found)


def timed(way: str, scratch: Path) -> dict[str, float]:
    """Median seconds of a save and of a load."""
    saves, loads = [], []
    for one in range(SAVES):
        root = scratch / f"timed-{one}"
        began = time.perf_counter()
        save(way, root, one)
        saves.append(time.perf_counter() - began)
        began = time.perf_counter()
        load(way, root)
        loads.append(time.perf_counter() - began)
        shutil.rmtree(root)
    return {
        "save_s": round(statistics.median(saves), 3),
        "load_s": round(statistics.median(loads), 3),
    }


def has_pickle(way: str, scratch: Path) -> bool:
    """Whether a file of a checkpoint is a pickle, which may run code when it is read."""
    root = scratch / "pickle"
    save(way, root, 0)
    for path in (path for path in root.rglob("*") if path.is_file()):
        try:
            list(pickletools.genops(path.read_bytes()[: 1 << 20]))
        except ValueError:
            continue
        return True
    return False


def train_beside(own: bool, rank: int, folder: Path) -> None:
    """What one of two processes does: reduce, and save beside it."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    group = dist.new_group(backend="gloo") if own else None
    saving = None
    for step in range(6):
        gradient = torch.ones(1000)
        for _ in range(20):
            dist.all_reduce(gradient)
        if saving is not None:
            saving.result()
        writer = dcp.HuggingFaceStorageWriter(str(folder / f"step-{step}"), save_distributed=True)
        saving = dcp.async_save(tensors_of(step), storage_writer=writer, process_group=group)
    saving.result()
    dist.destroy_process_group()


def beside(own: bool, tries: int, scratch: Path) -> dict[str, int]:
    """Whether a save beside two training processes ends, counted."""
    found = Counter[str]()
    for one in range(tries):
        folder = scratch / f"beside-{own}-{one}"
        folder.mkdir()
        processes = [
            SPAWN.Process(target=train_beside, args=(own, rank, folder), daemon=True)
            for rank in (0, 1)
        ]
        for process in processes:
            process.start()
        until = time.monotonic() + LIMIT_S
        for process in processes:
            process.join(max(until - time.monotonic(), 0))
        codes = [process.exitcode for process in processes]
        if None in codes:
            found[f"does not end in {LIMIT_S} s"] += 1
        else:
            found["ends with an error" if any(codes) else "ends"] += 1
        for process in processes:
            process.kill()
            process.join()
    return dict(found)


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--bytes", type=int, default=40)
    given = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(WAYS):
            scratch = Path(folder) / str(number)
            rows[way] = {
                "killed": killed(way, given.kills, scratch),
                "one_byte": one_byte(way, given.bytes, scratch),
                **timed(way, scratch),
                "pickle": has_pickle(way, scratch),
            }
            print(way, json.dumps(rows[way]), flush=True)
        groups = {
            "the group of the training": beside(False, 3, Path(folder)),
            "a group of its own": beside(True, 3, Path(folder)),
        }
    print(json.dumps(groups))
    write_results("checkpoint_formats", ("torch", "oct-xla"), {"ways": rows, "beside": groups})


if __name__ == "__main__":
    main()
