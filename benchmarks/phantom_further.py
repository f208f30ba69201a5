"""What benchmarks/phantom_recipe.py left out, on the same phantom: terms, masks, pairs of eyes.

    uv run python benchmarks/phantom_further.py [--runs runs/phantom_further] [--write]

In both rounds one thing is changed at a time and as many steps are taken as make the time about
the same; then frozen, a linear probe for four lesions at once. One seed an arm, so what is told is
a reading, not a verdict; settings were fixed before.

    alone   one eye of 480 made-up participants (`data.phantom.seed=3`, which serves for nothing but
            choosing): EMA, masks and augmentations that were not asked there, a loss on the mean
            token beside that on patches, MAE without and with the spectrum of a patch
    eyes    both eyes of 240 (the same seed): who is told which two eyes are one person's, by DINO,
            LeJEPA and a prediction from one eye to the other, and the same without

All of it by the apps; finished runs are not repeated. Some 25 minutes of one core. Phantom.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from evaluations import PACKAGES
from phantom_modes import run
from phantom_objectives import BLOCKS, pretrain
from phantom_recipe import ASKED, KEPT, PHANTOM, as_row
from writing import write_results

MAE = ["objective=mae_smoke", "masking=mae", "loop.steps=1500"]
DINO = ["objective=dino_smoke", BLOCKS, "loop.steps=300"]
LEJEPA = ["objective=lejepa_smoke", BLOCKS, "loop.steps=380"]
HIDDEN = "target_fraction: 0.75, context_fraction: 0.25"
ROUNDS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "alone": (
        [],
        {
            "default": ["loop.steps=900"],
            "EMA 0.9995 throughout": [
                "loop.steps=900", "objective.ema_start=0.9995", "objective.ema_end=0.9995",
            ],
            "cubes of 2 x 2 x 2": [
                "loop.steps=900", f"masking.sets=[{{kind: cubes, cube_size: [2, 2, 2], {HIDDEN}}}]",
            ],
            "foreground": [
                "loop.steps=900", f"masking.sets=[{{kind: foreground, blocks: 8, scale: 0.15,"
                f" target_fraction: 0.6, context_fraction: 0.3, {KEPT.partition(', ')[2]}}}]",
            ],
            "augmentation: rotation about the beam": [
                "loop.steps=900", "augment.affine_probability=0.8", "augment.torsion_degrees=8",
                "augment.shift_lateral_mm=0", "augment.shift_depth_mm=0",
                "augment.tilt_degrees=0", "augment.zoom=0",
            ],
            "augmentation: roll-off": ["loop.steps=900", "augment.roll_off=0.1"],
            "volume loss 0.5": ["loop.steps=900", "objective.volume_weight=0.5"],
            "MAE": MAE,
            "MAE with the spectrum": ["objective=mae_spectral_smoke", *MAE[1:]],
        },
    ),
    "eyes": (
        ["data.phantom.participants=240", "data.phantom.eyes=[R,L]"],
        {
            "default": ["loop.steps=900"],
            "one eye says the other's": [
                "loop.steps=750", "objective.partner_weight=0.5", "pairs=eyes",
            ],
            "DINO": DINO,
            "DINO, two eyes": [*DINO, "pairs=eyes"],
            "LeJEPA": LEJEPA,
            "LeJEPA, two eyes": [*LEJEPA, "pairs=eyes"],
        },
    ),
}  # fmt: skip
"""By round: what is given of the data, and by name of an arm what is given to `apps/pretrain`."""


def ask(runs: Path, name: str) -> list[dict[str, Any]]:
    """Train all of a round that is not there, ask them together, and give a row each."""
    given, arms = ROUNDS[name]
    data = ["data=phantom", f"data.phantom.seed={PHANTOM}", *given]
    data += [f"data.root={runs}/{name}-data", f"data.cache={runs / name}-cache"]
    silent, spent = ["loop.evaluate_every=0", "probe.columns=[]"], {}
    folders = {one: runs / f"{name}-{number}" for number, one in enumerate(arms)}
    for one, arm in arms.items():
        spent[one] = pretrain([*data, *silent, *arm], folders[one])
    own, *others = folders
    beside = [f'"{one}={folders[one]}/encoder"' for one in others]
    asked = [*data, *ASKED, f"encoder={folders[own]}/encoder", f"features={runs}/{name}-features"]
    among = f"compare.encoders=[{','.join(beside)}]"
    run("finetune", [*asked, among], runs / f"{name}-ask", made="results.json")
    found = json.loads((runs / f"{name}-ask" / "results.json").read_text(encoding="utf-8"))
    return [as_row(one, spent) for one in found["candidates"]]


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_further"))
    parser.add_argument("--write", action="store_true", help="to results/phantom_further.json")
    given = parser.parse_args()
    rows = {name: ask(given.runs, name) for name in ROUNDS}
    print(json.dumps(rows, indent=1))
    if given.write:
        facts = {"phantom": True, "phantom_seed": PHANTOM, "rounds": ROUNDS, "rows": rows}
        write_results("phantom_further", (*PACKAGES, "oct-xla", "torch"), facts)


if __name__ == "__main__":
    main()
