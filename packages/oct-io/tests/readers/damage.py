"""Damages files of every format, folders of them, and every table that is read beside scans.

Each mutant has a seed of its own, so that any of them can be made again alone. `fuzzing` does the
same for DICOM files with their codestreams, and has the process that reads.
"""

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import nibabel
import numpy as np
import pydicom
import tifffile
from oct_io.dicom.segmentation_writer import write_segmentation
from oct_io.dicom.writer import write_dicom
from PIL import Image

TESTS = Path(__file__).parents[1]
SIZE = (4, 48, 40)
SAID = {"spacing_mm": [0.25, 0.004, 0.05], "laterality": "R"}
RAMP = {**SAID, "value_range": [0, 255]}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 48\n%%EndComments\nshowpage\n%%EOF\n"
HEADS = (EPS, b"%PDF-1.7\n", b"\x1f\x8b\x08\0", b"PK\x03\x04", b"MZ", b"#!/bin/sh\n", b"II*\0", b"")
NUMBERS = ("-1", "0", "1e400", "nan", "9" * 5000, "", "4294967296", "0x10", "1e-320", "²", "1,5")
HOSTILE = (
    *('"', "\t", ",", "\r", "\0", "\ufeff", "\n", '""', "²", "--1", "\x85", "\u2028", "%", "\\"),
    *("../../x", "/etc/passwd", "s3://b/k", "=1+1", "\udcff", "9" * 100_000, "[" * 3000, "{}"),
)
GROUPS = ("healthy", "insulin_dependent")
NOTES = {"\t": ("5 x 6, a", "b"), ",": ("x", "y")}
ODD_NAMES = (b"1\xc2\xb22.png", b"\xff.png", b"a\nb.png", b".png", b"-.tif", b"x" * 250, b" .npy")


def load(path):
    """The module at `path` of the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(f"oct_io_damage_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Base:
    """A sound tree.

    Attributes:
        question: what the worker is asked.
        asked: relative path of what it is asked of; "" for the tree itself.
        files: relative paths of the files to damage, one of them at a time.
        text: whether those are text.
    """

    question: str
    asked: str
    files: list = field(default_factory=list)
    text: bool = False


def voxels(seed=0, dtype=np.uint8):
    """A bright band in noise."""
    rng = np.random.default_rng(seed)
    depth = np.arange(SIZE[1])[None, :, None] - 20 - 3 * np.sin(np.arange(SIZE[2]) / 9)
    level = 0.1 * rng.random(SIZE) + 0.85 * np.exp(-((depth / 5) ** 2))
    return (level * np.iinfo(dtype).max).astype(dtype)


def say(path, fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


def write_arrays(root):
    """.npy, .npz and NIfTI, each a tree of one scan."""
    affine = np.diag([-0.05, -0.004, -0.25, 1.0])
    for name in ("u8.npy", "u16.npy", "f4.npy", "stored.npz", "packed.npz", "a.nii", "b.nii.gz"):
        folder = root / name.replace(".", "-")
        say(folder / "volume.json", RAMP if "f4" in name else SAID)
        path, array = folder / name, voxels(dtype=np.uint16 if "u16" in name else np.uint8)
        if ".nii" in name:
            nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
        elif ".npz" in name:
            (np.savez if name == "stored.npz" else np.savez_compressed)(path, oct=array, age=7)
        else:
            np.save(path, array.astype("f4") if "f4" in name else array)
        yield folder, [name], False


def write_images(root):
    """TIFF stacks of several kinds, and folders of images of each."""
    for name, how in {
        "plain": {"photometric": "minisblack"},
        "imagej": {"imagej": True},
        "deflate": {"photometric": "minisblack", "compression": "deflate"},
        "lzw": {"photometric": "minisblack", "compression": "lzw"},
        "jpeg": {"photometric": "minisblack", "compression": "jpeg"},
    }.items():
        folder = root / f"tiff-{name}"
        say(folder / "volume.json", SAID)
        tifffile.imwrite(folder / "a.tif", voxels(), **how)
        yield folder, ["a.tif"], False
    for ending in ("png", "bmp", "jpg", "tif"):
        folder = root / f"images-{ending}"
        say(folder / "eye/volume.json", SAID)
        for number, frame in enumerate(voxels()):
            Image.fromarray(frame).save(folder / f"eye/{number}.{ending}")
        yield folder, [f"eye/{number}.{ending}" for number in range(SIZE[0])], False


def write_vendors(root):
    """Files of scanners in their own formats, and DICOM instances of one series."""
    vendors = load(TESTS / "readers/test_vendors.py")
    surface = np.full(SIZE[::2], 9, np.float32)
    writers = {
        "a.vol": lambda path: vendors.write_vol(path, voxels(), layers=(surface, surface)),
        "a.e2e": lambda path: vendors.write_e2e(path, voxels(), layer=surface),
        "a.fda": lambda path: vendors.write_fda(path, voxels(), contour=surface.astype(int)),
        "raw.fda": lambda path: vendors.write_fda(path, voxels(dtype=np.uint16), raw=True),
        "Angio 40x16_OD_cube_z.img": lambda path: path.write_bytes(
            np.random.default_rng(0).integers(0, 255, (16, 1024, 40), dtype=np.uint8).tobytes()
        ),
    }
    for name, write in writers.items():
        folder = root / name.replace(".", "-").replace(" ", "-")
        say(folder / "volume.json", {"spacing_mm": [0.12, 0.0039, 0.011]})
        write(folder / name)
        yield folder, [name], False
    for named in (True, False):
        folder = root / f"heyex-{named}"
        folder.mkdir()
        layers = [("ILM", np.full((SIZE[0], SIZE[2]), 9.0))]
        vendors.write_xml(folder / "export", voxels(), named=named, layers=layers)
        yield folder, ["export/scan.xml"], True
    yield folder, [f"export/b{number}.png" for number in range(SIZE[0])], False
    matrix = load(TESTS / "test_matrix.py")
    draw = load(TESTS / "conftest.py").draw_volume
    for name in ("{}.dcm", "1.2.{}"):
        folder = root / f"series-{name.replace('{}', 'n').replace('.', '-')}"
        matrix.instances(folder / "p", draw(shape=SIZE), name)
        yield folder, [f"p/{name.format(number)}" for number in range(SIZE[0])], False


def write_annotations(root):
    """Masks in every format and boundaries, beside a scan that is sound."""
    labels = np.random.default_rng(0).integers(0, 3, SIZE, dtype=np.uint8)
    turned = nibabel.Nifti1Image(labels.transpose(2, 1, 0), np.diag([-0.05, -0.004, -0.25, 1.0]))
    names = np.array(["background", "IRF", "SRF"])
    writers = {
        "a_mask.npy": lambda path: np.save(path, labels),
        "a_mask.npz": lambda path: np.savez_compressed(path, mask=labels, names=names),
        "a_mask.tif": lambda path: tifffile.imwrite(path, labels, photometric="minisblack"),
        "a_mask.nii.gz": lambda path: nibabel.save(turned, path),
        "a_layers.npz": lambda path: np.savez(path, ILM=np.full(SIZE[::2], 9.0)),
    }
    for name, write in writers.items():
        folder = root / name.replace(".", "-")
        say(folder / "volume.json", SAID)
        np.save(folder / "a.npy", voxels())
        write(folder / name)
        yield folder, [name], False
    folder = root / "segmentation"
    folder.mkdir()
    drawn = load(TESTS / "conftest.py").draw_volume(shape=SIZE)
    write_dicom(drawn, folder / "a.dcm", uid_seed="a")
    header = pydicom.dcmread(folder / "a.dcm", stop_before_pixels=True)
    write_segmentation(folder / "b.dcm", labels, names.tolist(), header)
    yield folder, ["b.dcm"], False


def write_sidecars(root):
    """Sidecars of a scan, of its folder and of the root."""
    for name in ("a.json", "volume.json", "../volume.json"):
        folder = root / f"sidecar-{len(name)}"
        say(folder / "p" / name, SAID)
        np.save(folder / "p/a.npy", voxels())
        yield folder, [os.path.normpath(f"p/{name}")], True


def table(names, rows, between):
    out = io.StringIO()
    csv.writer(out, delimiter=between, lineterminator="\n").writerows([names, *rows])
    return out.getvalue()


def write_tables(root):
    """(folder, question, path of the table) of each table that is read beside scans."""
    sound = voxels()
    for between, end in (("\t", "tsv"), (",", "csv")):
        folder = root / f"tables-{end}"
        (folder / "s").mkdir(parents=True)
        for number in range(12):
            np.save(folder / f"s/{number}.npy", sound)
        say(folder / "volume.json", SAID | {"participant_from": "file"})
        people = [f"{1000 + number}" for number in range(12)]
        contents = {
            "manifest": (
                ("person_id", "filepath", "laterality", "height", "number_of_frames", "member"),
                [(p, f"/s/{n}.npy", "LR"[n % 2], "48", "4", "") for n, p in enumerate(people)],
            ),
            "participants": (
                ("participant_id", "study_group", "recommended_split", "note"),
                [
                    (p, GROUPS[n % 2], ("train", "test")[n % 2], NOTES[between][n % 2])
                    for n, p in enumerate(people)
                ],
            ),
            "eyes": (
                ("participant_id", "eye", "drusen"),
                [(f"{n // 2}", ("OD", "left")[n % 2], "yes") for n in range(12)],
            ),
            "scans": (("filepath", "fluid"), [(f"s/{n}.npy", "no") for n in range(12)]),
            "split": (
                ("participant", "part", "rule"),
                [(f"{n:012x}", ("train", "test")[n % 3 == 0], "by hand") for n in range(12)],
            ),
            "concepts": (
                ("column", "table", "rule", "concept_ids", "items", "missing", "cuts"),
                [
                    ("hba1c", "measurement", "last", "3004410", "", "777 999", "5.7 6.5"),
                    ("age", "person", "age", "", "", "", ""),
                    ("dm", "condition_occurrence", "any", "", "mhterm_dm2", "", ""),
                ],
            ),
        }
        for name, (names, rows) in contents.items():
            (folder / f"{name}.{end}").write_text(table(names, rows, between))
            questions = {"eyes": ["labels"], "scans": ["labels"]}.get(name, [name])
            for question in questions + ["classes"] * (name == "participants"):
                yield folder, question, f"{name}.{end}"


def write_clinical(root):
    """A folder of OMOP tables."""
    omop = load(TESTS / "labels/test_omop.py")
    folder = root / "clinical"
    folder.mkdir()
    people = [f"{1000 + number}" for number in range(12)]
    rows = {
        "person": (omop.PERSON, [(p, "1960", "4", "1") for p in people]),
        "visit_occurrence": (omop.VISIT, [(f"5{p}", p, "2024-07-01") for p in people]),
        "measurement": (
            omop.MEASUREMENT,
            [omop.measured(p, "2024-07-01", "6.5", visit=f"5{p}") for p in people],
        ),
        "observation": (
            omop.OBSERVATION,
            [("1", p, "77", "2024-07-01", "50", "", "", "mh_dm_age, Age") for p in people],
        ),
        "condition_occurrence": (
            omop.CONDITION,
            [("1", p, "201826", "2020-07-01", "", "mhterm_dm2, Type II") for p in people],
        ),
    }
    for name, (names, lines) in rows.items():
        (folder / f"{name}.csv").write_text(table(names, lines, ","))
    return folder, [f"{name}.csv" for name in rows]


def write_bases(root):
    """Family -> its sound trees: (folder, Base)."""
    found = {}
    for family, write in {
        "arrays": write_arrays,
        "images": write_images,
        "vendors": write_vendors,
        "annotations": write_annotations,
        "sidecars": write_sidecars,
    }.items():
        (root / family).mkdir(parents=True)
        trees = write(root / family)
        found[family] = [(tree, Base("tree", "", files, text)) for tree, files, text in trees]
    for folder, question, name in write_tables(root):
        base = Base(question, name, [name], True)
        found.setdefault(question, []).append((folder, base))
    folder, names = write_clinical(root)
    found["clinical"] = [(folder, Base("clinical", "", names, True))]
    return found


def spoil_bytes(content, other, rng):
    """(kind, damaged bytes) of a file that is no text; `other` is another sound file."""
    size = max(1, len(content))
    at, length = int(rng.integers(size)), int(2 ** rng.uniform(0, 10))
    out = bytearray(content)
    kinds = ("flips", "noise", "cut off", "zeros", "shifted", "lying number", "spliced", "other")
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "flips":
        for place in rng.integers(size, size=rng.integers(1, 9)):
            out[place] ^= 1 << int(rng.integers(8))
    elif kind == "noise":
        out[at : at + length] = rng.bytes(min(length, size - at))
    elif kind == "cut off":
        del out[at:]
    elif kind == "zeros":
        out[at : at + length] = bytes(min(length, size - at))
    elif kind == "shifted":
        out[at:at] = out[at : at + length] if rng.random() < 0.5 else b""
        del out[at : at + (length if rng.random() < 0.5 else 0)]
    elif kind == "lying number":
        at = int(rng.integers(min(size, 2200))) if rng.random() < 0.8 else at
        width = int(rng.choice([1, 2, 4, 8]))
        lie = int(rng.choice([0, 1, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1]))
        order = "<" if rng.random() < 0.7 else ">"
        packed = struct.pack(f"{order}Q", lie)
        out[at : at + width] = packed[:width] if order == "<" else packed[8 - width :]
    elif kind == "spliced":
        cut = int(rng.integers(max(1, len(other))))
        out[at:] = other[cut:]
    else:
        head = HEADS[int(rng.integers(len(HEADS)))]
        out = bytearray(head if rng.random() < 0.5 else head + content)
    return kind, bytes(out)


def spoil_text(content, rng):
    """(kind, damaged bytes) of a text: what stands in it, and its lines, tags and numbers."""
    text = content.decode()
    kinds = ("hostile", "hostile", "gap", "number", "line twice", "cut off", "bytes", "encoded")
    kind = kinds[int(rng.integers(len(kinds)))]
    at = int(rng.integers(max(1, len(text))))
    if kind == "hostile":
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(max(1, len(text))))
            text = text[:at] + HOSTILE[int(rng.integers(len(HOSTILE)))] + text[at:]
    elif kind == "gap":
        text = text[:at] + text[at + int(2 ** rng.uniform(0, 8)) :]
    elif kind == "number":
        found = list(re.finditer(r"[0-9.]+", text))
        one = found[int(rng.integers(len(found)))]
        text = text[: one.start()] + NUMBERS[int(rng.integers(len(NUMBERS)))] + text[one.end() :]
    elif kind == "line twice":
        lines = text.splitlines(keepends=True)
        lines.insert(int(rng.integers(len(lines) + 1)), lines[int(rng.integers(len(lines)))])
        text = "".join(lines)
    elif kind == "cut off":
        text = text[:at]
    elif kind == "bytes":
        out = bytearray(content)
        out[at : at + 1] = rng.bytes(int(rng.integers(1, 5)))
        return kind, bytes(out)
    else:
        return kind, text.encode(("utf-16", "utf-8-sig", "utf-32", "cp037")[int(rng.integers(4))])
    return kind, text.encode("utf-8", "surrogateescape")


def spoil_tree(folder, path, rng):
    """Do something to a file itself, and not to what is in it; returns what."""
    kind = ("gone", "folder", "pipe", "broken link", "loop", "odd name")[int(rng.integers(6))]
    if kind == "odd name":
        name = ODD_NAMES[int(rng.integers(len(ODD_NAMES)))]
        target = os.path.join(os.fsencode(path.parent), name)
        (shutil.copy if rng.random() < 0.5 else os.rename)(os.fsencode(path), target)
        return kind
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "broken link":
        path.symlink_to(folder / "gone")
    elif kind == "loop":
        path.symlink_to(path)
    return kind


@dataclass
class Mutant:
    """One damaged tree, and what is asked of it."""

    number: int
    family: str
    kind: str
    line: str
    table: bytes | None = None
    clinical: dict = field(default_factory=dict)


def make_mutant(bases, number, seed, folder):
    """Damaged tree `number` in `folder`, made anew."""
    rng = np.random.default_rng([seed, number])
    families = list(bases)
    family = families[number % len(families)]
    source, base = bases[family][int(rng.integers(len(bases[family])))]
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    shutil.copytree(source, folder)
    path = folder / base.files[int(rng.integers(len(base.files)))]
    content = path.read_bytes()
    if base.question == "tree" and rng.random() < 0.1:
        kind = spoil_tree(folder, path, rng)
    elif base.text:
        kind, content = spoil_text(content, rng)
        path.write_bytes(content)
    else:
        elsewhere, other = bases[family][int(rng.integers(len(bases[family])))]
        kind, content = spoil_bytes(content, (elsewhere / other.files[0]).read_bytes(), rng)
        path.write_bytes(content)
    asked = str(folder / base.asked) if base.asked else str(folder)
    one = Mutant(number, family, kind, f"{base.question}\t{asked}")
    if base.asked:
        one.table = content
    if family == "clinical":
        one.clinical = {file.stem: file.read_bytes() for file in folder.iterdir()}
    return one


def rows_of(content):
    """Columns of a table, and (number of its line, cells) of each line that is not blank."""
    first, *lines = content.removeprefix(b"\xef\xbb\xbf").decode().split("\n")
    between = "\t" if "\t" in first else ","

    def cells(line):
        if '"' not in line:
            return [one.strip() for one in line.split(between)]
        return [one.strip() for one in next(csv.reader([line], delimiter=between), [])]

    found = [(n, line) for n, line in enumerate(lines, start=2) if line.strip(f"{between} \r\n")]
    return cells(first.rstrip("\r")), [(n, cells(line.rstrip("\r"))) for n, line in found]


def lost_rows(mutant, answer):
    """How many rows of a table that was read are neither used nor named."""
    found, question = answer["found"], mutant.line.partition("\t")[0]
    if question == "clinical":
        return lost_facts(mutant, found)
    names, rows = rows_of(mutant.table)
    if question == "manifest":
        at, of = names.index("filepath"), names.index("member") if "member" in names else None
        wanted = {(scan_of(line, row[at]), "" if of is None else row[of]) for line, row in rows}
        return abs(len(wanted) - len(found))
    if question in ("participants", "classes", "labels"):
        return len({line for line, _ in rows} ^ set(found))
    return abs(len(rows) - found)


def scan_of(line, path):
    """What a row of a manifest names: two rows of one file are one scan."""
    if path.lower() in ("", "nan", "none", "na", "n/a", "null", "unknown", "not reported"):
        return line
    out = {"\\", "\0", ":"} & set(path) or path.startswith("//") or ".." in path.split("/")
    return path if out else str(PurePosixPath(path.lstrip("/")))


def lost_facts(mutant, found):
    """The same of clinical tables: visits, persons, and rows of the concept of HbA1c."""
    visits, people, rules = found
    lost = 0
    if "visit_occurrence" in mutant.clinical:
        lost += abs(len(rows_of(mutant.clinical["visit_occurrence"])[1]) - visits)
    names, rows = rows_of(mutant.clinical["person"])
    whose = [one.lower() for one in names].index("person_id")
    lost += len({same_id(row[whose]) for _, row in rows} - set(people))
    names, rows = rows_of(mutant.clinical["measurement"])
    concept = [one.lower() for one in names].index("measurement_concept_id")
    wanted = sum(same_id(row[concept]) == "3004410" for _, row in rows)
    used = re.search(r"([0-9,]+) rows", rules["hba1c"])
    left_out = re.findall(r"left out ([0-9,]+) ", rules["hba1c"])
    counted = [used[1] if used else "0", *left_out]
    return lost + abs(wanted - sum(int(one.replace(",", "")) for one in counted))


def same_id(text):
    whole = text.strip().removesuffix(".0")
    return (whole.lstrip("0") or "0") if whole.isascii() and whole.isdigit() else whole


def judge(mutant, answer):
    """The answer, with what became of the scans of a tree, and with what is wrong with it."""
    read = answer["outcome"] == "read"
    lost = lost_rows(mutant, answer) if read and (mutant.table or mutant.clinical) else 0
    if lost:
        return answer | {"outcome": "rows lost", "reason": f"{lost} rows"}
    if "\n" in answer["reason"]:
        return answer | {"outcome": "several lines"}
    if read and mutant.line.startswith("tree\t"):
        refused = next((one for one in answer["found"] if one != "read"), "read")
        stage, _, reason = refused.partition(": ")
        return answer | {"outcome": stage, "reason": reason}
    return answer


def lines_of(bases):
    """What is asked of the sound trees, so that a worker has seen all there is."""
    return [
        f"{base.question}\t{source / base.asked if base.asked else source}"
        for trees in bases.values()
        for source, base in trees
    ]


def ask_all(fuzzing, bases, numbers, seed, folder, jobs):
    """(mutant, answer) of each number, made, asked and removed again, by `jobs` processes."""

    def work(job):
        worker, place = fuzzing.Worker(lines_of(bases)), folder / f"mutant-{job}"
        try:
            found = []
            for number in numbers[job::jobs]:
                one = make_mutant(bases, number, seed, place)
                found.append((one, judge(one, worker.ask(one.line))))
            return found
        finally:
            worker.close()

    with ThreadPoolExecutor(jobs) as pool:
        return [one for part in pool.map(work, range(jobs)) for one in part]
