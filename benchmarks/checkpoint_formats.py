"""What do our checkpoints promise that torch.distributed.checkpoint does not; what is the price?

Three ways to write the same 24 tensors of 80 MB, one process: `oct_xla.Checkpoints`,
torch.distributed.checkpoint as it comes, and with its safetensors writer; the last two into a
folder a step. Of the first of these the newest folder with `.metadata` is taken up, which is
written last; the safetensors writer leaves no such mark, so there it is the newest by name.

    killed     a process that saves step after step is killed (kill -9) at a seeded moment; how many
               of the folders that were left are taken up whole, and how many are not to be read
    one byte   a byte of a finished checkpoint is changed at a seeded place; how many are refused,
               read as if nothing had happened with other numbers, or read with the right ones
    time       median seconds of a save and of a load; ours hashes each byte, flushes each to disk
    beside     two processes reduce gradients by gloo while a save goes on beside them, in the group
               of the training and in one of its own: does it end? Ours needs no group

    uv run python benchmarks/checkpoint_formats.py [--kills 20] [--bytes 40]

Some five minutes of one core.
"""

import argparse
import json
import pickletools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
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
    """How the newest checkpoint is taken up."""
    try:
        step, tensors = load(way, root)
    except (dcp.api.CheckpointException, CheckpointError, Exception):  # the first is no Exception
        return REFUSED
    right = tensors_of(step)
    same = all(torch.equal(tensors[name], right[name]) for name in right)
    return WHOLE if same and len(tensors) == len(right) else WRONG


def killed(way: str, tries: int, scratch: Path) -> dict[str, int]:
    """Kill a saving process at seeded moments; what is left, counted."""
    dice, found = np.random.default_rng(0), Counter[str]()
    for one in range(tries):
        root = scratch / f"killed-{one}"
        command = [sys.executable, __file__, "--save-into", str(root), "--way", way]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the first checkpoint is whole
            time.sleep(dice.uniform(0.05, 1.5))
            process.kill()
        found[outcome(way, root)] += 1
        shutil.rmtree(root)
    return dict(found)


def save_for_ever(way: str, root: Path) -> None:
    """Save step after step; told once one is whole."""
    step = 0
    while True:
        save(way, root, step)
        if not step:
            print("saved", flush=True)
        step += 1


def one_byte(way: str, tries: int, scratch: Path) -> dict[str, int]:
    """Change one byte at seeded places, by their share of all bytes; what is read then, counted."""
    dice, found = np.random.default_rng(1), Counter[str]()
    whole = scratch / "whole"
    save(way, whole, 3)
    files = sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    for one in range(tries):
        root = scratch / "changed"
        shutil.copytree(whole, root)
        # Every other one in the small files, which say where and what the rest is.
        small = [path for path in files if path.stat().st_size < 1 << 20] or files
        largest = max(files, key=lambda file: file.stat().st_size)
        path = small[dice.integers(len(small))] if one % 2 else largest
        changed = root / path.relative_to(whole)
        content = bytearray(changed.read_bytes())
        content[dice.integers(len(content))] ^= 1 << int(dice.integers(8))
        changed.write_bytes(content)
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
        command = [sys.executable, __file__, "--save-into", str(folder)]
        command += ["--way", "own" if own else "same", "--rank"]
        processes = [
            subprocess.Popen([*command, str(rank)], stderr=subprocess.DEVNULL) for rank in (0, 1)
        ]
        until = time.monotonic() + LIMIT_S
        try:
            codes = [process.wait(max(until - time.monotonic(), 0.1)) for process in processes]
            found["ends" if not any(codes) else "ends with an error"] += 1
        except subprocess.TimeoutExpired:
            found[f"does not end in {LIMIT_S} s"] += 1
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return dict(found)


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--bytes", type=int, default=40)
    parser.add_argument("--save-into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        train_beside(given.way == "own", given.rank, given.save_into)
        return
    if given.save_into:
        save_for_ever(given.way, given.save_into)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            scratch = Path(folder) / str(WAYS.index(way))
            rows[way] = {
                "killed": killed(way, given.kills, scratch),
                "one_byte": one_byte(way, given.bytes, scratch),
                **timed(way, scratch),
                "pickle": has_pickle(way, scratch),
            }
            print(way, json.dumps(rows[way]), flush=True)
        groups = {
            name: beside(name == "a group of its own", 3, Path(folder))
            for name in ("the group of the training", "a group of its own")
        }
    print(json.dumps(groups))
    write_results("checkpoint_formats", ("torch", "oct-xla"), {"ways": rows, "beside": groups})


if __name__ == "__main__":
    main()
