"""Made-up retinas as HEYEX .vol files, which come with their en-face image and lines on it."""

import struct

import numpy as np
from oct_io.phantom import Phantom, draw_phantom

PIXEL_MM = 0.05  # of the en-face image
EDGE_MM = 0.5  # from its outer edges to the scan


def write_vol_tree(root, participants):
    """A .vol file of each participant, and labels.csv, in which every second one is thin."""
    root.mkdir()
    rows = ["participant_id,thin"]
    for person in range(participants):
        thin = person % 2 == 1
        drawn = draw_phantom(Phantom(thin=thin), person)
        write_vol(root / f"{person}_OD.vol", drawn, f"{person}")
        rows.append(f"{person},{'yes' if thin else 'no'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def write_vol(path, volume, participant):
    """One file; HEYEX lists the most inferior B-scan first."""
    voxels = volume.voxels[::-1]
    bscans, rows, columns = voxels.shape
    step, pitch = volume.spacing.bscan, volume.spacing.column
    deep, wide = bscans * step, columns * pitch
    seen = volume.voxels.mean(axis=1)
    high, across = (round((2 * EDGE_MM + one) / PIXEL_MM) for one in (deep, wide))
    at = [
        np.clip(((np.arange(n) + 0.5) * PIXEL_MM - EDGE_MM) // one, 0, count - 1).astype(int)
        for n, one, count in ((high, step, bscans), (across, pitch, columns))
    ]
    localizer = seen[np.ix_(*at)].round().astype(np.uint8)
    raw = np.clip(np.exp(voxels / 255 * 8.285 - 8.3) - 2.44e-4, 0, 1).astype(np.float32)
    head = struct.pack(
        "<12sIIIdddIIddId4sQiI16s16sI24s",
        *(b"HSF-OCT-103", columns, bscans, rows, pitch, step, volume.spacing.row),
        *(across, high, PIXEL_MM, PIXEL_MM, 30, 0.0, b"OD", 0),
        *(3, 256, b"1", b"1", 7, participant.encode()),
    )
    out = [head.ljust(2048, b"\0"), localizer.tobytes()]
    for number in range(bscans):
        y = EDGE_MM + (bscans - number - 0.5) * step
        line = (EDGE_MM, y, EDGE_MM + wide, y)
        note = struct.pack("<12sIddddIIfI", b"HSF-BS-103", 256, *line, 0, 256, 30.0, 0)
        out += [note.ljust(256, b"\0"), raw[number].tobytes()]
    path.write_bytes(b"".join(out))
