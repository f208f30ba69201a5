"""One arm of training_step.py in a process of its own, and how that process is asked."""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from oct_xla.steps.failures import TooLarge
from step_arms import Arm, Shape, build_attention, build_matmul, build_ours
from step_rivals import build_predecessor, build_vjepa2

OUT_OF_MEMORY = (torch.OutOfMemoryError, TooLarge)  # the loop's own step raises the latter
ARMS: dict[str, Callable[..., Arm]] = {
    "ours": build_ours,
    "ours_depth6": partial(build_ours, depth=6),
    "ours_subset": partial(build_ours, subset=True),
    "ours_depth6_subset": partial(build_ours, depth=6, subset=True),
    "ours_recompute": partial(build_ours, recompute=True),
    "ours_compiled": partial(build_ours, compiled=True),
    "ours_bf16": partial(build_ours, precision="bf16"),
    "before": build_ours,
    "before_bf16": partial(build_ours, precision="bf16"),
    "predecessor": build_predecessor,
    "vjepa2": build_vjepa2,
    "vjepa2_recompute": partial(build_vjepa2, recompute=True),
    "vjepa2_compiled": partial(build_vjepa2, compiled=True),
    "attention_fused": partial(build_attention, naive=False),
    "attention_naive": partial(build_attention, naive=True),
    "matmul": build_matmul,
}


class Child:
    """An arm in a process of its own, which answers each line it gets with one JSON object."""

    def __init__(self, name: str, options: argparse.Namespace, *, exact: bool) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        if name.startswith("before"):
            sources = sorted(options.before.glob("packages/*/src"))
            environment["PYTHONPATH"] = os.pathsep.join(map(str, sources))
        if exact:
            environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        self.process = subprocess.Popen(
            [sys.executable, *sys.argv, "--arm", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, what: str) -> dict[str, Any]:
        """One answer; {"failed": why} if the arm cannot, or if the process is gone."""
        assert self.process.stdin
        assert self.process.stdout
        if self.process.poll() is None:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        return {"failed": f"the process ended with status {self.process.wait()}"}

    def close(self) -> None:
        """Let the process end and wait for it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve(options: argparse.Namespace, shape: Shape) -> None:
    """Build the arm at the first line, then answer each: start, step, memory or largest."""
    warnings.simplefilter("ignore")  # vjepa2 calls what PyTorch has renamed since
    torch.set_num_threads(options.threads)
    arm: Arm | None = None
    for line in sys.stdin:
        try:
            if line == "largest\n":
                answer: dict[str, Any] = {"batch": largest_batch(options, shape)}
            else:
                if arm is None:
                    arm = build(options, shape)
                    arm.step()  # the moments of AdamW, and compilation
                answer = answers(line.strip(), arm, options)
        except (*OUT_OF_MEMORY, torch._dynamo.exc.TorchDynamoException) as error:
            answer = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        print(json.dumps(answer), flush=True)


def build(options: argparse.Namespace, shape: Shape) -> Arm:
    """The arm of this process, its weights and optimiser on the device."""
    torch.manual_seed(0)
    tree = {"tree": options.vjepa2} if options.arm.startswith("vjepa2") else {}
    return ARMS[options.arm](shape, **tree)


def largest_batch(options: argparse.Namespace, shape: Shape) -> int:
    """The largest power of two of volumes whose step fits; 0 if not even one does."""
    batch = 1
    while fits(options, replace(shape, batch=batch)):
        batch *= 2
        gc.collect()
        torch.cuda.empty_cache()
    return batch // 2


def fits(options: argparse.Namespace, shape: Shape) -> bool:
    """Whether one step finds room."""
    try:
        build(options, shape).step()
    except OUT_OF_MEMORY:
        return False
    return True


def answers(what: str, arm: Arm, options: argparse.Namespace) -> dict[str, Any]:
    """What a child says to one line."""
    device = options.device
    if what == "start":
        return {"flops": arm.flops}
    if what == "step":
        if device == "cuda":
            arm.step()  # finds its memory again, which the others had meanwhile
        answer = {"seconds": timed(arm, device, options.clock)}
        if device == "cuda":
            torch.cuda.empty_cache()
        return answer
    assert what == "memory"
    held = forget_peak(device)
    timed(arm, device, options.clock)
    return {"held_bytes": held, "step_bytes": peak_bytes(device) - held}


def timed(arm: Arm, device: str, clock: str) -> float:
    """Seconds of one step."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = now()
    arm.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def forget_peak(device: str) -> int:
    """Bytes held now; peaks count from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM begins anew
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: str) -> int:
    """The most bytes held since `forget_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def ask_once(what: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The answer of a fresh process in which freed memory is given back at once."""
    child = Child(name, options, exact=True)
    answer = child.ask(what)
    child.close()
    return answer
