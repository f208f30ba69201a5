"""What does a data set of many .npz cost from folder to training, and again at the next start?

    uv run python benchmarks/many_archives.py [--archives 10000] [--folder FOLDER]

Writes archives in the manner of FairVision (a volume, a fundus image, labels as scalars), one
`volume.json` and a table of labels, then opens the source twice as the apps do. Prints CPU seconds
of this process and wall seconds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from oct_io import SourceConfig, open_source, read_manifest

SAID = {"member": "oct_bscans", "spacing_mm": [0.5, 0.008, 0.06], "participant_from": "file"}


def write(root: Path, archives: int) -> None:
    """Write the tree; voxels are noise of 8 x 64 x 64 around a bright band."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 60, (8, 64, 64), dtype=np.uint8)
    base[:, 24:32] += 150
    lines = ["participant_id,glaucoma"]
    for number in range(archives):
        folder = root / ("Training" if number % 5 else "Test")
        folder.mkdir(parents=True, exist_ok=True)
        volume = np.roll(base, number, axis=2) + np.uint8(number % 31)
        arrays = {"slo_fundus": volume[0], "glaucoma": number % 2, "oct_bscans": volume}
        np.savez(folder / f"data_{number:05}.npz", **arrays)
        lines.append(f"data_{number:05},{number % 2}")
    (root / "volume.json").write_text(json.dumps(SAID))
    (root / "participants.csv").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write, list, open twice, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archives", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = (options.folder or Path(made)) / "archives"
        clock = _Clock()
        write(root, options.archives)
        clock.tell("written")
        records = read_manifest(root)
        clock.tell(f"listed {len(records):,} scans, refused {sum(map(_is_refused, records))}")
        config = SourceConfig(
            root=str(root), window="tiny", cache=str(root.parent / "cache"), jobs=1
        )
        source = open_source(config)
        clock.tell(f"first start: {len(source.volumes):,} volumes in the cache")
        source = open_source(config)
        clock.tell("second start")
        labelled = source.labelled("glaucoma")
        clock.tell(f"labelled {len(labelled.labels):,}: {labelled.describe()}")


def _is_refused(record: object) -> bool:
    return getattr(record, "refused", None) is not None


class _Clock:
    """Prints CPU and wall seconds since the last print."""

    def __init__(self) -> None:
        self.last = time.process_time(), time.perf_counter()

    def tell(self, what: str) -> None:
        now = time.process_time(), time.perf_counter()
        cpu, wall = (new - old for new, old in zip(now, self.last, strict=True))
        self.last = now
        print(f"{cpu:7.1f} CPU s, {wall:7.1f} s: {what}", flush=True)


if __name__ == "__main__":
    main()
