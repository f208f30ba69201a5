"""Runs the toy: as a program of its own, by torchrun, or in this process."""

import atexit
import io
import os
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import torch
from oct_xla import read_rows
from toy import options_of, train

TOY = str(Path(__file__).parent / "toy.py")


def torchrun(processes):
    return ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))


def forked(processes):
    """The same by `forked.py`, at a fraction of the imports."""
    return (str(Path(__file__).with_name("forked.py")), str(processes))


TORCHRUN = torchrun(2)
QUIET = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
XLA = {
    "PJRT_DEVICE": "CPU",
    "CPU_NUM_DEVICES": "4",
    # The same results to 1e-7, and an eighth of the compile time.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(run_dir, *options, launcher=(), before=(), **environment):
    """Start the toy: `launcher` stands behind Python, `before` in front of it."""
    command = [*before, sys.executable, *launcher, TOY, str(run_dir), *map(str, options)]
    names = ("PJRT_DEVICE", "CPU_NUM_DEVICES", "XLA_FLAGS")
    inherited = {k: v for k, v in os.environ.items() if k not in names}
    process = subprocess.Popen(
        command,
        env={**inherited, **QUIET, **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(process.kill)  # what a failed test has left
    return process


def finish(process):
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


def train_here(run_dir, *options):
    """What `finish(start(...))` gives, for a run that nobody disturbs: without seconds of imports.

    It computes with one thread, as a program does here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with redirect_stderr(io.StringIO()) as errors:
            code = train(options_of([str(run_dir), *map(str, options)]))
    finally:
        torch.set_num_threads(before)
    return code, errors.getvalue()


def losses(run_dir):
    return [(row["step"], row["loss"]) for row in read_rows(run_dir / "metrics.jsonl")]


def rows_of(run_dir):
    """How many rows a run has told."""
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_rows(process, run_dir, count):
    """Wait until a run has told `count` rows; fails if it ends before."""
    while rows_of(run_dir) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def error_lines(errors):
    return [line for line in errors.splitlines() if line.startswith("error: ")]
