"""Runs the toy over and over in forked children and kills them, to spare the import of torch.

python killed.py random FOLDER COUNT     kill -9 at a random moment, until the run is through
python killed.py between FOLDER          kill -9 before each of its file operations in turn

Prints a line of JSON for each run: how often it was killed, and whether rows, tensors and the best
checkpoint are those of a run that was never killed.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from oct_xla import Checkpoints, read_rows
from oct_xla.metrics import CLOCKS
from toy import options_of, train

OPTIONS = ("--steps", "40", "--every", "2", "--dropout", "0.1", "--evaluate-every", "3")
SHORT = ("--steps", "8", "--every", "2", "--evaluate-every", "4")
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def start(run_dir, options, before_end=None):
    """Fork a child that trains in `run_dir`; returns its id."""
    child = os.fork()
    if child:
        return child
    sys.stderr = open(run_dir.with_suffix(".err"), "a")  # noqa: SIM115 - until the child ends
    if before_end is not None:
        before_end()
    os._exit(train(options_of([str(run_dir), *options])))


def outcome(run_dir, step):
    """Rows without clocks, tensors as bytes, and the best checkpoint."""
    store = Checkpoints(run_dir / "checkpoints")
    rows = [
        {k: v for k, v in row.items() if k not in CLOCKS}
        for row in read_rows(run_dir / "metrics.jsonl")
    ]
    tensors = {name: t.numpy().tobytes() for name, t in store.load(step).tensors.items()}
    best = json.loads((run_dir / "checkpoints/best.json").read_text())
    return {"rows": rows, "tensors": tensors, "best": best, "kept": store.best()}


def report(run_dir, kills, whole, step):
    found = outcome(run_dir, step)
    equal = {name: found[name] == value for name, value in whole.items()}
    left = sorted(path.name for path in (run_dir / "checkpoints").glob(".tmp*"))
    print(json.dumps({"kills": kills, **equal, "left": left}), flush=True)


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_random(folder, count):
    options = (*OPTIONS, *sys.argv[4:])
    train(options_of([str(folder / "warm-up"), *options]))  # torch imports half of itself late
    began = time.monotonic()
    assert wait(start(folder / "whole", options)) == 0
    lasts_s, whole = time.monotonic() - began, outcome(folder / "whole", 40)
    for number in range(count):
        draws, kills, code = np.random.default_rng(number), 0, None
        run_dir = folder / f"run-{number}"
        while code != 0:
            child = start(run_dir, options)
            if kills < 3:
                time.sleep(draws.uniform(0, lasts_s))
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            assert code in (0, -signal.SIGKILL), code
            kills += code != 0
            if code == 0 and kills == 0:  # through before the signal came: once more
                shutil.rmtree(run_dir)
                code = None
        report(run_dir, kills, whole, 40)


def kill_between(folder):
    assert train(options_of([str(folder / "whole"), *SHORT])) == 0
    whole = outcome(folder / "whole", 8)
    number, killed = 0, True
    while killed:
        run_dir = folder / f"run-{number}"

        def count_down(left=number, where=str(run_dir)):
            state = {"left": left}

            def note(event, arguments):
                if event in EVENTS and str(arguments[0]).startswith(where):
                    if state["left"] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    state["left"] -= 1

            sys.addaudithook(note)

        killed = wait(start(run_dir, SHORT, count_down)) == -signal.SIGKILL
        assert not killed or wait(start(run_dir, SHORT)) == 0, number
        report(run_dir, int(killed), whole, 8)
        number += 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "random":
        kill_at_random(folder, int(sys.argv[3]))
    else:
        kill_between(folder)
