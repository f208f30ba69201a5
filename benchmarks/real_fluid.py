r"""Is pretraining worth anything for drawing fluid? Asked of the app, on B-scans of ten patients.

    uv run python benchmarks/real_fluid.py DUKE ENCODER OUT --write

DUKE is `data` of the repository
YZhu0225/Semantic-Segmentation-for-Retinal-Layer-in-Diabetic-Macular-Edema-using-Transfer-Learning
on GitHub: 110 Spectralis B-scans of 10 patients with diabetic macular edema (Chiu et al. 2015) in
DUKE/img_for_inference, and their fluid in DUKE/annotation, in levels from 249 to 255. That 11
images after the other are of one patient is not said there; the images agree: the best correlation
of neighbours under any shift has a median of 0.75, and of 0.50 at the nine places where a patient
would end. ENCODER is one of benchmarks/real_patches.py, pretrained without labels on another data
set for 1,250 steps, flattened, 64 x 256.

`apps/finetune mode=segment` does all: five folds, so that two patients are tested, two choose the
epoch and six are fitted on. Encoder, random init and MONAI's U-Net take 50 epochs, 400 steps of
eight images, by one recipe, looked at after every fifth. Of what they leave behind in OUT this
counts what the app does not: fluid where there is none, Dice over all of a patient's voxels, and
the processor's seconds, read every second from the system (Linux).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import oct_io
from numpy.typing import NDArray
from oct_io.bscans import BscanConfig
from oct_io.volume import UNLABELLED
from oct_launch import print_table
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.protocol import make_rounds
from writing import as_cell, rounded, write_results

ROOT = Path(__file__).parent.parent
IMAGES, PER_PATIENT, FOLDS = 110, 11, 5
WINDOW = "64x256"
RECIPE = (
    *("training.mode=full", "training.epochs=50", "training.batch_size=8", "training.patience=0"),
    *("training.evaluate_every=5", "training.lr_encoder=5e-4", "training.layer_decay=1.0"),
    *("training.decoder.levels=[0,2,5]", "bootstrap=2000"),
)
CLASSES = {"fluid": "1-255"}
TICKS = os.sysconf("SC_CLK_TCK")


def write_patients(folder: Path) -> Path:
    """A table that says whose each image is; `data.bscans.table`."""
    rows = [f"img_{number}.png,{number // PER_PATIENT + 1}" for number in range(IMAGES)]
    table = folder / "patients.csv"
    table.write_text("\n".join(["filepath,participant_id", *rows]) + "\n")
    return table


def words(duke: Path, out: Path) -> list[str]:
    """What the app is told of the data."""
    table = write_patients(out)
    named = ",".join(f"{name}: {levels}" for name, levels in CLASSES.items())
    return [
        *("data=bscans", "data.name=duke", f"data.root={duke / 'img_for_inference'}"),
        *(f"data.bscans.table={table}", f"data.bscans.masks={duke / 'annotation'}"),
        *(f"data.bscans.mask_classes={{{named}}}", "data.annotations=[mask]", "data.flatten=true"),
        *(f"data.window={WINDOW}", f"data.cache={out / 'cache'}", "data.jobs=1"),
    ]


def run(arguments: list[str], training: Path) -> Counter[str]:
    """Run the app; seconds of the processor by the candidate that was in training.

    Raises:
        SystemExit: the app ended otherwise than well.
    """
    app = subprocess.Popen([sys.executable, str(ROOT / "apps" / "finetune"), *arguments])
    spent, before = Counter[str](), 0.0
    while app.poll() is None:
        cells = Path(f"/proc/{app.pid}/stat").read_text().rpartition(")")[2].split()
        now = (int(cells[11]) + int(cells[12])) / TICKS  # in its own code and for it in the system
        folders = training.glob("*") if training.exists() else ()
        newest = max(folders, key=lambda one: one.stat().st_ctime, default=None)
        spent["none yet" if newest is None else newest.name.partition("-seed")[0]] += now - before
        before = now
        time.sleep(1)
    if app.returncode:
        raise SystemExit(app.returncode)
    return spent


def open_duke(duke: Path, out: Path) -> oct_io.CachedVolumes:
    """The B-scans with their masks as the app sees them; the cache lies in `out`."""
    root, masks = duke / "img_for_inference", duke / "annotation"
    return open_bscans(root, masks, CLASSES, write_patients(out), out)


def open_bscans(
    root: Path, masks: Path, classes: dict[str, str], table: Path, out: Path
) -> oct_io.CachedVolumes:
    """B-scans of a folder with masks, flattened and cut to `WINDOW`; the cache lies in `out`."""
    bscans = BscanConfig(table=str(table), masks=str(masks), mask_classes=dict(classes))
    config = oct_io.SourceConfig(
        root=str(root),
        bscans=bscans,
        annotations=["mask"],
        flatten=True,
        window=WINDOW,
        cache=str(out / "cache"),
        jobs=1,
    )
    return oct_io.open_source(config).volumes


def tested(masks: NDArray[np.uint8], people: NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """Rows that each round of the app tests."""
    shares = Target(kind="regression", values=(masks == 1).mean(axis=(1, 2, 3)), names=("share",))
    rounds = make_rounds("kfold", shares, people, folds=FOLDS, seed=0)
    return [np.flatnonzero(one.test) for one in rounds]


def count_more(
    training: Path, name: str, masks: NDArray[np.uint8], people: NDArray[np.str_]
) -> dict[str, Any]:
    """Of a trained candidate: fluid where there is none, and Dice over all voxels of a patient."""
    drawn = np.zeros(masks.shape, bool)
    for number, rows in enumerate(tested(masks, people)):
        for row in rows:
            file = training / f"{name}-seed0-round{number}" / "masks" / f"{row:06d}.npy"
            drawn[row] = (np.load(file) == 1) & (masks[row] != UNLABELLED)
    true = masks == 1
    empty = ~true.any(axis=(1, 2, 3))
    pooled = [
        2 * np.sum(drawn[rows] & true[rows]) / (np.sum(drawn[rows]) + np.sum(true[rows]))
        for rows in (people == one for one in np.unique(people))
    ]
    return {
        "empty_images": int(empty.sum()),
        "drawn_on_empty": int(drawn[empty].any(axis=(1, 2, 3)).sum()),
        "not_drawn_on_others": int((~drawn[~empty].any(axis=(1, 2, 3))).sum()),
        "dice_of_patients_voxels": rounded([float(np.mean(pooled))])[0],
    }


def as_row(one: dict[str, Any], spent: Counter[str]) -> dict[str, Any]:
    """What is kept of a candidate of results.json."""
    metrics, gain = one["card"]["metrics"], one["gain"]
    name = one["name"].replace(" ", "-")
    return {
        "candidate": one["name"],
        "dice": rounded(metrics["dice_fluid"]),
        "pretrained_over_it": gain and rounded(gain["difference"]),
        "p_holm": gain and gain["p_holm"],
        "chosen": one["chosen"],
        "cpu_s": round(spent[name], 1) if name in spent else None,
    }


def main() -> None:
    """Ask, count and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("duke", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--write", action="store_true", help="to results/real_fluid.json")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    asked = given.out / "run"
    more = ("mode=segment", f"encoder={given.encoder}", f"run_dir={asked}")
    rounds = ("protocol.name=kfold", f"protocol.folds={FOLDS}")
    told = [*words(given.duke, given.out), *more, *rounds, *RECIPE]
    spent = run(told, asked / "training")
    document = json.loads((asked / "results.json").read_text())
    volumes = open_duke(given.duke, given.out)
    masks = np.stack([volumes.mask(row) for row in range(len(volumes))])
    people = volumes.entries.coded("participant").texts()
    rows = [as_row(one, spent) for one in document["candidates"]]
    for row in rows:
        if row["cpu_s"] is not None:
            name = row["candidate"].replace(" ", "-")
            row |= count_more(asked / "training", name, masks, people)
    print_table(
        ["candidate", "Dice", "pretrained over it", "CPU seconds"],
        [[row["candidate"], as_cell(row["dice"]), as_cell(row["pretrained_over_it"]),
          as_cell(row["cpu_s"])] for row in rows],
    )  # fmt: skip
    if given.write:
        facts = {
            "data": "duke_dme",
            "images": IMAGES,
            "patients": IMAGES // PER_PATIENT,
            "window": WINDOW,
            "settings": [*rounds, *RECIPE],
            "rows": rows,
        }
        write_results("real_fluid", ("oct-io", "oct-vjepa", "torch", "monai"), facts)


if __name__ == "__main__":
    main()
