"""How long does a save hold up the training: beside it or waited for, on a disk or into a bucket?

A transformer of ViT-S's width and depth with an EMA teacher is trained by `fit` on one thread, with
a save every so many steps. Between two saves, what all steps took beyond the usual one is what the
save has cost (`stall_s`): its wait, and what steps lose while it is written, or after. The usual
step is the median one of the arm that waits, in both: it takes turns with saves, so that nothing
slows it. `waited_s` is the first part alone, as metrics.jsonl tells it. Arms take turns in each
round; a ratio is one of the medians. The bucket is moto's S3 server on the same machine, which
takes part in the work.

python benchmarks/saves.py            --keep writes results/saves.json
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from oct_xla import Feed, FeedConfig, LoopConfig, fit, pick_runtime
from torch import Tensor, nn
from writing import as_cell, write_results

WIDTH, DEPTH, HEADS, TOKENS = 384, 12, 6, 16
SAVES = 2
WAYS = ("waited for", "beside")
SERVER = """
import http.client, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
port = server.get_host_and_port()[1]
connection = http.client.HTTPConnection("127.0.0.1", port)
connection.request("PUT", "/runs")
assert connection.getresponse().status == 200
print(port, flush=True)
sys.stdin.read()
"""


class Model(nn.Module):
    """A student of ViT-S's size, and a teacher that follows it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True)
        self.student = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def loss(self, batch: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Reconstruct tokens; what is learned does not matter here."""
        del generator
        return {"loss": (self.student(batch) - batch).square().mean()}

    def after_step(self, step: int, steps: int) -> dict[str, float]:
        """Move the teacher."""
        del step, steps
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for old, new in pairs:
            old.data.lerp_(new.data, 0.01)
        return {"momentum": 0.99}


TOKENS_NTD = torch.randn(8, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


def take(index: int, epoch: int) -> Tensor:
    """A sample out of memory."""
    del epoch
    return TOKENS_NTD[index]


class Waits:
    """Adds up the seconds that the rows call waiting for a save."""

    def __init__(self) -> None:
        self.waited_s, self._before = 0.0, 0.0

    def write(self, row: Mapping[str, float]) -> None:
        """Take one row."""
        self.waited_s += row.get("save_fraction", 0.0) * (row["seconds"] - self._before)
        self._before = row["seconds"]

    def close(self) -> None:
        """Nothing to finish."""


def measure(place: Path | str, background: bool, every: int) -> dict[str, Any]:
    """Train once; the median step, and seconds from each save but the last to the next one."""
    starts: list[float] = []

    def note(step: int) -> float:
        del step
        starts.append(time.perf_counter())
        return 1e-4

    steps, waits = (SAVES + 1) * every, Waits()
    config = LoopConfig(
        steps=steps,
        log_every=1,
        checkpoint_every=every,
        save_in_background=background,
        keep_last=1,
    )
    feed = Feed(take, len(TOKENS_NTD), FeedConfig(batch_size=1))
    result = fit(
        Model(), feed, config, runtime=pick_runtime("cpu"), run_dir=place, learning_rate=note,
        sinks=[waits],
    )  # fmt: skip
    if result.reason == "stopped":
        sys.exit(143)
    took = [after - before for before, after in itertools.pairwise(starts)]
    windows = [took[every * turn - 1 : every * (turn + 1) - 1] for turn in range(1, SAVES + 1)]
    return {
        "step_s": statistics.median(took),
        "windows_s": [sum(window) for window in windows],
        "longest_step_s": [max(window) for window in windows],
        "waited_s": waits.waited_s / SAVES,
    }


@contextmanager
def bucket() -> Iterator[str]:
    """An S3 API on this machine, as fsspec finds it; gives the URL of its bucket."""
    import fsspec

    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        # On a busy machine its answer to the end of an upload takes long, and is asked for again.
        patient = {"read_timeout": 600}
        options = {"endpoint_url": endpoint, "key": "a", "secret": "b", "config_kwargs": patient}
        fsspec.config.conf["s3"] = options
        try:
            yield "s3://runs"
        finally:
            server.terminate()


def run(options: argparse.Namespace, folder: Path, url: str) -> dict[str, Any]:
    """Let the arms take turns."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "working")
    found: dict[str, list[dict[str, Any]]] = {}
    for turn, place, background in itertools.product(
        range(options.rounds), ("disk", "s3"), (False, True)
    ):
        name = f"{place} {WAYS[background]}"
        where = f"{url}/{uuid.uuid4().hex}" if place == "s3" else folder / name / str(turn)
        found.setdefault(name, []).append(measure(where, background, options.every))
        print(name, json.dumps(found[name][-1]), file=sys.stderr, flush=True)
    usual = statistics.median(
        turn["step_s"] for name, turns in found.items() if "waited" in name for turn in turns
    )
    return {name: summary(turns, usual * options.every) for name, turns in found.items()}


def summary(turns: list[dict[str, Any]], without_s: float) -> dict[str, Any]:
    """Medians over all saves of an arm, and the smallest and largest stall.

    Args:
        turns: from `measure`.
        without_s: seconds of as many steps as lie between two saves, were there none.
    """
    stalls = sorted(one - without_s for turn in turns for one in turn["windows_s"])
    longest = [one for turn in turns for one in turn["longest_step_s"]]
    return {
        "saves": len(stalls),
        "step_s": statistics.median(turn["step_s"] for turn in turns),
        "stall_s": statistics.median(stalls),
        "stall_range_s": [stalls[0], stalls[-1]],
        "longest_step_s": statistics.median(longest),
        "waited_s": statistics.median(turn["waited_s"] for turn in turns),
    }


def main() -> None:
    """Measure and print; write with --keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=60, help="steps between two saves")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, bucket() as url:
        arms = run(options, Path(folder), url)
    ratios = {
        place: {
            key: arms[f"{place} beside"][key] / arms[f"{place} waited for"][key]
            for key in ("stall_s", "longest_step_s", "waited_s")
        }
        for place in ("disk", "s3")
    }
    elements = sum(one.numel() for one in Model().student.parameters())
    facts = {
        "parameters": elements,
        "checkpoint_gb": 4 * 4 * elements / 1e9,  # student, teacher, two moments
        "every": options.every,
        "arms": arms,
        "beside_over_waited_for": ratios,
        "load_at_the_end": os.getloadavg()[0],
    }
    for name, row in arms.items():
        print(f"{name:16}", *(f"{key} {as_cell(value)}" for key, value in row.items()))
    print(json.dumps(ratios))
    if options.keep:
        write_results("saves", ("torch", "oct-xla"), facts)


if __name__ == "__main__":
    main()
