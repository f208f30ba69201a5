"""Pretrain an encoder on OCT scans: from files to a run folder with weights, curves and a report.

uv run apps/pretrain                                     made-up retinas, no data needed
uv run apps/pretrain data=folder data.root=DIR           any folder of scans
uv run apps/pretrain -m seed=0,1                         one run after the other, and a table
uv run apps/pretrain --help                              every setting, its value and its text
"""

import json
from pathlib import Path

from oct_launch import Launch, app
from settings import PretrainConfig

ONLINE = "probe_linear_auroc_"
"""How the keys of the online probe begin; the label column follows."""


def headline(run_dir: Path) -> dict[str, str]:
    """The last loss, and the last AUROC of each label column while training."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = {key: value for line in lines for key, value in json.loads(line).items()}
    columns = {key[len(ONLINE) :]: value for key, value in last.items() if key.startswith(ONLINE)}
    told = {"loss": f"{last['loss']:.4f}"}
    return told | {f"AUROC {name}": f"{value:.3f}" for name, value in columns.items()}


@app("pretrain", PretrainConfig, headline=headline)
def pretrain(config: PretrainConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    from pretraining import run  # brings torch, which a misspelt setting need not wait for

    return run(config, launch)


if __name__ == "__main__":
    pretrain()
