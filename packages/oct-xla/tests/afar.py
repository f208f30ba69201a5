"""Runs whose folder lies in a bucket: one in the memory of this process."""

from oct_xla import LoopConfig, claim_run_folder, fit, pick_runtime
from toy import Toy, make_feed, warm_up

URL = "memory://runs/one"


def train(run_dir=URL, *, steps=12, **options):
    config = LoopConfig(steps=steps, log_every=1, checkpoint_every=4, **options)
    toy = Toy(dropout=0.1)
    result = fit(
        toy, make_feed(), config, runtime=pick_runtime("cpu"), run_dir=run_dir,
        learning_rate=warm_up, seed=3, evaluate=lambda step: {"score": -abs(step - 4.0)},
    )  # fmt: skip
    return result, toy


def claim(url=URL, **config):
    return claim_run_folder(url, "steps: 8\n", {"steps": 8, "run_dir": url, **config})
