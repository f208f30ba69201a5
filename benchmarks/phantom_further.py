"""What benchmarks/phantom_recipe.py left out, on the same phantom: terms, masks, pairs of eyes.

    uv run python benchmarks/phantom_further.py [--rounds masks terms eyes] [--write]

In each round one thing is changed at a time and as many steps are taken as make the time about the
same; then frozen, a linear probe for four lesions at once. One seed an arm, so what is told is a
reading, not a verdict; settings were fixed before.

    masks   one eye of 480 made-up participants (`data.phantom.seed=3`, which serves for nothing but
            choosing): a teacher that hardly moves, and masks that were not asked there; and each
            device by a probe of the others, with all that nobody learned, a filter bank too
    terms   the same participants: further augmentations, a loss on the mean token beside that on
            patches, MAE without and with the spectrum of a patch
    eyes    both eyes of 240 (the same seed): who is told which two eyes are one person's, by DINO,
            LeJEPA and a prediction from one eye to the other, and the same without; asked again
            with left eyes mirrored, as they were not in pretraining

All of it by the apps; finished runs are not repeated, and --write leaves rounds in
results/phantom_further.json that were not run now. Some 8 to 10 CPU minutes a round. Phantom.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from evaluations import PACKAGES
from phantom_modes import run
from phantom_objectives import BLOCKS, pretrain
from phantom_recipe import ASKED, KEPT, OWN, PHANTOM, as_row
from writing import RESULTS, write_results

NAME = "phantom_further"
PLAIN = ["loop.steps=900"]
MAE = ["masking=mae", "loop.steps=1500"]
DINO = ["objective=dino_smoke", BLOCKS, "loop.steps=300"]
LEJEPA = ["objective=lejepa_smoke", BLOCKS, "loop.steps=380"]
HIDDEN = "target_fraction: 0.75, context_fraction: 0.25"
TISSUE = f"target_fraction: 0.6, context_fraction: 0.3, {KEPT.partition(', ')[2]}"
STILL = ["shift_lateral_mm", "shift_depth_mm", "tilt_degrees", "zoom"]
TURNED = ["augment.affine_probability=0.8", "augment.torsion_degrees=8"]
EYES = ["data.phantom.participants=240", "data.phantom.eyes=[R,L]"]
DEVICES = ["protocol.name=leave_one_out", "protocol.by=@device", "allow_seen=true"]
ROUNDS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "masks": (
        [],
        {
            OWN: PLAIN,
            "EMA 0.9995 throughout": [
                *PLAIN, "objective.ema_start=0.9995", "objective.ema_end=0.9995",
            ],
            "cubes of 2 x 2 x 2": [
                *PLAIN, f"masking.sets=[{{kind: cubes, cube_size: [2, 2, 2], {HIDDEN}}}]",
            ],
            "foreground": [
                *PLAIN, f"masking.sets=[{{kind: foreground, blocks: 8, scale: 0.15, {TISSUE}}}]",
            ],
        },
    ),
    "terms": (
        [],
        {
            OWN: PLAIN,
            "augmentation: rotation about the beam": [
                *PLAIN, *TURNED, *(f"augment.{one}=0" for one in STILL),
            ],
            "augmentation: roll-off": [*PLAIN, "augment.roll_off=0.1"],
            "volume loss 0.5": [*PLAIN, "objective.volume_weight=0.5"],
            "MAE": ["objective=mae_smoke", *MAE],
            "MAE with the spectrum": ["objective=mae_spectral_smoke", *MAE],
        },
    ),
    "eyes": (
        EYES,
        {
            OWN: PLAIN,
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


def ask(runs: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Train all of a round that is not there, ask them together, and give a row each."""
    given, arms = ROUNDS[name]
    whose = "pairs" if given else "alone"
    data = ["data=phantom", f"data.phantom.seed={PHANTOM}", *given]
    data += [f"data.root={runs}/{whose}-data", f"data.cache={runs / whose}-cache"]
    silent, spent = ["loop.evaluate_every=0", "probe.columns=[]"], dict[str, float]()
    folders = {one: runs / f"{whose}-{re.sub('[^a-zA-Z0-9]+', '-', one)}" for one in arms}
    for one, arm in arms.items():
        spent[one] = pretrain([*data, *silent, *arm], folders[one])
    beside = [f'"{one}={at}/encoder"' for one, at in folders.items() if one != OWN]
    asked = [*data, *ASKED, f"encoder={folders[OWN]}/encoder", f"features={runs}/{whose}-features"]
    asked.append(f"compare.encoders=[{','.join(beside)}]")
    found = {"given": question(asked, runs / f"{name}-ask", spent)}
    if name == "masks":
        found["another device"] = question([*asked, *DEVICES], runs / f"{name}-devices", spent)
    if name == "eyes":
        mirrored = ["data.mirror_left=true", f"data.cache={runs}/{whose}-mirrored-cache"]
        found["left eyes mirrored"] = question(
            [*asked, *mirrored], runs / f"{name}-mirrored", spent
        )
    return found


def question(asked: list[str], folder: Path, spent: dict[str, float]) -> list[dict[str, Any]]:
    """Ask, unless it was done, and give a row for each candidate."""
    run("finetune", asked, folder, made="results.json")
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [as_row(one, spent) for one in found["candidates"]]


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_further"))
    parser.add_argument("--rounds", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--write", action="store_true", help=f"to results/{NAME}.json")
    given = parser.parse_args()
    rows = {name: ask(given.runs, name) for name in given.rounds}
    print(json.dumps(rows, indent=1))
    if given.write:
        kept = RESULTS / f"{NAME}.json"
        before = json.loads(kept.read_text())["rounds"] if kept.exists() else {}
        now = {name: {"arms": ROUNDS[name], "rows": rows[name]} for name in rows}
        facts = {"phantom": True, "phantom_seed": PHANTOM, "rounds": before | now}
        write_results(NAME, (*PACKAGES, "oct-xla", "torch"), facts)


if __name__ == "__main__":
    main()
