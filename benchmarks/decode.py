"""How fast is a scan decoded, per codec, against pydicom, and how much memory does it take?

Speed: `read_volume(path)` against `pydicom.dcmread(path).pixel_array` with pydicom's default
plugin, both in one process, taking turns. A ratio of medians above 1 means that ours is ahead.
Ours includes all checks of the header, of every codestream and of the content.

Memory: the most that Python and numpy held at once while one scan was read, the file's bytes among
it, over the size of the decoded voxels; the same for pydicom. What a decoder takes for one frame
inside of itself is not counted.

    python benchmarks/decode.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from oct_io import OctVolume, read_volume
from oct_io.dicom.encoding import CODECS
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import Phantom, draw_phantom
from pydicom.pixels.decoders.base import get_decoder
from writing import write_results

SHAPE = (8, 496, 512)
MEMORY_SHAPE = (48, 496, 512)
ROUNDS = 3

PEAK = """
import sys, tracemalloc, warnings
warnings.simplefilter("ignore")
path, small, how = sys.argv[1:]
import pydicom
from oct_io import read_volume
read = read_volume if how == "ours" else lambda path: pydicom.dcmread(path).pixel_array
try:
    read(small)  # loads the decoders
except RuntimeError:
    print("none")
    raise SystemExit
tracemalloc.start()
volume = read(path)
print(tracemalloc.get_traced_memory()[1])
"""


def cpu_seconds(call: Callable[[], Any]) -> float:
    """Processor time of one call: fair where other work shares the machine; both use one thread."""
    start = time.process_time()
    call()
    return time.process_time() - start


def speed(path: Path, codec: str) -> dict[str, Any]:
    """Medians over rounds in which both take turns."""
    decoder = get_decoder(pydicom.uid.UID(CODECS[codec].uid)) if codec != "native" else None
    plugin = "copy" if decoder is None else next(iter(decoder.available_plugins), "none")
    ours, theirs = [], []
    read_volume(path)  # loads the decoders
    for _ in range(ROUNDS):
        ours.append(cpu_seconds(lambda: read_volume(path)))
        if plugin != "none":
            theirs.append(cpu_seconds(lambda: pydicom.dcmread(path).pixel_array))
    megabytes = np.prod(SHAPE) / 1e6
    row: dict[str, Any] = {"ours_s": statistics.median(ours), "plugin": plugin}
    row["ours_mb_per_s"] = megabytes / row["ours_s"]
    if theirs:
        row["pydicom_s"] = statistics.median(theirs)
        row["ratio"] = row["pydicom_s"] / row["ours_s"]
    return row


def peak(path: Path, small: Path, how: str) -> float | None:
    """Peak of traced memory over the decoded size, in a fresh process."""
    command = [sys.executable, "-c", PEAK, str(path), str(small), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = done.stdout.strip()
    return None if text == "none" else int(text) / float(np.prod(MEMORY_SHAPE))


@cache
def draw(shape: tuple[int, int, int]) -> OctVolume:
    """A phantom; large ones repeat a few B-scans, which no codec here makes use of."""
    drawn = draw_phantom(Phantom(device="spectralis_like", shape=(min(shape[0], 8), *shape[1:])), 1)
    times = -(-shape[0] // len(drawn.voxels))
    return replace(drawn, voxels=np.concatenate([drawn.voxels] * times)[: shape[0]])


def measure(codec: str, folder: Path) -> dict[str, Any]:
    """Speed and memory of one codec."""
    paths = []
    for name, shape in (("speed", SHAPE), ("memory", MEMORY_SHAPE), ("small", (8, 64, 64))):
        volume = draw(shape)
        path = folder / f"{codec}-{name}.dcm"
        write_dicom(volume, path, uid_seed=path.name, style=FileStyle(codec=codec))
        paths.append(path)
    fast, large, small = paths
    row = speed(fast, codec)
    row["peak_over_decoded"] = peak(large, small, "ours")
    row["pydicom_peak_over_decoded"] = peak(large, small, "pydicom")
    return row


def main() -> None:
    """Measure, print and write down."""
    warnings.simplefilter("ignore")
    rows = {}
    print(f"{'codec':9}{'ours MB/s':>10}{'pydicom/ours':>14}{'plugin':>9}{'peak':>7}{'pydicom':>9}")
    with tempfile.TemporaryDirectory() as name:
        for codec in CODECS:
            row = rows[codec] = measure(codec, Path(name))
            ratio, other = row.get("ratio"), row["pydicom_peak_over_decoded"]
            print(
                f"{codec:9}{row['ours_mb_per_s']:10.0f}{ratio or float('nan'):14.2f}"
                f"{row['plugin']:>9}{row['peak_over_decoded']:7.2f}{other or float('nan'):9.2f}"
            )
    packages = ("oct-io", "pydicom", "python-gdcm", "imagecodecs", "numpy")
    write_results("decode", packages, {"shape": SHAPE, "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
