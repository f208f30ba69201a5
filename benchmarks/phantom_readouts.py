"""How should tokens become one vector? Four pools of the same encoders, on two phantoms.

    uv run python benchmarks/phantom_readouts.py [--runs runs/phantom_readouts] [--write]

The first command's pretraining, two seeds, on the phantom that serves for choosing
(`data.phantom.seed=3`) and on one that was looked at afterwards (4); 480 made-up participants each,
144 of them asked. Frozen, read out by one pool at a time (`readout.pools`), last block or all as
validation says, beside the same network with random weights. All of it by the apps; finished runs
are not repeated. What nobody learned is pooled by mean, spread and tails in every table. Phantom,
all of it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from evaluations import PACKAGES
from oct_vjepa import POOLS
from phantom_modes import run
from phantom_objectives import pretrain
from writing import rounded, write_results

PHANTOMS = {"choosing": 3, "afterwards": 4}
SEEDS = 2
ASKED = ["task.columns=[thin,fluid,drusen,folded]", f"seeds={SEEDS}", "compare.maps=0"]
ASKED += ["compare.shortcuts=[]", "compare.together=false", "compare.ranked=false"]
UNLEARNED = 'compare.baselines=["patch PCA 1x8x8","random layer"]'


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_readouts"))
    parser.add_argument("--write", action="store_true", help="to results/phantom_readouts.json")
    given, rows = parser.parse_args(), []
    for name, phantom in PHANTOMS.items():
        runs = given.runs / name
        data = ["data=phantom", f"data.phantom.seed={phantom}"]
        data += [f"data.root={runs}/data", f"data.cache={runs / 'cache'}"]
        for seed in range(SEEDS):
            silent = ["loop.evaluate_every=0", "probe.columns=[]", f"seed={seed}"]
            pretrain([*data, *silent, "loop.steps=900"], runs / f"seed{seed}")
        encoder = f'encoder="{runs}/seed{{seed}}/encoder"'
        for pool in POOLS:
            beside = UNLEARNED if pool == POOLS[-1] else "compare.baselines=[]"
            asked = [*data, *ASKED, encoder, beside, f"features={runs / 'features'}"]
            run("finetune", [*asked, f"readout.pools=[{pool}]"], runs / pool, made="results.json")
            found = json.loads((runs / pool / "results.json").read_text(encoding="utf-8"))
            rows += [{"phantom": name, "pool": pool, **as_row(one)} for one in found["candidates"]]
    print(*map(json.dumps, rows), sep="\n")
    if given.write:
        facts = {"phantom": True, "phantom_seeds": PHANTOMS, "seeds": SEEDS, "rows": rows}
        write_results("phantom_readouts", (*PACKAGES, "oct-xla", "torch"), facts)


def as_row(one: dict[str, Any]) -> dict[str, Any]:
    """A candidate: mean AUROC, that of each lesion, and what the encoder has over it."""
    return {
        "candidate": one["name"],
        "auroc": rounded(one["card"]["metrics"]["auroc"]),
        "encoder_over_it": one["gain"] and rounded(one["gain"]["difference"]),
        **{lesion: round(card["auroc"][0], 3) for lesion, card in one["card"]["by_class"].items()},
    }


if __name__ == "__main__":
    main()
