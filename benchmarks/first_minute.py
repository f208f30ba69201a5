"""What does the first minute of a demonstration cost: drawing, writing and caching its phantoms?

By stage: one scan of each device of the default tree, drawn, written and cached `ROUNDS` times in
this process. As a whole: the default tree and its cache in as many processes as they take, what
they import among it. All in processor seconds of all threads and child processes, which other work
on the machine moves little.

    python benchmarks/first_minute.py
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oct_io import build_cache, read_manifest, read_volume, resample
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import Phantom, PhantomTree, draw_phantom, write_phantom_tree
from oct_io.space.resample import WINDOWS
from writing import write_results

ROUNDS = 21
WINDOW = WINDOWS["tiny"]  # of configs/data/phantom.yaml
MODULES = ("oct_io", "oct_io.phantom.tree", "oct_io.readers.dicom")
"""What a script imports, each process that draws, and each one that decodes. The second comes to as
much as the third with the first file that it writes."""


def cpu_ms(call: Callable[[], Any]) -> float:
    """Processor milliseconds of all threads of this process."""
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


def family_s() -> float:
    """Processor seconds so far of this process and of its children that have ended."""
    usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def by_stage(device: str, folder: Path) -> dict[str, float]:
    """Median milliseconds a scan of each stage; lesions vary as in the tree."""
    rounds: dict[str, list[float]] = {"draw_ms": [], "write_ms": [], "cache_ms": []}
    path = folder / f"{device}.dcm"
    for n in range(-1, ROUNDS):  # the first loads what is loaded once
        spec = Phantom(device=device, fluid=n % 2 == 0, drusen=n % 3 == 0, thin=n % 4 == 0)
        volume = draw_phantom(spec, n + 1)
        took = {
            "draw_ms": cpu_ms(lambda spec=spec, n=n: draw_phantom(spec, n + 1)),
            "write_ms": cpu_ms(lambda v=volume, n=n: write_dicom(v, path, uid_seed=f"{n + 1}")),
            "cache_ms": cpu_ms(lambda: resample(read_volume(path), WINDOW)),
        }
        for name, value in took.items():
            if n >= 0:
                rounds[name].append(value)
    return {name: round(statistics.median(values), 2) for name, values in rounds.items()}


def import_s(module: str) -> float:
    """Median processor seconds of a fresh interpreter that imports `module`."""
    found = []
    for _ in range(5):
        start = family_s()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        found.append(family_s() - start)
    return round(statistics.median(found), 2)


def as_a_whole(folder: Path) -> dict[str, float]:
    """Processor seconds of the default tree and of its cache, one process a CPU."""
    start = family_s()
    write_phantom_tree(folder / "tree", PhantomTree())
    drawn = family_s()
    build_cache(read_manifest(folder / "tree"), folder / "tree", WINDOW, folder / "cache", jobs=0)
    return {"drawn_s": round(drawn - start, 1), "cached_s": round(family_s() - drawn, 1)}


def main() -> None:
    """Measure, print and write down."""
    facts: dict[str, Any] = {"rounds": ROUNDS, "import_s": {m: import_s(m) for m in MODULES}}
    with tempfile.TemporaryDirectory() as name:
        facts["stages"] = {device: by_stage(device, Path(name)) for device in PhantomTree().devices}
        facts["whole"] = as_a_whole(Path(name))
    for group in ("import_s", "stages", "whole"):
        for key, value in facts[group].items():
            print(f"{group:9} {key:24} {value}")
    write_results("first_minute", ("oct-io", "numpy", "pydicom"), facts)


if __name__ == "__main__":
    main()
