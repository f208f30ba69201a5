"""How fast does training get volumes from our cache, against MONAI, .npy files and mapped memory?

Four stores hold the same resampled volumes (64 x 384 x 384, uint8, 9.4 MB each): our shards, the
.pt files of `monai.data.PersistentDataset`, one .npy file a volume, and those files mapped into
memory and copied from, which checks nothing and is the limit. Each is read in the same
shuffled order through a torch `DataLoader`, without and with two worker processes, and each sample
arrives as a uint8 tensor. They take turns in every round; a ratio of medians above 1 means that
ours is ahead.

Warm: everything was read just before. Cold: the pages of the files are dropped from the system's
page cache before each pass (`posix_fadvise` with POSIX_FADV_DONTNEED); what the disk
or its host keeps is not dropped, so that cold is no promise about a disk. Workers are started and
have read each volume once before the clock starts.

    python benchmarks/cache_speed.py
"""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Transform
from oct_io import WINDOWS, CachedVolumes, OctVolume, build_cache, open_cache, read_manifest
from oct_io.dicom.writer import write_dicom
from oct_io.volume import Spacing
from torch.utils.data import DataLoader, Dataset
from writing import write_results

VOLUMES = 16
ROUNDS = 5
SIDES = ["ours", "monai", "npy", "mapped"]


class Ours(Dataset[torch.Tensor]):
    """Volumes of our cache."""

    def __init__(self, volumes: CachedVolumes) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.volumes[number])


class Npy(Dataset[torch.Tensor]):
    """One .npy file a volume."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self.paths[number]))


class Mapped(Dataset[torch.Tensor]):
    """One .npy file a volume, mapped into memory anew and copied from.

    A map that stays open would keep the pages in memory, and no pass would be cold.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(np.array(np.load(self.paths[number], mmap_mode="r")))


class Load(Transform):
    """What MONAI does once a volume and keeps; of a plain function it would keep nothing."""

    def __call__(self, path: str) -> torch.Tensor:
        """Voxels of one volume."""
        return torch.from_numpy(np.load(path))


def make_stores(folder: Path) -> tuple[dict[str, Dataset[Any]], dict[str, list[Path]]]:
    """The same volumes in three stores, and the files of each."""
    rng = np.random.default_rng(0)
    (folder / "scans").mkdir()
    for number in range(VOLUMES):
        voxels = rng.integers(0, 256, (64, 384, 384), dtype=np.uint8)
        volume = OctVolume(voxels, Spacing(6 / 64, 2 / 384, 6 / 384), "drawn", region="Macula")
        write_dicom(volume, folder / f"scans/{number}.dcm", uid_seed=str(number))
    build_cache(read_manifest(folder / "scans"), folder / "scans", WINDOWS["macula6"], folder / "c")
    volumes = open_cache(folder / "c")
    (folder / "npy").mkdir()
    paths = [folder / f"npy/{number}.npy" for number in range(VOLUMES)]
    for path, volume in zip(paths, volumes, strict=True):
        np.save(path, volume)
    persistent = PersistentDataset([str(path) for path in paths], Load(), folder / "monai")
    stores = {"ours": Ours(volumes), "monai": persistent, "npy": Npy(paths)}
    stores["mapped"] = Mapped(paths)
    for number in range(VOLUMES):
        assert torch.equal(stores["ours"][number], torch.as_tensor(persistent[number]))
    files = {"ours": sorted((folder / "c").glob("*.u8")), "npy": paths}
    files["mapped"] = paths
    files["monai"] = sorted((folder / "monai").iterdir())
    assert all(path.stat().st_size > 64 * 384 * 384 for path in files["monai"])
    for path in (path for side in files.values() for path in side):
        with path.open("rb") as file:
            os.fsync(file)  # pages that are not on disk yet cannot be dropped
    return stores, files


def forget(paths: Sequence[Path]) -> None:
    """Drop the pages of files from the page cache."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def one_pass(loader: DataLoader[Any]) -> float:
    """Volumes per second of one pass."""
    start = time.perf_counter()
    seen = sum(1 for sample in loader if sample.shape == (64, 384, 384))
    assert seen == VOLUMES
    return seen / (time.perf_counter() - start)


def measure(
    stores: dict[str, Dataset[Any]], files: dict[str, list[Path]], *, workers: int, cold: bool
) -> dict[str, float]:
    """Medians of volumes per second, and what ours is over the others."""
    loaders = {}
    for name in SIDES:
        order = torch.randperm(VOLUMES, generator=torch.Generator().manual_seed(0)).tolist()
        loaders[name] = DataLoader(
            stores[name],
            batch_size=None,
            sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        one_pass(loaders[name])
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(ROUNDS):
        for name in SIDES[turn % len(SIDES) :] + SIDES[: turn % len(SIDES)]:
            if cold:
                forget(files[name])
            else:
                one_pass(loaders[name])
            rates[name].append(one_pass(loaders[name]))
    row = {name: statistics.median(rates[name]) for name in SIDES}
    return row | {f"over_{name}": row["ours"] / row[name] for name in SIDES[1:]}


def main() -> None:
    """Measure, print and write down."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = {}
    heads = (*SIDES, *(f"over {name}" for name in SIDES[1:]))
    print(f"{'':16}" + "".join(f"{head:>12}" for head in heads) + "  volumes/s")
    with tempfile.TemporaryDirectory() as name:
        stores, files = make_stores(Path(name))
        for cold in (True, False):
            for workers in (0, 2):
                what = f"{'cold' if cold else 'warm'}, {workers} workers"
                row = rows[what] = measure(stores, files, workers=workers, cold=cold)
                keys = (*SIDES, *(f"over_{name}" for name in SIDES[1:]))
                print(f"{what:16}" + "".join(f"{row[key]:12.2f}" for key in keys))
    packages = ("oct-io", "monai", "torch", "numpy")
    write_results("cache_speed", packages, {"volumes": VOLUMES, "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
