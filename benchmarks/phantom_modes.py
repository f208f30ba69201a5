"""What does pretraining give in each mode? Encoders x modes on the phantom at moderate effect.

    uv run python benchmarks/phantom_modes.py [--runs runs/phantom_modes]

Draws made-up participants with one eye and lesions of half their size, pretrains an encoder a seed
on those who are no test, without labels, and asks for the three lesions at once in every mode: of
the pretrained encoders, of the same networks with random weights, and of a 3-D ResNet of MONAI that
is trained from scratch by the same recipe. Beside the linear probe stand features that nobody
learned. All of it by the apps, whose commands are printed; finished runs are not repeated. The
settings were fixed before any of it was run, and nothing was tuned. Some 20 minutes of one core.
Phantom, all of it.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluations import PACKAGES
from writing import write_results

SEEDS, PARTICIPANTS, EFFECT = 3, 800, 0.5
STEPS, EPOCHS = 500, 6
MODES = ("knn", "linear", "mlp", "full", "attentive", "lora", "partial")
BASELINES = ("grey histogram", "mean and std", "axial profile", "surface profile", "random layer")
NETWORK = "monai_resnet10"
PRETRAINING = ["objective=vjepa21_voxels_smoke", "masking=multiblock", "probe.columns=[]"]
PRETRAINING += ["encoder.patch_size=[2,8,16]"]
PRETRAINING += [f"loop.steps={STEPS}", "loop.evaluate_every=0"]
TRAINING = [f"training.epochs={EPOCHS}", "training.patience=0", "training.layer_decay=1"]
TRAINING += ["training.lr_encoder=1e-3"]  # as much as the head, so that random weights can learn
ASKED = ["task=lesions", f"seeds={SEEDS}", "compare.maps=0", "compare.ranked=false"]
ASKED += ["compare.together=false", "compare.shortcuts=[]"]


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_modes"))
    runs = parser.parse_args().runs
    data = [
        "data.name=phantom_modes",
        f"data.root={runs / 'data'}",
        f"data.phantom.participants={PARTICIPANTS}",
        f"data.phantom.effect={EFFECT}",
        "data.phantom.seed=21",
        "data.phantom.arrangements=[]",
        "data.phantom.eyes=[R]",
        "data.phantom.split_fractions=[0.5,0.15,0.35]",
    ]
    for seed in range(SEEDS):
        given = [*data, *PRETRAINING, f"seed={seed}"]
        run("pretrain", given, runs / f"pretrained-seed{seed}", made="encoder")
    asked = [*data, *ASKED, f'encoder="{runs}/pretrained-seed{{seed}}/encoder"']
    rows: list[dict[str, Any]] = []
    for mode in MODES:
        baselines = ",".join(BASELINES if mode == "linear" else ())
        given = [*asked, *TRAINING, f"mode={mode}", f"compare.baselines=[{baselines}]"]
        rows += ask(runs / mode, given)
        write(rows)  # what is there stays if the next mode does not end
    given = [*asked, *TRAINING, f"compare.networks=[{NETWORK}]", "compare.baselines=[]"]
    rows += [one for one in ask(runs / NETWORK, given) if NETWORK in one["candidate"]]
    write(rows)


def ask(folder: Path, given: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each candidate of an evaluation."""
    run("finetune", given, folder, made="results.json")
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = [row_of(found["mode"], one) for one in found["candidates"]]
    print(*map(json.dumps, rows), sep="\n", flush=True)
    return rows


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Keep the rows."""
    facts = {
        "phantom": True,
        "participants": PARTICIPANTS,
        "effect": EFFECT,
        "pretraining_steps": STEPS,
        "training_epochs": EPOCHS,
        "seeds": SEEDS,
        "rows": rows,
    }
    write_results("phantom_modes", (*PACKAGES, "oct-xla", "torch", "monai"), facts)


def run(app: str, given: Sequence[str], folder: Path, *, made: str) -> None:
    """Run an app, unless its folder has what it makes."""
    command = [f"apps/{app}", *given, f"run_dir={folder}"]
    print("uv run", shlex.join(command), flush=True)
    if not (folder / made).exists():
        subprocess.run([sys.executable, *command], check=True)


def row_of(mode: str, candidate: dict[str, Any]) -> dict[str, Any]:
    """AUROC of one candidate over the lesions and of each, and what the encoder has over it."""
    card, gain = candidate["card"], candidate["gain"]
    return {
        "mode": mode,
        "candidate": candidate["name"],
        "auroc": [round(one, 3) for one in card["metrics"]["auroc"]],
        "by_lesion": {
            name: [round(value, 3) for value in one["auroc"]]
            for name, one in card["by_class"].items()
        },
        "encoder_over_it": gain and [round(one, 3) for one in gain["difference"]],
        "p_holm": gain and round(gain["p_holm"], 3),
    }


if __name__ == "__main__":
    main()
