"""Where are cysts and drusen? Patches of another data set, which no choice was made by.

    uv run python benchmarks/real_lesions.py ANNOTATION intraretinal_cyst \
      "5,000 steps=runs/long-seed1/encoder,runs/long-seed2/encoder" \
      "1,250 steps=runs/units-seed1/encoder,runs/units-seed2/encoder" --write

ANNOTATION is the folder `annotation/YOLO-style-annotations-raw-2` of the repository
akulistus/oct-segmentation-model on GitHub: 399 B-scans of 173 patients of Kermany et al. 2018
(Spectralis, JPEG), with polygons that a student drew around seven kinds of lesions (CC BY 4.0).
Encoders, patches and readings are those of benchmarks/real_patches.py; 5,000 steps are its command
with `loop.steps=5000`. No encoder has seen these scans, and how patches are read, how encoders were
trained and for how long was settled before they were asked.

In five folds of patients one is tested, ten patients of the next choose the strength, and 20, 6 or
2 of the others are fitted on. Only patients who have the lesion are asked. --write makes
results/real_LESION.json.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from oct_vjepa.evaluation.patch_probe import mark_patches
from oct_vjepa.probes.protocol import Round
from PIL import Image, ImageDraw
from real_fluid import open_bscans
from real_patches import GRID, ask, candidates, named_paths, read_in_order, show
from writing import write_results

LESIONS = {"intraretinal_cyst": 0, "retinal_drusen": 3}
"""Those of the seven that enough patients have, by their numbers in the polygons' files."""
FOLDS, CHOOSERS = 5, 10


class Lesions(NamedTuple):
    """Flattened B-scans (N, 1, Y, X), voxels of the lesion, and whose each scan is, by number."""

    grey: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    people: NDArray[np.int64]


def draw(labels: Path, number: int, size: tuple[int, int]) -> Image.Image:
    """The polygons of one lesion, filled with 255; a line is a class, then x and y as shares."""
    mask = Image.new("L", size)
    for line in labels.read_text().splitlines():
        kind, *corners = line.split()
        if int(kind) == number:
            shares = np.asarray(corners, float).reshape(-1, 2)
            ImageDraw.Draw(mask).polygon([(x * size[0], y * size[1]) for x, y in shares], fill=255)
    return mask


def read_lesions(annotation: Path, lesion: str) -> Lesions:
    """The B-scans as `data.flatten=true data.window=64x256` cuts them, patients in random order."""
    with TemporaryDirectory() as folder:
        out, whose = Path(folder), {}
        places = (out / "images", out / "masks")
        for place in places:
            place.mkdir()
        for path in sorted(annotation.glob("*/images/*.jpg")):
            # 0191cb10-CNV-9997680-274_jpeg.rf.HASH.jpg is B-scan 274 of patient 9997680
            name = path.name.partition("-")[2].partition("_")[0] + ".png"
            whose[name] = name.split("-")[1]
            image = Image.open(path).convert("L")
            image.save(places[0] / name)
            labels = path.parents[1] / "labels" / f"{path.stem}.txt"
            draw(labels, LESIONS[lesion], image.size).save(places[1] / name)
        rows = [f"{name},{who}" for name, who in whose.items()]
        table = out / "patients.csv"
        table.write_text("\n".join(["filepath,participant_id", *rows]) + "\n")
        volumes = open_bscans(*places, {lesion: "1-255"}, table, out)
        names = sorted(whose)
        grey, mask = read_in_order(volumes, names)
        patients = sorted(set(whose.values()))
        numbers = np.random.default_rng(0).permutation(len(patients))
        number_of = dict(zip(patients, numbers, strict=True))
        return Lesions(grey, mask, np.array([number_of[whose[name]] for name in names]))


def make_rounds(people: NDArray[np.int64], present: NDArray[np.bool_]) -> list[Round]:
    """Who is fitted on, chooses and is tested, of those who have the lesion."""
    have = [who for who in np.unique(people) if present[people == who].any()]
    rounds = []
    for fold in range(FOLDS):
        tested = [who for who in have if who % FOLDS == fold]
        choose = [who for who in have if who % FOLDS == (fold + 1) % FOLDS][:CHOOSERS]
        fit = [who for who in have if who % FOLDS not in (fold, (fold + 1) % FOLDS)]
        parts = [np.isin(people, part) for part in (fit, choose, tested)]
        rounds.append(Round(f"fold {fold}", *parts))
    return rounds


def main() -> None:
    """Ask, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("annotation", type=Path)
    parser.add_argument("lesion", choices=sorted(LESIONS))
    parser.add_argument("encoders", nargs="+", type=named_paths, help="NAME=ENCODER[,ENCODER]")
    parser.add_argument("--patients", type=int, nargs="*", default=[20, 6, 2], help="to fit on")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = read_lesions(options.annotation, options.lesion)
    features = candidates(dict(options.encoders), found.grey)
    present = mark_patches(found.mask, GRID)
    rounds = make_rounds(found.people, present)
    rows = [
        row
        for count in options.patients
        for row in ask(features, present, found.people, rounds, count)
    ]
    show(rows)
    if options.write:
        tested = np.any([one.test for one in rounds], axis=0)
        write_results(
            f"real_{options.lesion}",
            ("oct-io", "oct-vjepa", "numpy", "scikit-learn"),
            {"data": "kermany, annotated by akulistus", "phantom": False,
             "scans": len(found.grey), "patients": len(np.unique(found.people)),
             "patients_with_it": len(np.unique(found.people[tested])),
             "patches": int(present.size), "with_it": int(present.sum()), "rows": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
