"""How long does a start take, and how much memory, with many scans?

Five questions, each answered by a fresh process that reports its CPU seconds (user and system,
its children included) and its peak of resident memory, less what importing alone takes:

- opening a cache index of 10^5 and of 10^6 records, as a table and as the JSON it was before;
- writing one, through `EntryWriter` and all at once;
- what a pickled selection weighs, and what a worker takes that gets it;
- the manifest of a folder of DICOM files: the first time, with processes, and once more;
- one warm volume from the cache, against one copy out of a `memmap` of the same bytes.

CPU seconds and not wall time, because the machine may be busy.

    python benchmarks/index_scale.py
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from oct_io import CachedVolumes, OctVolume, Spacing, Window, build_cache, read_manifest
from oct_io.cache.entries import CacheEntry
from oct_io.cache.index import CacheIndex, fingerprint, read_index, write_index
from oct_io.cache.table import ENTRIES, EntryWriter, map_entries
from oct_io.catalog.header_index import index_path
from oct_io.dicom.writer import write_dicom
from writing import write_results

WINDOW = Window(name="tiny", extent_mm=(6, 1, 6), shape=(2, 8, 8))
PER_SHARD = 524_288  # of this window in 64 MB
FRAMES = 4
WARM_SHAPE, WARM_VOLUMES, WARM_ROUNDS, WARM_PASSES = (64, 384, 384), 16, 24, 4


def draw_entries(count: int) -> Iterator[CacheEntry]:
    """Entries as those of AI-READI, two eyes a participant."""
    devices = ("heidelberg_spectralis", "topcon_maestro2", "topcon_triton", "zeiss_cirrus")
    for n in range(count):
        name = sha256(str(n).encode()).hexdigest()
        yield CacheEntry(
            participant=sha256(str(n // 8).encode()).hexdigest()[:12],
            key=name[:16],
            device=devices[n % 4],
            laterality="RL"[n % 2],
            region="Macula, 6 x 6",
            protocol="triton_macula_6x6_octa_oct",
            spacing=(0.09375, 0.0052083333, 0.015625),
            spacing_source="frames",
            origin_mm=(0.01 * (n % 7), 0.2, -0.1),
            source_shape=(128, 992, 512),
            source_spacing=(0.047, 0.0026, 0.0117),
            sha256=name,
            shard=n // PER_SHARD,
            slot=n % PER_SHARD,
            source=name[32:],
            flags=("motion",) if n % 50 == 0 else (),
            signal_db=24.5,
            white=255,
        )


def write_table(folder: Path, count: int) -> None:
    """Write the index of a cache as a build does, shard by shard."""
    folder.mkdir(parents=True)
    with EntryWriter(folder / ENTRIES) as table:
        waiting = []
        for entry in draw_entries(count):
            waiting.append(entry)
            if len(waiting) == 16:
                table.add(waiting)
                waiting = []
        table.add(waiting)
    entries = map_entries(folder / ENTRIES)
    sizes = [min(PER_SHARD, count - first) for first in range(0, count, PER_SHARD)]
    index = CacheIndex(
        window=WINDOW,
        entries=entries,
        shards=tuple(sizes),
        mean=61.0,
        std=40.0,
        percentiles=(0.0, 55.0, 220.0),
        inputs="inputs",
        fingerprint=fingerprint(WINDOW, entries.hashes()),
        refused=0,
    )
    write_index(folder, index)


def write_json(folder: Path, count: int) -> None:
    """Write the same index as one JSON, as it was before there was a table."""
    write_table(folder, 16)
    index = read_index(folder)
    (folder / ENTRIES).unlink()
    tree = {one.name: getattr(index, one.name) for one in fields(index)}
    tree |= {"format": "oct-io-cache", "version": 1, "window": asdict(WINDOW), "shards": [count]}
    tree["entries"] = [asdict(entry) for entry in draw_entries(count)]
    text = json.dumps(tree, indent=1, sort_keys=True) + "\n"
    (folder / "index.json").write_text(text)


def open_index(folder: Path, count: int) -> None:
    """Open it, as `open_cache` does before it looks at the shards."""
    assert len(read_index(folder).entries) == count


def use_index(folder: Path, count: int) -> None:
    """Open it, and ask what `open_source` asks of all entries; then take half of them."""
    index = read_index(folder)
    entries = index.entries
    assert entries.count_flags() == {"motion": -(-count // 50)}
    assert len(entries.without_flags(["motion"])) == count - -(-count // 50)
    assert len(entries.coded("participant").words) == -(-count // 8)
    half = CachedVolumes(folder, index).select(np.arange(0, count, 2))
    assert half.entries[-1].slot == (count - 2) % PER_SHARD


def send_half(folder: Path, count: int) -> dict[str, float]:
    """Pickle a selection of half of it, and load it as a worker would."""
    half = CachedVolumes(folder, read_index(folder)).select(np.arange(0, count, 2))
    sent = pickle.dumps(half)
    assert len(pickle.loads(sent)) == count // 2
    return {
        "bytes_half": len(sent),
        "bytes_all": len(pickle.dumps(CachedVolumes(folder, read_index(folder)))),
    }


def list_folder(folder: Path, count: int) -> None:
    """Headers of a folder, as if there were no cache."""
    assert len(read_manifest(folder)) == count


def list_by_processes(folder: Path, count: int) -> None:
    """The same by two processes, and keep the headers."""
    assert len(read_manifest(folder, cache=folder.with_name("cache"), jobs=2)) == count


def list_again(folder: Path, count: int) -> None:
    """The same with headers that are kept."""
    assert index_path(folder.with_name("cache")).exists()
    assert len(read_manifest(folder, cache=folder.with_name("cache"))) == count


def nothing(folder: Path, count: int) -> None:
    """What importing takes."""


BEFORE = {
    "10^5 records": {"open_s": 2.9, "peak_mb": 357},
    "10^6 records": {"open_s": 26, "peak_mb": 2600, "pickled_mb": 331, "writing_mb": 5700},
    "20000 files, each start": {"cpu_s": 92},
    "warm volumes a CPU second": {"ours": 260, "memmap_copy": 307},
}
"""At commit 856e176, on another day of a busy machine: compare orders of magnitude."""

QUESTIONS: dict[str, Callable[[Path, int], Any]] = {
    one.__name__: one
    for one in (
        *(nothing, write_table, write_json, open_index, use_index, send_half),
        *(list_folder, list_by_processes, list_again),
    )
}


def answer(question: str, folder: str, count: int) -> None:
    """Answer a question in this process, and print what it took."""
    before, start = _cpu_seconds(), time.perf_counter()
    more = QUESTIONS[question](Path(folder), count)
    spent = {"cpu_s": _cpu_seconds() - before, "wall_s": time.perf_counter() - start}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps(spent | {"peak_mb": peak} | (more or {})))


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ask(question: str, folder: Path, count: int) -> dict[str, float]:
    """Answer a question in a fresh process."""
    command = [sys.executable, __file__, "--answer", question, str(folder), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{question:20}{count:>9}  " + "  ".join(f"{k} {v:.2f}" for k, v in row.items()))
    return row


def write_scans(folder: Path, count: int) -> None:
    """DICOM files of a few frames: copies of four, which is all that a header can tell."""
    folder.mkdir()
    contents = []
    for seed in range(4):
        voxels = np.random.default_rng(seed).integers(0, 255, (FRAMES, 16, 16), dtype=np.uint8)
        volume = OctVolume(voxels, Spacing(0.1, 0.004, 0.01), "drawn", laterality="L")
        write_dicom(volume, folder / "one.dcm", uid_seed=str(seed))
        contents.append((folder / "one.dcm").read_bytes())
    (folder / "one.dcm").unlink()
    for n in range(count):
        (folder / f"{n:06}.dcm").write_bytes(contents[n % 4])


def measure_warm(folder: Path) -> dict[str, float]:
    """Volumes a CPU second, of both ways."""
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    for n in range(WARM_VOLUMES):
        voxels = rng.integers(0, 256, WARM_SHAPE, dtype=np.uint8)
        volume = OctVolume(voxels, Spacing(6 / 64, 2 / 384, 6 / 384), "drawn", region="Macula")
        write_dicom(volume, folder / f"scans/{n}.dcm", uid_seed=str(n))
    window = Window(name="warm", extent_mm=(6, 2, 6), shape=WARM_SHAPE)
    build_cache(read_manifest(folder / "scans"), folder / "scans", window, folder / "cache")
    volumes = CachedVolumes(folder / "cache", read_index(folder / "cache"))
    maps = [
        np.memmap(path, np.uint8, "r").reshape(-1, *WARM_SHAPE)
        for path in sorted((folder / "cache").glob("*.u8"))
    ]
    places = [(shard, slot) for shard, each in enumerate(maps) for slot in range(len(each))]

    def copied(n: int) -> np.ndarray[Any, Any]:
        shard, slot = places[n]
        return np.array(maps[shard][slot])

    sides: dict[str, Callable[[int], Any]] = {"ours": volumes.__getitem__, "memmap_copy": copied}
    order = rng.permutation(WARM_VOLUMES).tolist()
    row: dict[str, float] = {}
    for kept in (1, WARM_VOLUMES):
        found = _take_turns(sides, order, kept)
        name = "freed at once" if kept == 1 else f"{kept} kept"
        row |= {f"{side}, {name}": rate for side, rate in found.items()}
        row[f"ours over memmap, {name}"] = found["ours"] / found["memmap_copy"]
    for what, value in row.items():
        print(f"{what:40}{value:10.2f}")
    return row


def _take_turns(
    sides: dict[str, Callable[[int], Any]], order: list[int], kept: int
) -> dict[str, float]:
    """Volumes a CPU second of each side, the median of rounds in which they take turns.

    Of volumes that are freed at once, the next one gets the same memory; of those that are kept,
    each gets new pages, which the system must clear first.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(WARM_ROUNDS):
        for name in sorted(sides, reverse=bool(turn % 2)):
            start = time.process_time()
            for _ in range(WARM_PASSES):
                held: deque[Any] = deque(maxlen=kept)
                for n in order:
                    held.append(sides[name](n))
            rates[name].append(WARM_PASSES * len(order) / (time.process_time() - start))
    return {name: float(np.median(found)) for name, found in rates.items()}


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answer", nargs=3, metavar=("QUESTION", "FOLDER", "COUNT"))
    parser.add_argument("--records", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--files", type=int, default=20_000)
    options = parser.parse_args()
    if options.answer:
        question, folder, count = options.answer
        answer(question, folder, int(count))
        return
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        rows["importing"] = ask("nothing", place, 0)
        for count in options.records:
            table = place / f"table{count}"
            found: dict[str, Any] = {
                one: ask(one, table, count)
                for one in ("write_table", "open_index", "use_index", "send_half")
            }
            found["table_bytes"] = os.stat(table / ENTRIES).st_size
            rows[f"{count} records"] = found
        write = place / "json"
        rows["json, 100000 records"] = {
            one: ask(one, write, 100_000) for one in ("write_json", "open_index")
        }
        write_scans(place / "scans", options.files)
        rows[f"{options.files} files"] = {
            one: ask(one, place / "scans", options.files)
            for one in ("list_folder", "list_by_processes", "list_again")
        }
        (place / "warm").mkdir()
        rows["warm"] = measure_warm(place / "warm")
    settings = {"frames": FRAMES, "warm_shape": WARM_SHAPE}
    facts = {"settings": settings, "before": BEFORE, "rows": rows}
    write_results("index_scale", ("oct-io", "pyarrow", "numpy", "pydicom"), facts)


if __name__ == "__main__":
    main()
