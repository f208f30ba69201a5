"""What does a full training step cost, against the predecessor's and facebookresearch/vjepa2's own?

Time: forward, loss, backward, clipping, AdamW, EMA and the numbers that the log reads, at equal
shapes (step_arms.py, step_rivals.py). Each arm lives in a process of its own. The arms of a group
are alive together and take turns, one step each in every round, in an order that moves on by one a
round; while one steps the others wait. A ratio is one of medians over the rounds, and beside it
stand the smallest and the largest ratio of one round; above 1 means faster than the arm named.
MFU is the operations of the matrix products, none counted twice, over the time and over the peak
that a product of large square matrices reached in the same run.

Memory: in a fresh process an arm takes one step, and what it then holds is read (Python with
PyTorch, weights, moments, teacher); during one more step, the most it held. The difference is the
activations, gradients and passing buffers of a step. On the CPU it is resident memory, and every
block of 64 KB and above is given back at once (MALLOC_MMAP_THRESHOLD_), which is slow, so that this
step is not timed; on a GPU it is what PyTorch's allocator handed out.

vjepa2 is given as a work tree; it imports timm (which needs torchvision) and einops, which may lie
in a folder on PYTHONPATH. Without --vjepa2 its arms are left out, and the result says so. So are
those of `before` without --before, the work tree of an earlier commit of this repository.
torch.compile wants a C++ compiler and setuptools, which may lie there too; where it fails, the
result says why.

    git clone https://github.com/facebookresearch/vjepa2 ../vjepa2
    PYTHONPATH=../vjepa2-packages python benchmarks/training_step.py --vjepa2 ../vjepa2
    python benchmarks/training_step.py --device cuda --volume 64 384 384 --batch 2
"""

import argparse
import hashlib
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from step_arms import Shape
from step_process import ARMS, Child, ask_once, serve
from writing import RESULTS

# The arms of a group fit into 20 GB together at 2,048 tokens of ViT-B.
GROUPS = {
    "parts": ("matmul", "attention_fused", "attention_naive"),
    "step": ("ours", "predecessor", "vjepa2"),
    "changed": ("matmul", "before", "ours", "before_bf16", "ours_bf16"),
    "rival": ("matmul", "before", "ours", "vjepa2"),
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
            if "failed" in answer:
                rows[name] |= answer
            else:
                rows[name]["seconds"].append(answer["seconds"])
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
            if other != name and "matmul" not in (name, other):
                pairs = zip(against["seconds"], row["seconds"], strict=True)
                ratios = sorted(theirs / mine for theirs, mine in pairs)
                ratio = statistics.median(against["seconds"]) / row["median_s"]
                row["faster_than"][other] = [ratio, ratios[0], ratios[-1]]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and print it."""
    result: dict[str, Any] = {"groups": {}, "memory": {}, "largest_batch": {}}
    peak = float("nan")
    for group in options.groups:
        names = [
            one
            for one in GROUPS[group]
            if (options.vjepa2 or not one.startswith("vjepa2"))
            and (options.before or not one.startswith("before"))
        ]
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
    """What a step takes beside what it holds, over the same of another arm."""
    # A step of a tiny shape can do with what was held before; then there is nothing to compare.
    taken = {name: row.get("step_bytes", 0) for name, row in memory.items()}
    bytes_of = {name: size for name, size in taken.items() if size > 0}
    pairs = [("attention_fused", "attention_naive"), ("ours_recompute", "vjepa2_recompute")]
    ours = [name for name in bytes_of if name.startswith("ours")]
    pairs += [(name, other) for other in ("predecessor", "vjepa2") for name in ours]
    return {
        f"{mine} over {theirs}": bytes_of[mine] / bytes_of[theirs]
        for mine, theirs in pairs
        if mine in bytes_of and theirs in bytes_of
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
        patch=tuple(options.patch),
        batch=options.batch,
        predictor=tuple(options.predictor),
        device=options.device,
        objective=options.objective,
    )


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on, for the file."""
    hidden = {str(options.vjepa2): "DIR", str(options.out): "FILE"}  # no paths of a machine
    hidden |= {str(options.before): "BEFORE"}
    shown = [hidden.get(one, one) for one in sys.argv[1:]]
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
    parser.add_argument("--patch", type=int, nargs=3, default=[4, 16, 16], metavar="N")
    parser.add_argument("--objective", choices=("vjepa2", "voxels"), default="vjepa2")
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
    parser.add_argument("--before", type=Path, help="work tree of an earlier commit of this one")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/training_step*.json")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print and write down; or serve one arm."""
    options = parse()
    if options.arm:
        serve(options, shape_of(options))
        return
    name = "training_step.json" if options.device == "cpu" else "training_step_cuda.json"
    out = options.out or RESULTS / name
    result = setting(options) | run(options)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
