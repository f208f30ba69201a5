"""Kills apps/pretrain with kill -9 at seeded moments, in forked children, to spare the imports.

python tests/killed_app.py FOLDER KILLS '["experiment=smoke", "data.root=DIR", ...]'

Reads of a volume, saves and evaluations take some time more here, so that kills fall into them.
Prints a line of JSON for each run that came through: how often it was killed and what it was doing
then, and whether rows and encoder are, bit for bit, those of a run that was never killed.
"""

import importlib
import json
import mmap
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import oct_io
import torch
from oct_xla.checkpointer import Checkpointer
from oct_xla.telling.metrics import CLOCKS
from several_runs import open_app, run

MOST = 3  # kills of a run
DOING = ("reading", "saving", "evaluating")


class Flags:
    """What a child is doing, for its parent to see after its death."""

    def __init__(self):
        self._shared = mmap.mmap(-1, len(DOING))

    def clear(self):
        self._shared[:] = bytes(len(DOING))

    def now(self):
        return [name for name, flag in zip(DOING, self._shared[:], strict=True) if flag] or ["step"]

    def around(self, owner, name, what, pause_s=0.0):
        """Have a method of a class say when it is under way."""
        place, real = DOING.index(what), getattr(owner, name)

        def told(*arguments, **more):
            self._shared[place] = 1
            time.sleep(pause_s)
            try:
                return real(*arguments, **more)
            finally:
                self._shared[place] = 0

        setattr(owner, name, told)


def start(pretraining, run_dir, overrides):
    """Fork a child that runs the app; returns its id."""
    child = os.fork()
    if child:
        return child
    out = os.open(run_dir.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 1
    try:
        code = run(pretraining, [*overrides, f"run_dir={run_dir}"])
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "rows": [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows],
        "encoder": (run_dir / "encoder/model.safetensors").read_bytes(),
        "probes": (run_dir / "probes.json").read_text(),
    }


def main(folder, kills, overrides):
    pretraining = open_app()
    flags = Flags()
    flags.around(oct_io.CachedVolumes, "__getitem__", "reading", 0.02)
    flags.around(Checkpointer, "_write", "saving", 0.1)
    flags.around(importlib.import_module("watching").Watch, "__call__", "evaluating", 0.5)
    for name in ("warm-up", "whole"):  # the first builds the cache
        began = time.monotonic()
        assert wait(start(pretraining, folder / name, overrides)) == 0
        lasts_s = time.monotonic() - began
    whole, done, number = outcome(folder / "whole"), 0, 0
    while done < kills:
        draws, doing, code = np.random.default_rng(number), [], None
        run_dir = folder / f"run-{number}"
        while code != 0:
            flags.clear()
            child = start(pretraining, run_dir, overrides)
            if len(doing) < MOST:
                time.sleep(draws.uniform(0, lasts_s))
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            assert code in (0, -signal.SIGKILL), run_dir.with_suffix(".out").read_text()
            if code:
                doing.append(flags.now())
        found = outcome(run_dir)
        equal = {name: found[name] == value for name, value in whole.items()}
        print(json.dumps({"doing": doing, **equal}), flush=True)
        shutil.rmtree(run_dir)
        done, number = done + len(doing), number + 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
