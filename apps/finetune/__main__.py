"""Judge an encoder: what it knows about a label, beside random init and what nobody trained.

uv run apps/finetune                                     probes runs/phantom/encoder for `thin`
uv run apps/finetune task=fluid mode=knn                 another label, another way to ask
uv run apps/finetune mode=full training.epochs=20        train all of it, not only a probe
uv run apps/finetune protocol.name=kfold seeds=3         everybody tested once, three times over
uv run apps/finetune -m encoder=a,b,c mode=linear,full   one after the other, and a leaderboard
uv run apps/finetune encoder=DIR data=aireadi data.root=PLACE task=diabetes4
uv run apps/finetune predict=FOLDER model=RUN/model      scores new scans
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
WORDS = {"auroc": "AUROC", "r2": "R2"}


def headline(run_dir: Path) -> dict[str, str]:
    """The headline metric of the encoder and what it gains, with their intervals."""
    found = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    rows = {one["name"]: one for one in found["candidates"]}
    value, low, high = found["candidates"][0]["card"]["metrics"][found["headline"]]
    told = {
        "label": found["question"]["name"],
        WORDS.get(found["headline"], found["headline"]): f"{value:.3f} ({low:.3f} to {high:.3f})",
    }
    if gain := rows.get("random init", {}).get("gain"):
        more, least, most = gain["difference"]
        told["over random init"] = f"{more:+.3f} ({least:+.3f} to {most:+.3f})"
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
