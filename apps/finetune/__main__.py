"""Ask a frozen encoder a question: a linear probe for one label, beside random init and a baseline.

uv run apps/finetune                                     probes runs/phantom/encoder for `thin`
uv run apps/finetune task=fluid pool=max                 another label, another pooling
uv run apps/finetune -m task=thin,fluid,drusen           one after the other, and a table
uv run apps/finetune encoder=DIR data=aireadi data.root=PLACE task=diabetes4
uv run apps/finetune predict=FOLDER model=RUN/model      new scans scored, marked where unlike
uv run apps/finetune --help                              every setting, its value and its text
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from oct_judge.question import FinetuneConfig
from oct_launch import Launch, app

SHORT = {"encoder=": "weights=", "experiment=": "evaluation="}
"""Words of pretraining that the command line takes as well."""


def headline(run_dir: Path) -> dict[str, str]:
    """AUROC of the encoder and what it gains over random init, with their intervals."""
    asked = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))["results"][0]
    auroc, low, high = asked["auroc"]
    told = {"label": asked["label"], "AUROC": f"{auroc:.3f} ({low:.3f} to {high:.3f})"}
    if gain := asked["auroc_over_reference"]:
        told["over random init"] = f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"
    return told


@app("finetune", FinetuneConfig, headline=headline)
def finetune(config: FinetuneConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    from oct_judge.evaluation import run  # brings torch, which a misspelt setting need not wait for

    return run(config, launch)


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Turn `encoder=` into `weights=` and `experiment=` into `evaluation=`.

    Hydra takes the former for pretraining's groups of configs.
    """
    spelt = list(arguments)
    for short, meant in SHORT.items():
        spelt = [meant + one[len(short) :] if one.startswith(short) else one for one in spelt]
    return spelt


if __name__ == "__main__":
    sys.argv[1:] = spell_out(sys.argv[1:])
    finetune()
