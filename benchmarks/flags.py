"""What do flags cost beside decoding, and do they depend on the codec?

The public Spectralis volume (145 x 496 x 512) as it is and with one B-scan displaced by 77 um, each
written in every lossless codec and read again. Seconds are of one thread's process time, the least
of `TRIES`.

    OCT_SAMPLES=DIR python benchmarks/flags.py
"""

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from oct_io import OctVolume, Spacing, read_volume
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.scan.flags import find_flags
from writing import write_results

LOSSLESS = ("native", "rle", "jpeg2000", "jpegls", "ljpeg", "htj2k")
TRIES = 3
DISPLACED, ROWS = 70, 20


def volumes() -> dict[str, OctVolume]:
    """The real volume, and the same with motion."""
    path = Path(os.environ["OCT_SAMPLES"]) / "spectralis_medvisbonn/volume_145x496x512_u8.npz"
    with np.load(path) as file:
        voxels, spacing = file["volume"], Spacing(*map(float, file["spacing_mm"]))
    moved = voxels.copy()
    moved[DISPLACED] = np.roll(moved[DISPLACED], ROWS, axis=0)
    return {
        name: OctVolume(each, spacing, "given", region="Macula")
        for name, each in (("as it is", voxels), ("displaced", moved))
    }


def measure(path: Path) -> dict[str, Any]:
    """Seconds of reading and of flags, and what these are."""
    read_s, flags_s = [], []
    for _ in range(TRIES):
        start = time.process_time()
        volume = read_volume(path)
        middle = time.process_time()
        found = find_flags(volume)
        read_s.append(middle - start)
        flags_s.append(time.process_time() - middle)
    share = min(flags_s) / min(read_s)
    row = {"read_s": min(read_s), "flags_s": min(flags_s), "share": share}
    return row | {"flags": list(found.names), "signal_db": found.signal_db}


def main() -> None:
    """Measure, print and write down."""
    warnings.simplefilter("ignore")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.dcm"
        for name, volume in volumes().items():
            for codec in LOSSLESS:
                write_dicom(volume, path, uid_seed="x", style=FileStyle(codec=codec))
                row = rows[f"{name} {codec}"] = measure(path)
                print(
                    f"{name:10} {codec:9} read {row['read_s']:6.3f} s, flags "
                    f"{row['flags_s']:5.3f} s, {row['share']:6.1%}; "
                    f"{row['signal_db']:.2f} dB {', '.join(row['flags']) or 'no flag'}"
                )
    write_results("flags", ("oct-io", "pydicom", "imagecodecs", "numpy"), {"rows": rows})


if __name__ == "__main__":
    sys.exit(main())
