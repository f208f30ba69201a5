"""Makes a folder that `data=folder` reads of a 3-D archive of MedMNIST v2.

    uv run python benchmarks/unpack_medmnist.py adrenalmnist3d_64.npz ADRENAL

An archive holds all volumes of a part in one array; here each becomes a file of its own, beside a
table of labels and of the published split, in which every volume is a participant. Read them with
`data.kind=volume`.
"""

import argparse
from pathlib import Path

import numpy as np

PARTS = ("train", "val", "test")


def unpack(archive: Path, folder: Path) -> int:
    """Write NAME.npy for each volume, and participants.tsv; returns how many."""
    folder.mkdir(parents=True)
    rows = ["participant_id\tlabel\trecommended_split"]
    with np.load(archive) as arrays:
        for part in PARTS:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel()
            for number, label in enumerate(labels.tolist()):
                name = f"{part}{number:04d}"
                np.save(folder / f"{name}.npy", images[number])
                rows.append(f"{name}\t{label}\t{part}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return len(rows) - 1


def main() -> None:
    """Unpack, and say how many volumes there are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path, help="must not exist")
    given = parser.parse_args()
    print(f"{unpack(given.archive, given.folder)} volumes in {given.folder}")


if __name__ == "__main__":
    main()
