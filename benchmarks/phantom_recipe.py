"""What of the default recipe matters? One setting changed at a time, on a phantom of its own.

    uv run python benchmarks/phantom_recipe.py [--runs runs/phantom_recipe] [--write]

The first command's pretraining (V-JEPA 2 that says voxels, single patches hidden, 900 steps of 16)
on a phantom that serves for nothing but choosing (`data.phantom.seed=3`; 480 made-up participants,
144 of them asked). Where an arm makes a step dearer or cheaper, it takes as many steps as make the
time about the same, by counting tokens; what each really took stands beside it. Then frozen, all
blocks, a linear probe for four lesions at once. One seed an arm, two of the default, whose
distance says what is noise. All of it by the apps; finished runs are not repeated. The settings
were fixed before. Phantom, all of it.

results/phantom_recipe_confirmed.json: four evaluations of two seeds each, by the commands of
benchmarks/phantom_masks.py, on phantoms that nobody had looked at. `data.phantom.seed=4`: the same
network with patches of 2 x 8 x 8, 450 steps and flips (`pretrained`), the default and those patches
alone; again with the patches alone as `pretrained`; and so on `data.phantom.seed=5` and 6.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from evaluations import PACKAGES
from phantom_modes import run
from phantom_objectives import pretrain
from writing import rounded, write_results

PHANTOM = 3
OWN = "default"
KEPT = "kind: patches, foreground_fraction: 0.4, context_foreground: 0.25"


def hidden(share: float) -> str:
    """Single patches, so many of them hidden, the others shown."""
    return f"masking.sets=[{{{KEPT}, target_fraction: {share}, context_fraction: {1 - share:.2f}}}]"


ARMS: dict[str, list[str]] = {
    OWN: ["loop.steps=900"],
    "another seed": ["loop.steps=900", "seed=1"],
    "half as long": ["loop.steps=450"],
    "twice as long": ["loop.steps=1800"],
    "EMA from 0.95": ["loop.steps=900", "objective.ema_start=0.95"],
    "EMA from 0.99": ["loop.steps=900", "objective.ema_start=0.99"],
    "EMA from 0.998": ["loop.steps=900", "objective.ema_start=0.998"],
    "EMA 0.99 throughout": ["loop.steps=900", "objective.ema_start=0.99", "objective.ema_end=0.99"],
    "60 % hidden": ["loop.steps=780", hidden(0.6)],
    "85 % hidden": ["loop.steps=1000", hidden(0.85)],
    "tubes along the slices": [
        "loop.steps=900",
        "masking.sets=[{kind: cubes, cube_size: [4, 1, 1], target_fraction: 0.75,"
        " context_fraction: 0.25}]",
    ],
    "loss on visible patches 0.5": ["loop.steps=880", "objective.context_weight=0.5"],
    "V-JEPA 2.1 with voxels": ["loop.steps=870", "objective=vjepa21_voxels_smoke", "masking=mae"],
    "voxel loss 0.25": ["loop.steps=900", "objective.voxel_weight=0.25"],
    "voxel loss 4": ["loop.steps=900", "objective.voxel_weight=4"],
    "patches 2 x 8 x 8": ["loop.steps=450", "encoder.patch_size=[2,8,8]"],
    "patches 2 x 4 x 16": ["loop.steps=450", "encoder.patch_size=[2,4,16]"],
    "patches 1 x 8 x 16": ["loop.steps=450", "encoder.patch_size=[1,8,16]"],
    "depth 2": ["loop.steps=1400", "encoder.depth=2"],
    "depth 8": ["loop.steps=500", "encoder.depth=8"],
    "width 192": ["loop.steps=400", "encoder.width=192", "encoder.heads=6"],
    "learning rate 0.0005": ["loop.steps=900", "schedule.peak=0.0005"],
    "learning rate 0.003": ["loop.steps=900", "schedule.peak=0.003"],
    "held then down over 30 %": [
        "loop.steps=900",
        "schedule.kind=wsd",
        "schedule.cooldown_fraction=0.3",
    ],
    "batch 8": ["loop.steps=1700", "feed.batch_size=8"],
    "batch 32": ["loop.steps=450", "feed.batch_size=32"],
    "bfloat16": ["loop.steps=900", "runtime.precision=bf16"],
    "augmentation: flip": ["loop.steps=900", "augment.flip_probability=0.5"],
    "augmentation: grey levels": [
        "loop.steps=900",
        "augment.gamma=1.3",
        "augment.contrast=0.2",
        "augment.offset=0.1",
    ],
    "augmentation: speckle": ["loop.steps=900", "augment.speckle=0.2"],
    "augmentation: crop": ["loop.steps=900", "augment.crop_smallest=0.6"],
}
"""By name: what is given to `apps/pretrain`."""

ASKED = ["task.columns=[thin,fluid,drusen,folded]", "seeds=1", "compare.maps=0"]
ASKED += ["compare.shortcuts=[]", "compare.together=false", "compare.ranked=false"]


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_recipe"))
    parser.add_argument("--write", action="store_true", help="to results/phantom_recipe.json")
    given = parser.parse_args()
    runs = given.runs
    data = ["data=phantom", f"data.phantom.seed={PHANTOM}"]
    data += [f"data.root={runs}/data", f"data.cache={runs / 'cache'}"]
    silent, spent = ["loop.evaluate_every=0", "probe.columns=[]"], {}
    folders = {name: runs / f"arm-{number}" for number, name in enumerate(ARMS)}
    for name, arm in ARMS.items():
        spent[name] = pretrain([*data, *silent, *arm], folders[name])
    beside = [f'"{name}={at}/encoder"' for name, at in folders.items() if name != OWN]
    asked = [*data, *ASKED, f"encoder={folders[OWN]}/encoder", f"features={runs / 'features'}"]
    among = f"compare.encoders=[{','.join(beside)}]"
    run("finetune", [*asked, among], runs / "ask", made="results.json")
    found = json.loads((runs / "ask" / "results.json").read_text(encoding="utf-8"))
    rows = [as_row(one, spent) for one in found["candidates"]]
    print(*map(json.dumps, rows), sep="\n")
    if given.write:
        facts = {"phantom": True, "phantom_seed": PHANTOM, "arms": ARMS, "rows": rows}
        write_results("phantom_recipe", (*PACKAGES, "oct-xla", "torch"), facts)


def as_row(one: dict[str, Any], spent: dict[str, float]) -> dict[str, Any]:
    """A candidate: mean AUROC, that of each lesion, and what the default has over it."""
    name = OWN if one["name"] == "pretrained" else one["name"].removeprefix("encoder ")
    classes = one["card"]["by_class"]
    return {
        "candidate": name,
        "auroc": rounded(one["card"]["metrics"]["auroc"]),
        "default_over_it": one["gain"] and rounded(one["gain"]["difference"]),
        **{lesion: round(card["auroc"][0], 3) for lesion, card in classes.items()},
        "cpu_s": spent.get(name),
    }


if __name__ == "__main__":
    main()
