"""Which share of damaged frames is refused or flagged, and how many sound scans are too?

One frame of each volume gets zeros in the place of some bytes, as a page or a disk block that never
arrived leaves them, at a place drawn at random behind the frame's own header. "silent" counts those
that a decoder takes without complaint and turns into other voxels: damage that would have gone on.

    OCT_SAMPLES=DIR python benchmarks/lost_bytes.py
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from oct_io import OctVolume, ScanError, Spacing, read_volume
from oct_io.dicom.decoders import find_decoder
from oct_io.dicom.encoding import CODECS
from oct_io.dicom.header import describe
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import Phantom, draw_phantom
from oct_io.phantom.faults import PIXEL_TAG
from oct_io.phantom.scanners import SCANNERS
from oct_io.scan.flags import find_flags
from pydicom.encaps import generate_frames
from writing import write_results

SIZES = (64, 512, 4096)
TRIES = 16
HEADER_BYTES = 700  # of a codestream; damage to it is another matter, and decoders refuse it
BATCH = 10


def volumes() -> dict[str, OctVolume]:
    """A real volume, if there is one, and made-up ones."""
    tokens = {"spectralis": "spectralis_ppol_mac_hr_oct", "cirrus": "cirrus_mac_oct"}
    found = {
        name: draw_phantom(Phantom(device=token, shape=(BATCH, 496, 512)), 5)
        for name, token in tokens.items()
    }
    samples = os.environ.get("OCT_SAMPLES")
    if samples:
        path = Path(samples) / "spectralis_medvisbonn/volume_145x496x512_u8.npz"
        with np.load(path) as file:
            spacing = Spacing(*map(float, file["spacing_mm"]))
            part = file["volume"][60 : 60 + BATCH]
        found["real"] = OctVolume(part, spacing, "given", region="Macula")
    return found


def damage(path: Path, codec: str, size: int, rng: np.random.Generator) -> tuple[bytes, bool]:
    """The file with `size` zeros in one frame, and whether that changes what is decoded."""
    content = bytearray(path.read_bytes())
    dataset = pydicom.dcmread(path)
    at = content.index(PIXEL_TAG) + 12
    if codec == "native":  # every change of an uncompressed voxel is silent
        place = at + int(rng.integers(len(content) - at - size))
        changed = any(content[place : place + size])
        content[place : place + size] = bytes(size)
        return bytes(content), changed
    frames = list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    chosen = int(rng.integers(2, len(frames) - 2))
    frame = frames[chosen]
    start = content.index(frame[:4000], at)
    inside = HEADER_BYTES + int(rng.integers(len(frame) - size - HEADER_BYTES - 8))
    content[start + inside : start + inside + size] = bytes(size)
    spoiled = bytes(content[start : start + len(frame)])
    return bytes(content), differs(dataset, frame, spoiled)


def differs(dataset: pydicom.Dataset, frame: bytes, spoiled: bytes) -> bool:
    """Whether a decoder takes `spoiled` without complaint and gives other voxels."""
    decode = find_decoder(describe(dataset, ""))
    assert decode is not None
    try:
        return not np.array_equal(decode(frame), decode(spoiled))
    except Exception:  # a decoder that complains needs no check
        return False


def caught(path: Path, content: bytes) -> str:
    """How the file is caught: "refused", "flagged" for lost bytes, or "" where it is not."""
    path.write_bytes(content)
    try:
        volume = read_volume(path)
    except ScanError:
        return "refused"
    return "flagged" if "lost_bytes" in find_flags(volume).names else ""


def measure(volume: OctVolume, codec: str, folder: Path) -> dict[str, Any]:
    """Shares over all tries, by number of bytes."""
    rng = np.random.default_rng(0)
    path = folder / "sound.dcm"
    write_dicom(volume, path, uid_seed="x", style=FileStyle(codec=codec))
    row: dict[str, Any] = {"false alarm": caught(folder / "again.dcm", path.read_bytes())}
    for size in SIZES:
        found = [damage(path, codec, size, rng) for _ in range(TRIES)]
        seen = [caught(folder / "spoiled.dcm", content) for content, _ in found]
        silent = [was for was, (_, wrong) in zip(seen, found, strict=True) if wrong]
        row[str(size)] = {
            "caught": sum(map(bool, seen)) / len(seen),
            "refused": seen.count("refused") / len(seen),
            "silent": len(silent),
            "caught of silent": sum(map(bool, silent)) / len(silent) if silent else None,
        }
    return row


def false_alarms(folder: Path) -> dict[str, int]:
    """How many sound made-up scans are caught: every protocol, six eyes each, three codecs."""
    count = wrong = 0
    for token in SCANNERS:
        for seed in range(6):
            spec = Phantom(device=token, scale=0.12, fluid=seed % 2 == 0, drusen=seed % 3 == 0)
            volume = draw_phantom(spec, seed)
            if volume.pattern != "raster":
                continue
            for codec in ("native", "jpeg2000", "ljpeg"):
                path = folder / "sound.dcm"
                write_dicom(volume, path, uid_seed="x", style=FileStyle(codec=codec))
                wrong += bool(caught(path, path.read_bytes()))
                count += 1
    return {"scans": count, "caught": wrong}


def main() -> None:
    """Measure, print and write down."""
    warnings.simplefilter("ignore")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source, volume in volumes().items():
            for codec in CODECS:
                row = rows[f"{source} {codec}"] = measure(volume, codec, folder)
                shares = "  ".join(
                    f"{size}: {row[str(size)]['caught']:4.0%} of {TRIES}, "
                    f"{row[str(size)]['silent']:2d} silent"
                    for size in SIZES
                )
                print(f"{source:10} {codec:8} {shares}  false alarm: {row['false alarm']}")
        clean = false_alarms(folder)
    print(f"{clean['caught']} of {clean['scans']} sound made-up scans caught")
    packages = ("oct-io", "pydicom", "imagecodecs", "numpy")
    write_results("lost_bytes", packages, {"tries": TRIES, "rows": rows, "sound scans": clean})


if __name__ == "__main__":
    sys.exit(main())
