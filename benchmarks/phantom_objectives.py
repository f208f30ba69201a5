"""Which objective teaches an encoder most in equal time? All of them on the phantom, three seeds.

    uv run python benchmarks/phantom_objectives.py [--runs runs/phantom_objectives]

Made-up participants with one eye each, as `uv run apps/pretrain` draws them; every objective trains
the same network on those who are no test, without labels, for as many steps as make some 75 seconds
of one core (rates measured first), SALT half of it as its teacher. Then frozen, a linear
probe for the four lesions at once, of which `folded` is only an order of parts:

    given     by the split of the table, with few labels too, and beside what nobody learned
    devices   each device by a probe of the others; the encoders have seen its scans, not its labels
    spoilt    the default, MAE and random weights on spoilt test volumes

All of it by the apps, whose commands are printed; finished runs are not repeated. The settings were
fixed before, and nothing was tuned. Some 50 minutes of one core. Phantom, all of it.
"""

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluations import PACKAGES
from phantom_modes import row_of, run
from writing import rounded, write_results

SEEDS = 3
BLOCKS = "masking=multiblock"
PATCHES = "encoder.patch_size=[2,8,16]"
"""What the default had when this was measured; now it has [2,8,8], and half as many steps."""
ARMS: dict[str, list[str]] = {
    "default": ["loop.steps=900"],
    "voxels": ["objective=vjepa21_voxels_smoke", BLOCKS, "loop.steps=600"],
    "mae": ["objective=mae_smoke", "masking=mae", "loop.steps=1500"],
    "vjepa2": ["objective=vjepa2_smoke", BLOCKS, "loop.steps=610"],
    "predecessor": ["objective=predecessor_asis", "masking=predecessor", "loop.steps=510"],
    "lejepa": ["objective=lejepa_smoke", BLOCKS, "loop.steps=380"],
    "dino": ["objective=dino_smoke", BLOCKS, "loop.steps=300"],
    "vjepa21": ["objective=vjepa21_smoke", BLOCKS, "loop.steps=570"],
    "mae-half": ["objective=mae_smoke", "masking=mae", "loop.steps=750"],
    "salt": ["objective=salt_smoke", BLOCKS, "loop.steps=305"],
}
"""By name: what is given to `apps/pretrain`. The first is V-JEPA 2 with a voxel loss and masks of
single patches; `mae-half` is the teacher of `salt` and asked no questions."""

OWN, TEACHER = "default", "mae-half"
ALONE = [f"seeds={SEEDS}", "compare.maps=0"]
ALONE += ["compare.shortcuts=[]", "compare.together=false", "compare.ranked=false"]
ASKED = ["task.columns=[thin,fluid,drusen,folded]", *ALONE]


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_objectives"))
    runs = parser.parse_args().runs
    data = ["data=phantom", f"data.root={runs / 'data'}", f"data.cache={runs / 'cache'}"]
    spent = pretrain_all(runs, data)
    others = rivals(runs)
    asked = [*data, *ASKED, *features_of(runs)]
    beside = f"compare.encoders=[{','.join(others)}]"
    given = ["compare.fractions=[0.05,0.1,0.25,1]", "compare.few_validation=false", beside]
    devices = ["protocol.name=leave_one_out", "protocol.by=@device", "allow_seen=true", beside]
    mae = next(one for one in others if one.startswith('"mae='))
    spoilt = ["compare.perturbed=true", 'compare.baselines=["random layer"]']
    spoilt += [f"compare.encoders=[{mae}]"]
    found = {
        name: ask(runs / name, [*asked, *overrides])
        for name, overrides in (("given", given), ("devices", devices), ("spoilt", spoilt))
    }
    facts = {"phantom": True, "seeds": SEEDS, "steps": ARMS, "cpu_s": spent, **found}
    write_results("phantom_objectives", (*PACKAGES, "oct-xla", "torch"), facts)


def pretrain_all(runs: Path, data: Sequence[str]) -> dict[str, list[float]]:
    """Make the encoders of every arm and seed, seed by seed; what each took of the processor, s."""
    spent: dict[str, list[float]] = {name: [] for name in ARMS}
    for seed in range(SEEDS):
        for name, given in ARMS.items():
            teacher = [f"objective.teacher={runs}/{TEACHER}-seed{seed}/encoder"]
            own = [*given, *(teacher if name == "salt" else ())]
            silent = ["loop.evaluate_every=0", "probe.columns=[]", f"seed={seed}"]
            spent[name].append(pretrain([*data, *own, *silent], runs / f"{name}-seed{seed}"))
    return spent


def features_of(runs: Path) -> list[str]:
    """The default's encoders, and where features are kept."""
    return [f'encoder="{runs}/{OWN}-seed{{seed}}/encoder"', f"features={runs / 'features'}"]


def rivals(runs: Path) -> list[str]:
    """The encoders of all other arms that are asked, as `compare.encoders` wants them."""
    others = [one for one in ARMS if one not in (OWN, TEACHER)]
    return [f'"{one}={runs}/{one}-seed{{seed}}/encoder"' for one in others]


def pretrain(given: list[str], folder: Path) -> float:
    """Make an encoder unless it is there; seconds of the processor that the whole command took."""
    kept = folder / "cpu_s"
    if not kept.exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("pretrain", [PATCHES, *given], folder, made="encoder")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        kept.write_text(f"{spent:.1f}", encoding="utf-8")
    return float(kept.read_text(encoding="utf-8"))


def ask(folder: Path, given: list[str]) -> dict[str, Any]:
    """Everybody's score, with few labels too where it was asked, and on spoilt volumes."""
    run("finetune", given, folder, made="results.json")
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = [row_of(found["mode"], one) for one in found["candidates"]]
    print(*map(json.dumps, rows), sep="\n", flush=True)
    few = [
        {
            "candidate": one["candidate"],
            "share": one["fraction"],
            "auroc": rounded(one["headline"]),
            "encoder_over_it": one["gain"] and rounded(one["gain"]["difference"]),
        }
        for one in found["efficiency"]
    ]
    spoilt = found["perturbations"] and {
        name: {kind: rounded([one[0] for one in scores]) for kind, scores in kinds.items()}
        for name, kinds in found["perturbations"]["candidates"].items()
    }
    return {"rows": rows, "by_share_of_labels": few, "auroc_by_strength_0_to_5": spoilt}


if __name__ == "__main__":
    main()
