"""Makes damaged scans from sound ones, and watches what reading them does."""

import csv
import io
import json
import os
import select
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import Phantom, draw_phantom
from pydicom.encaps import generate_frames

SHAPE = (4, 32, 24)
CAP_BYTES = 256 << 20
WAIT_S = 120  # of the clock: for what waits, or does not let the worker's own limit through
PIXELS = b"\xe0\x7f\x10\x00"
ITEM = b"\xfe\xff\x00\xe0"
SIDECAR = {"spacing_mm": [0.25, 0.04, 0.25]}


@dataclass
class Base:
    """A sound file."""

    name: str
    content: bytes
    start: int  # of the pixel data element
    frames: list  # (start, stop) of each compressed frame; empty if not compressed
    suffix: str = ".dcm"


def draw(bits=8):
    spec = Phantom(device="cirrus_mac_oct", shape=SHAPE, bits=bits, participant_id="4007")
    return draw_phantom(spec, 3)


def bases(folder):
    """One small scan in every codec, offset table and number of bits."""
    found = []
    for codec in ("native", "rle", "jpeg2000", "jpegls", "ljpeg", "htj2k", "jpeg"):
        for bits in (8, 16) if codec != "jpeg" else (8,):
            for table in ("basic",) if codec == "native" else ("basic", "empty", "extended"):
                name = f"{codec}-{bits}-{table}"
                path = folder / f"{name}.dcm"
                style = FileStyle(codec=codec, table=table)
                write_dicom(draw(bits), path, uid_seed=name, style=style)
                found.append(as_base(name, path))
    path = folder / "deflated.dcm"
    dataset = pydicom.dcmread(folder / "native-8-basic.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    found.append(Base("deflated", path.read_bytes(), 600, []))
    return found


def as_base(name, path):
    content = path.read_bytes()
    start = content.index(PIXELS)
    dataset = pydicom.dcmread(path)
    frames, at = [], start
    if dataset["PixelData"].is_undefined_length:
        for frame in generate_frames(dataset.PixelData, number_of_frames=SHAPE[0]):
            at = content.index(frame, at)
            frames.append((at, at + len(frame)))
            at += len(frame)
    return Base(name, content, start, frames)


def flip_bits(base, rng):
    content = bytearray(base.content)
    for at in rng.integers(132, len(content), rng.integers(1, 9)):
        content[at] ^= 1 << int(rng.integers(8))
    return bytes(content)


def scatter_noise(base, rng):
    """Random bytes, most of them where pixels or codestreams lie."""
    content = bytearray(base.content)
    at = int(rng.integers(base.start if rng.random() < 0.7 else 132, len(content) - 1))
    size = min(int(2 ** rng.uniform(0, 9)), len(content) - at)
    content[at : at + size] = rng.bytes(size)
    return bytes(content)


def truncate(base, rng):
    return base.content[: int(rng.integers(0, len(base.content)))]


def lie_about_a_length(base, rng):
    """Another length for an item, an element or a fragment."""
    content = bytearray(base.content)
    marks = [at + 4 for at in find_all(base.content, ITEM)]
    marks += [at + 8 for at in find_all(base.content, PIXELS)]
    marks += [at + 8 for at in find_all(base.content, b"\x30\x92SQ")]  # frame groups
    marks = [at for at in marks if at + 4 <= len(content)] or [140]
    at = marks[int(rng.integers(len(marks)))]
    lies = (0, 1, 7, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, int(rng.integers(1 << 20)))
    content[at : at + 4] = struct.pack("<I", lies[int(rng.integers(len(lies)))])
    return bytes(content)


def find_all(content, mark):
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


def lie_about(*names):
    """A mutation that gives one of the named header elements another value."""

    def lie(base, rng):
        dataset = pydicom.dcmread(io.BytesIO(base.content))
        name = names[int(rng.integers(len(names)))]
        usual = int(dataset[name].value)
        lies = (0, 1, usual - 1, usual + 1, 2 * usual, 8, 12, 16, 4096, 65535)
        value = int(lies[int(rng.integers(len(lies)))])
        if name == "NumberOfFrames" and rng.random() < 0.5:  # and describe as many
            frames = list(dataset.PerFrameFunctionalGroupsSequence)
            value = min(value, 3000 if rng.random() < 0.02 else 40)  # describing takes time
            many = (frames * (value // len(frames) + 1))[:value]
            dataset.PerFrameFunctionalGroupsSequence = many
        setattr(dataset, name, value)
        return saved(dataset)

    return lie


def saved(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def zero_codestream(base, rng):
    """Zeros within one frame's codestream, behind its own header."""
    if not base.frames:
        return zero_block(base, rng)
    content = bytearray(base.content)
    start, stop = base.frames[int(rng.integers(len(base.frames)))]
    size = int(rng.integers(64, max(65, (stop - start) // 2)))
    at = int(rng.integers(start + (stop - start) // 4, max(start + 1, stop - size - 2)))
    content[at : at + size] = bytes(min(size, stop - 2 - at))
    return bytes(content)


def zero_block(base, rng):
    content = bytearray(base.content)
    at = int(rng.integers(132, len(content)))
    size = min(int(2 ** rng.uniform(4, 12)), len(content) - at)
    content[at : at + size] = bytes(size)
    return bytes(content)


def lie_in_the_codestream(base, rng):
    """Another size, number of channels, depth or tile in a frame's own header."""
    if not base.frames:
        return lie_about("Rows", "Columns")(base, rng)
    content = bytearray(base.content)
    start, stop = base.frames[int(rng.integers(len(base.frames)))]
    at = start + int(rng.integers(2, min(64, stop - start - 4)))
    content[at : at + 2] = struct.pack(">H", int(rng.choice([0, 1, 255, 4096, 16384, 65535])))
    return bytes(content)


def shift_blocks(base, rng):
    """A stretch of bytes is missing, or stands there twice."""
    at = int(rng.integers(132, len(base.content)))
    size = int(2 ** rng.uniform(0, 10))
    part = base.content[at : at + size]
    if rng.random() < 0.5:
        return base.content[:at] + base.content[at + size :]
    return base.content[:at] + part + base.content[at:]


MUTATIONS = {
    "bit flips": flip_bits,
    "noise": scatter_noise,
    "truncation": truncate,
    "lying length": lie_about_a_length,
    "lying NumberOfFrames": lie_about("NumberOfFrames"),
    "lying Rows, Columns": lie_about("Rows", "Columns"),
    "lying bits": lie_about("BitsAllocated", "BitsStored", "SamplesPerPixel"),
    "zeroed codestream": zero_codestream,
    "zeroed block": zero_block,
    "lying codestream": lie_in_the_codestream,
    "shifted blocks": shift_blocks,
}


def zeros_deflated(total):
    """A deflate stream that unpacks to `total` zeros, made of one piece again and again."""
    piece = 16 << 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    part = packer.compress(bytes(piece)) + packer.flush(zlib.Z_FULL_FLUSH)
    return part * (total // piece) + packer.flush()


def bombs(folder, base):
    """Files that unpack to gigabytes, or claim to."""
    total = 4 << 30
    zeros = zeros_deflated(total)
    head = 144 + int.from_bytes(base.content[140:144], "little")
    yield "deflate bomb", ".dcm", base.content[:head] + zeros
    yield "npz bomb", ".npz", npz_bomb(zeros, total, npy_header((4, 32, 9 << 20)))
    yield "npz bomb", ".npz", npz_bomb(zeros, total, npy_header(SHAPE))
    yield "npz bomb", ".npz", npz_bomb(zeros, total, b"")
    yield "npz bomb", ".npy", npy_header((1 << 20, 1 << 10, 4)) + bytes(4096)
    yield "npz bomb", ".npy", npy_header((4, 32, 24), "|O") + b"cos\nsystem\n(S'false'\ntR."
    gzip_head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    yield "gzip bomb", ".nii.gz", gzip_head + zeros + bytes(8)


def npy_header(shape, kind="|u1"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode()


def npz_bomb(zeros, total, header):
    """An archive whose only member unpacks to `header` and gigabytes of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("voxels.npy", b"x")
    content = file.getvalue()
    name = b"voxels.npy"
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH) + zeros
    size = min(total + len(header), 0xFFFFFFFE)
    sizes = struct.pack("<III", 0, len(body), size)
    local = content[:14] + sizes + content[26 : 30 + len(name)]
    at = content.index(b"PK\x01\x02")
    central = content[at : at + 16] + sizes + content[at + 28 : at + 46 + len(name)]
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local) + len(body), 0)
    return local + body + central + end


WAYS_OUT = (
    "/../../{n}.dcm",
    "/retinal_oct/../../{n}.dcm",
    "..\\..\\{n}.dcm",
    "//{n}/scan.dcm",
    "s3://elsewhere/{n}.dcm",
    "file:///etc/{n}.dcm",
    "C:\\{n}.dcm",
    "/./../{n}.dcm",
    "retinal_oct/{n}/../../../x.dcm",
)


@dataclass
class Mutant:
    """One damaged scan: its line in the manifest, and what was done to it."""

    path: str
    kind: str
    base: str


def write_tree(root, count, seed):
    """A tree of `count` damaged scans with a manifest; a few sound ones are among them."""
    folder = root / "retinal_oct" / "structural_oct" / "zeiss_cirrus" / "4007"
    folder.mkdir(parents=True)
    sound = bases(folder)
    mutants = [
        Mutant(f"{folder.relative_to(root)}/{one.name}.dcm", "none", one.name) for one in sound
    ]
    rng = np.random.default_rng(seed)
    for number, (kind, suffix, content) in enumerate(bombs(root, sound[-1])):
        path = folder / f"bomb{number}{suffix}"
        path.write_bytes(content)
        path.with_name(f"bomb{number}.json").write_text(json.dumps(SIDECAR))
        mutants.append(Mutant(str(path.relative_to(root)), kind, suffix))
    for number in range(count // 20):
        path = WAYS_OUT[number % len(WAYS_OUT)].format(n=number)
        mutants.append(Mutant(path, "path out of the root", ""))
    kinds = list(MUTATIONS.items())
    while sum(one.kind != "none" for one in mutants) < count:
        number = len(mutants)
        kind, mutate = kinds[number % len(kinds)]
        base = sound[int(rng.integers(len(sound)))]
        if base.name == "deflated" and kind.startswith("lying") and "length" not in kind:
            base = sound[0]
        path = folder / f"m{number:04d}{base.suffix}"
        path.write_bytes(mutate(base, rng))
        mutants.append(Mutant(str(path.relative_to(root)), kind, base.name))
    with (root / "retinal_oct" / "manifest.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("participant_id", "filepath"))
        writer.writerows(("4007", one.path) for one in mutants)
    return mutants


class Worker:
    """A process that reads scans, trees and tables under limits, started again after it dies.

    Args:
        warm: what it reads first, without limits.
    """

    def __init__(self, warm):
        self.command = [sys.executable, str(Path(__file__).with_name("fuzz_worker.py"))]
        self.command += [str(CAP_BYTES), *map(str, warm)]
        self.process = None

    def ask(self, line):
        """What became of a line: a path of a scan, or as `fuzz_worker` says."""
        if self.process is None:
            quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL, **quiet)
            assert self._line(WAIT_S) == b"ready\n"
        self.process.stdin.write(os.fsencode(line) + b"\n")
        self.process.stdin.flush()
        line = self._line(WAIT_S)
        if line:
            return json.loads(line)
        died = self.process.poll()
        self.close()
        return {
            "outcome": "hang" if died is None else "crash",
            "reason": str(died),
            "found": None,
            "s": WAIT_S,
        }

    def _line(self, wait_s):
        ready, _, _ = select.select([self.process.stdout], [], [], wait_s)
        return self.process.stdout.readline() if ready else b""

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def read_all(root, mutants, warm, jobs):
    """What reading each file gives: read, a stage, crash, hang, memory or leak."""
    files = [one for one in mutants if (root / one.path).is_file() and ".." not in one.path]

    def work(part):
        worker = Worker(warm)
        try:
            return [worker.ask(root / one.path) for one in part]
        finally:
            worker.close()

    parts = [files[i::jobs] for i in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        answers = list(pool.map(work, parts))
    return {
        one.path: answer
        for part, found in zip(parts, answers, strict=True)
        for one, answer in zip(part, found, strict=True)
    }


def tabulate(mutants, outcomes):
    """kind -> outcome -> number."""
    table = {}
    for one in mutants:
        row = table.setdefault(one.kind, {})
        outcome = outcomes.get(one.path, "refused by the manifest")
        row[outcome] = row.get(outcome, 0) + 1
    return table


def show(table):
    """The table as text."""
    columns = sorted({outcome for row in table.values() for outcome in row})
    lines = [f"{'':24}" + "".join(f"{name[:12]:>13}" for name in columns)]
    for kind, row in table.items():
        lines.append(f"{kind:24}" + "".join(f"{row.get(name, 0):>13}" for name in columns))
    return "\n".join(lines)
