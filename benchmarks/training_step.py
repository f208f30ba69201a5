"""What does a full training step cost, against the predecessor's and facebookresearch/vjepa2's own?

Time: forward, loss, backward, clipping, AdamW, EMA and the numbers that the log reads, at equal
shapes (step_arms.py, step_rivals.py). Each arm lives in a process of its own. The arms of a group
are alive together and take turns, one step each in every round, in an order that moves on by one a
round; while one steps the others wait. A ratio is one of medians over the rounds, and beside it
stand the smallest and the largest ratio of one round; above 1 means faster than the arm named.
MFU is the operations of the matrix products, none counted twice, over the time and over the peak
that a product of large square matrices reached in the same run.

Memory: in a fresh process an arm takes one step, and what it then holds is read (weights, moments,
teacher); during one more step, the most it held. The difference is the activations, gradients and
passing buffers of a step. On the CPU it is resident memory, and every block of 64 KB and above is
given back at once (MALLOC_MMAP_THRESHOLD_), which is slow, so that this step is not timed; on a GPU
it is what PyTorch's allocator handed out.

vjepa2 is given as a work tree; it imports timm (which needs torchvision) and einops, which may lie
in a folder on PYTHONPATH. Without --vjepa2 its arms are left out, and the result says so.

    git clone https://github.com/facebookresearch/vjepa2 ../vjepa2
    PYTHONPATH=../vjepa2-packages python benchmarks/training_step.py --vjepa2 ../vjepa2
    python benchmarks/training_step.py --device cuda --volume 64 384 384 --batch 2
"""

import argparse
import gc
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from oct_xla import DeviceError
from step_arms import Arm, Shape, build_attention, build_matmul, build_ours
from step_rivals import build_predecessor, build_vjepa2

OUT_OF_MEMORY = (torch.OutOfMemoryError, DeviceError)  # the loop's own step raises the latter
RESULTS = Path(__file__).parent / "results"
ARMS: dict[str, Callable[..., Arm]] = {
    "ours": build_ours,
    "ours_depth6": partial(build_ours, depth=6),
    "ours_subset": partial(build_ours, subset=True),
    "ours_depth6_subset": partial(build_ours, depth=6, subset=True),
    "ours_recompute": partial(build_ours, recompute=True),
    "ours_compiled": partial(build_ours, compiled=True),
    "predecessor": build_predecessor,
    "vjepa2": build_vjepa2,
    "vjepa2_recompute": partial(build_vjepa2, recompute=True),
    "vjepa2_compiled": partial(build_vjepa2, compiled=True),
    "attention_fused": partial(build_attention, naive=False),
    "attention_naive": partial(build_attention, naive=True),
    "matmul": build_matmul,
}
# The arms of a group fit into 20 GB together at 2,048 tokens of ViT-B.
GROUPS = {
    "parts": ("matmul", "attention_fused", "attention_naive"),
    "step": ("ours", "predecessor", "vjepa2"),
    "lighter": ("predecessor", "ours_depth6", "ours_subset", "ours_depth6_subset"),
    "recomputed": ("ours", "ours_recompute", "vjepa2_recompute"),
    "compiled": ("ours", "ours_compiled", "vjepa2_compiled"),
}
LARGEST = ("ours", "ours_subset", "ours_recompute", "predecessor", "vjepa2", "vjepa2_recompute")
VJEPA2_FILES = (
    "app/vjepa/train.py",
    "src/models/vision_transformer.py",
    "src/models/predictor.py",
    "src/models/utils/modules.py",
)


class Child:
    """An arm in a process of its own, which answers each line it gets with one JSON object."""

    def __init__(self, name: str, options: argparse.Namespace, *, exact: bool) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        if exact:
            environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        given = [*sys.argv[1:], "--arm", name]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *given],
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


def serve(options: argparse.Namespace) -> None:
    """Child: build an arm, then answer "start", "step" and "memory", one line each."""
    warnings.simplefilter("ignore")  # vjepa2 calls what PyTorch has renamed since
    torch.set_num_threads(options.threads)
    shape = shape_of(options)
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


def take_turns(names: Sequence[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Seconds of every round of each arm of a group, or why there are none."""
    rows: dict[str, dict[str, Any]] = {}
    children: dict[str, Child] = {}
    for name in names:
        children[name] = Child(name, options, exact=False)
        rows[name] = children[name].ask("start")
        if "failed" in rows[name]:
            children.pop(name).close()
        else:
            rows[name]["seconds"] = []
    alive = list(children)
    for turn in range(options.rounds):
        start = turn % len(alive) if alive else 0
        for name in alive[start:] + alive[:start]:
            answer = children[name].ask("step")
            rows[name] |= {"failed": answer["failed"]} if "failed" in answer else {}
            rows[name]["seconds"].append(answer.get("seconds", float("nan")))
    for child in children.values():
        child.close()
    return rows


def compare(rows: dict[str, dict[str, Any]]) -> None:
    """Add to each row its median and how many times faster it is than each other arm."""
    whole = {name: row for name, row in rows.items() if "failed" not in row}
    for name, row in whole.items():
        row["median_s"] = statistics.median(row["seconds"])
        row["faster_than"] = {}
        for other, against in whole.items():
            if other != name:
                pairs = zip(against["seconds"], row["seconds"], strict=True)
                ratios = sorted(theirs / mine for theirs, mine in pairs)
                ratio = statistics.median(against["seconds"]) / row["median_s"]
                row["faster_than"][other] = [ratio, ratios[0], ratios[-1]]


def ask_once(what: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The answer of a fresh process in which freed memory is given back at once."""
    child = Child(name, options, exact=True)
    answer = child.ask(what)
    child.close()
    return answer


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and print it."""
    result: dict[str, Any] = {"groups": {}, "memory": {}, "largest_batch": {}}
    peak = float("nan")
    for group in options.groups:
        names = [one for one in GROUPS[group] if options.vjepa2 or not one.startswith("vjepa2")]
        rows = result["groups"][group] = take_turns(names, options)
        compare(rows)
        if "median_s" in rows.get("matmul", {}):
            peak = rows["matmul"]["flops"] / rows["matmul"]["median_s"]
            result["peak_flops_per_s"] = peak
        for name, row in rows.items():
            if "median_s" in row:
                row["mfu"] = row["flops"] / row["median_s"] / peak if peak == peak else None
            if options.memory and name != "matmul" and name not in result["memory"]:
                result["memory"][name] = ask_once("memory", name, options)
            show(group, name, row, result["memory"].get(name, {}))
    if options.memory and options.device == "cuda":
        for name in LARGEST:
            if name in result["memory"]:
                result["largest_batch"][name] = ask_once("largest", name, options)
                print(f"{name:20}largest {result['largest_batch'][name]}", flush=True)
    return result | {"memory_ratios": memory_ratios(result["memory"])}


def memory_ratios(memory: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Memory of a step, ours over theirs, and of one attention."""
    pairs = [("attention_fused", "attention_naive"), ("ours_recompute", "vjepa2_recompute")]
    pairs += [(name, other) for name in memory for other in ("predecessor", "vjepa2")]
    return {
        f"{mine} over {theirs}": memory[mine]["step_bytes"] / memory[theirs]["step_bytes"]
        for mine, theirs in pairs
        if mine.startswith(("ours", "attention")) or theirs == "vjepa2"
        if all("step_bytes" in memory.get(name, {}) for name in (mine, theirs)) and mine != theirs
        if mine.startswith("attention") == theirs.startswith("attention")
    }


def show(group: str, name: str, row: dict[str, Any], memory: dict[str, Any]) -> None:
    """One line of the table."""
    if "failed" in row:
        print(f"{group:12}{name:20}{row['failed']}", flush=True)
        return
    low, high = min(row["seconds"]), max(row["seconds"])
    line = f"{group:12}{name:20}{row['median_s']:8.3f} s ({low:.3f} to {high:.3f})"
    line += f"  MFU {100 * row['mfu']:3.0f} %" if row["mfu"] is not None else ""
    if "step_bytes" in memory:
        line += f"  held {memory['held_bytes'] / 2**30:.2f} GiB"
        line += f"  step {memory['step_bytes'] / 2**30:.2f} GiB"
    for other, (ratio, smallest, largest) in row["faster_than"].items():
        line += f"  {ratio:.2f} ({smallest:.2f} to {largest:.2f}) x {other}"
    print(line, flush=True)


def shape_of(options: argparse.Namespace) -> Shape:
    """What all arms have in common."""
    return Shape(
        size=options.size,
        volume=tuple(options.volume),
        patch=(4, 16, 16),
        batch=options.batch,
        predictor=tuple(options.predictor),
        device=options.device,
    )


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on, for the file."""
    shown = ["DIR" if one == str(options.vjepa2) else one for one in sys.argv[1:]]
    machine = platform.processor() or platform.machine()
    if options.device == "cuda":
        machine = torch.cuda.get_device_name()
    elif (cpus := Path("/proc/cpuinfo")).exists():
        machine = (
            cpus.read_text().split("model name", 1)[-1].split(":", 1)[-1].split("\n")[0].strip()
        )
    tree: dict[str, str] | str = "not given: its arms were left out"
    if options.vjepa2:
        tree = {
            name: hashlib.sha256((options.vjepa2 / name).read_bytes()).hexdigest()
            for name in VJEPA2_FILES
        }
    shape = shape_of(options)
    return {
        "command": " ".join(["python benchmarks/training_step.py", *shown]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": machine,
        "threads": options.threads,
        "rounds": options.rounds,
        "clock": options.clock,
        "precision": "bf16 autocast" if options.device == "cuda" else "fp32",
        "shape": {**asdict(shape), "tokens": shape.tokens, "subset_targets": shape.max_targets},
        "vjepa2_sha256": tree,
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time and memory of a full training step.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", default="base", help="encoder: base, small, tiny, cpu_smoke")
    parser.add_argument("--volume", type=int, nargs=3, default=[32, 256, 256], metavar="N")
    parser.add_argument(
        "--predictor", type=int, nargs=3, default=[384, 12, 12], help="width, depth, heads"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time, fair with one thread where other work shares the machine",
    )
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--vjepa2", type=Path, help="work tree of facebookresearch/vjepa2")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/training_step*.json")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and write down; or serve one arm."""
    options = parse()
    if options.arm:
        serve(options)
        return
    name = "training_step.json" if options.device == "cpu" else "training_step_cuda.json"
    out = options.out or RESULTS / name
    result = setting(options) | run(options)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
