"""How long does the app take before its first step, by stage?

The smoke experiment, its phantoms drawn and cached by a first start that is not counted, is started
`ROUNDS` times and killed once its first row of metrics is there. Told are seconds on the clock and
processor seconds of the whole process; of those, what a bare `import torch` and the import of the
app's own modules take, each in a fresh interpreter.

    python benchmarks/start_up.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from writing import write_results

ROUNDS = 5
ROOT = Path(__file__).parent.parent
OPTIONS = ("experiment=smoke", "loop.evaluate_every=0", "loop.checkpoint_every=0", "loop.steps=2")
IMPORTS = {
    "import torch": "import torch",
    "import the libraries": "import torch, oct_io, oct_vjepa, oct_xla.loop, oct_launch",
    "import all that a run imports": "import pretraining",
}


class Took(NamedTuple):
    """Seconds on the clock, and of processors."""

    clock_s: float
    cpu_s: float


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far, of all its threads and of children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def until(process: subprocess.Popen[bytes], rows: Path) -> Took:
    """Wait for the first row of metrics, and end the process."""
    began_s, used_s = time.perf_counter(), 0.0
    while not (rows.exists() and rows.read_bytes().count(b"\n")):
        if process.poll() is not None:
            sys.exit(f"the app ended with {process.returncode}")
        used_s = cpu_s(process.pid)
        time.sleep(0.01)
    took = Took(time.perf_counter() - began_s, used_s)
    process.kill()
    process.wait()
    return took


def start_app(folder: Path, number: int) -> Took:
    """Start the app in a folder of its own; the data are shared."""
    run_dir = folder / f"run-{number}"
    options = (*OPTIONS, f"run_dir={run_dir}", f"data.root={folder / 'data'}")
    command = [sys.executable, str(ROOT / "apps" / "pretrain"), *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    return until(process, run_dir / "metrics.jsonl")


def start_python(code: str) -> Took:
    """Run some code in a fresh interpreter."""
    began_s, before = time.perf_counter(), os.times()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "apps" / "pretrain")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    after = os.times()
    used_s = after.children_user + after.children_system
    return Took(
        time.perf_counter() - began_s, used_s - before.children_user - before.children_system
    )


def middle(took: list[Took]) -> dict[str, float]:
    """Medians."""
    clocks, cpus = zip(*took, strict=True)
    return {
        "clock_s": round(statistics.median(clocks), 2),
        "cpu_s": round(statistics.median(cpus), 2),
    }


def main() -> None:
    """Measure, print and write down."""
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {}
    with tempfile.TemporaryDirectory() as name:
        start_app(Path(name), 0)
        rounds = [start_app(Path(name), number) for number in range(1, ROUNDS + 1)]
        found["the app before the end of its first step"] = middle(rounds)
        for what, code in IMPORTS.items():
            found[what] = middle([start_python(code) for _ in range(ROUNDS)])
    for what, seconds in found.items():
        print(f"{what:42} {seconds}")
    write_results("start_up", ("torch", "oct-xla", "oct-vjepa", "oct-io"), {"seconds": found})


if __name__ == "__main__":
    main()
