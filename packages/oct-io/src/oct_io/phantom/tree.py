"""A folder of phantom scans laid out as AI-READI lays out its scans."""

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oct_io.encoding import check_codec
from oct_io.errors import TreeError
from oct_io.phantom.drawing import Phantom, draw_phantom
from oct_io.phantom.faults import EXPECTED, Expected, make_odd, spoil_scans, write_expected
from oct_io.phantom.nuisance import LABELS, shuffle_lesions, tie_sites
from oct_io.phantom.scanners import find_device
from oct_io.phantom.scans import Scan, identify, list_scans
from oct_io.phantom.tables import (
    MANIFEST_COLUMNS,
    PARTICIPANT_COLUMNS,
    Person,
    draw_people,
    participant_row,
    write_table,
)
from oct_io.writer import write_dicom

MARKER = "phantom.json"
EYES = (("R", "L"), ("R",), ("L",))


@dataclass(kw_only=True, slots=True)
class PhantomTree:
    """What to write: how many people, seen by what, with which lesions."""

    participants: int = 240
    """240 with both eyes give a quick and steady demonstration."""

    seed: int = 0
    """Another seed, another population."""

    shape: tuple[int, int, int] | None = None
    """B-scans, rows, columns; None takes each device's own, some 12 x 160 x 96."""

    extent_mm: tuple[float, float, float] | None = None
    """Field of view in the same order; None takes each device's own, 6 x 1.1 x 6 mm."""

    split_fractions: tuple[float, float, float] = (0.6, 0.1, 0.3)
    """Shares of train, val and test; stratified by lesions and study group."""

    lesion_prevalence: float = 0.5
    """Share of participants with each lesion; the three are drawn independently."""

    effect: float = 1.0
    """Size of lesions and of what marks a study group; 0 keeps the labels and draws nothing."""

    devices: tuple[str, ...] = ("phantom_a", "phantom_b", "phantom_c")
    """Scanners that participants are spread over, evenly and independently of the labels; also
    protocols of AI-READI, such as `cirrus_mac_oct`."""

    devices_per_participant: int = 1
    """More than one gives several scans of the same eyes."""

    eyes: tuple[str, ...] = ("R", "L")
    """Which eyes are scanned. One alone makes every volume an independent case; the mean of two
    halves what is noise in one."""

    scale: float = 1.0
    """Share of each device's B-scans, rows and columns over the same field; the protocols of
    AI-READI have 20 to 260 million voxels at 1."""

    bits: int = 8
    """8 or 16 a voxel."""

    codecs: tuple[str, ...] = ("native",)
    """Of `oct_io.encoding.CODECS`; scans take turns, and with them basic, empty and extended offset
    tables."""

    odd_files: bool = False
    """Scans take turns in leaving out positions, localizer lines or SliceThickness, in storing
    frames in another order, and in repeating spacing per frame."""

    corrupt: bool = False
    """Spoil one scan with each of `faults.FAULTS`; `expected.tsv` says which and what follows."""

    odd_manifest: bool = False
    """Nest the tree, and put the cells and paths of `faults.ODD_CELLS` and `ODD_PATHS` into the
    manifest; `expected.tsv` says what follows."""

    null: bool = False
    """Draw each participant with the lesions of another, so that no label can be learnt."""

    confounded: str = "fluid"
    """Label that device and site are tied to: a lesion, or `study_group`."""

    device_confounding: float = 0.0
    """Share of participants whose device is decided by that label: a shortcut to learn."""

    site_confounding: float = 0.0
    """Share of participants whose clinical site is."""

    site_gain_db: float = 0.0
    """How much darker the first site displays its scans than the second, and the third brighter;
    without it a site cannot be seen."""

    manifest_version: int = 2
    """1 and 2 name the id `participant_id`, 3 names it `person_id`, as AI-READI's releases do."""

    jobs: int = 0
    """Processes that draw; 0 takes one per CPU, 1 draws in this process."""

    def __post_init__(self) -> None:
        self.devices, self.eyes = tuple(self.devices), tuple(self.eyes)
        _require(self.eyes in EYES, "eyes", self.eyes, f"one of {EYES}")
        train, val, test = self.split_fractions
        self.split_fractions = (train, val, test)
        _require(1 <= self.participants <= 2997, "participants", self.participants, "1 to 2997")
        _require(self.seed >= 0, "seed", self.seed, "zero or more")
        fractions = self.split_fractions
        sound = min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-6
        _require(sound, "split_fractions", fractions, "three shares that add up to 1")
        prevalence = self.lesion_prevalence
        _require(0 <= prevalence <= 1, "lesion_prevalence", prevalence, "between 0 and 1")
        distinct = 0 < len(self.devices) == len(set(self.devices))
        _require(distinct, "devices", self.devices, "one or more different names")
        per = self.devices_per_participant
        _require(1 <= per <= len(self.devices), "devices_per_participant", per, "1 to len(devices)")
        version = self.manifest_version
        _require(version in (1, 2, 3), "manifest_version", version, "1, 2 or 3")
        _require(self.jobs >= 0, "jobs", self.jobs, "zero or more")
        self._check_files()
        _require(self.confounded in LABELS, "confounded", self.confounded, f"one of {LABELS}")
        for name in ("device_confounding", "site_confounding"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        largest = self.site_confounding == 0 or self.participants <= 999
        _require(largest, "participants", self.participants, "at most 999 with site_confounding")
        for device in self.devices:
            find_device(device)
        checked = Phantom(
            effect=self.effect,
            shape=self.shape,
            extent_mm=self.extent_mm,
            scale=self.scale,
            gain_db=self.site_gain_db,
            bits=self.bits,
        )
        self.shape, self.extent_mm = checked.shape, checked.extent_mm

    def _check_files(self) -> None:
        self.codecs = tuple(self.codecs)
        _require(len(self.codecs) > 0, "codecs", self.codecs, "one or more names")
        for codec in self.codecs:
            check_codec(codec, self.bits)


def _require(holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"phantom_tree.{field} ({value}) must be {rule}")


def write_phantom_tree(
    out: Path, tree: PhantomTree, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the tree that `tree` names; at once done if it is there already.

    Everything is drawn into a folder beside `out`, which is renamed at the end: `out` appears
    whole or not at all, and a run that was killed costs nothing but its time.

    Args:
        out: folder to make; its parents are made as well.
        tree: what to write.
        progress: called with the number of scans done and of all.

    Raises:
        TreeError: `out` holds something else.
    """
    out = Path(os.path.abspath(out))
    if _is_there(out, tree):
        return
    people = _people(tree)
    drawn = shuffle_lesions(people, tree.seed) if tree.null else people
    scans = list_scans(tree, people, drawn)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = _fresh_part(out)
    try:
        root = part / out.name if tree.odd_manifest else part
        _draw_all(scans, root, tree.jobs or os.cpu_count() or 1, progress)
        found = _spoil(root, tree, scans)
        found += _write_tables(root, tree, people, scans)
        if tree.corrupt or tree.odd_manifest:
            write_expected(part / EXPECTED, found, f"{out.name}/" if tree.odd_manifest else "")
        (part / MARKER).write_text(_marker(tree), encoding="utf-8")
        try:
            os.rename(part, out)
        except OSError as error:
            if not _is_there(out, tree):  # else another process was first, with the same tree
                raise TreeError(f"{out}: cannot put the phantom tree here ({error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _people(tree: PhantomTree) -> list[Person]:
    people = draw_people(
        tree.participants,
        seed=tree.seed,
        prevalence=tree.lesion_prevalence,
        split_fractions=tree.split_fractions,
    )
    if tree.site_confounding == 0:
        return people
    return tie_sites(people, tree.confounded, tree.site_confounding, tree.seed)


def _marker(tree: PhantomTree) -> str:
    note = "Made up by oct-io: no scan, participant or label in this folder is real."
    return json.dumps({"phantom": note, **identify(tree)}, indent=2) + "\n"


def _spoil(root: Path, tree: PhantomTree, scans: list[Scan]) -> list[Expected]:
    """What cannot become a volume: radial scans, and those that are spoiled here."""
    radial = [scan.path for scan in scans if scan.spec.pattern != "raster"]
    found = [Expected(path, "radial_scan", "geometry") for path in radial]
    if tree.corrupt:
        rasters = [scan for scan in scans if scan.spec.pattern == "raster"]
        compressed = {scan.path for scan in rasters if scan.style.codec != "native"}
        paths = [scan.path for scan in rasters]
        found += spoil_scans(root, paths, tree.seed, compressed)
    return found


def _write_tables(
    root: Path, tree: PhantomTree, people: list[Person], scans: list[Scan]
) -> list[Expected]:
    """Write manifest and participants; also what is odd about the manifest."""
    version = tree.manifest_version
    rows = [(scan.person.id, scan.row) for scan in scans]
    found = make_odd(rows, tree.seed) if tree.odd_manifest else []
    write_table(root / "retinal_oct" / "manifest.tsv", rows, MANIFEST_COLUMNS, version)
    described = [(person.id, participant_row(person)) for person in people]
    write_table(root / "participants.tsv", described, PARTICIPANT_COLUMNS, version)
    return found


def _is_there(out: Path, tree: PhantomTree) -> bool:
    """Whether `out` holds this tree already; False if it is free."""
    if not os.path.lexists(out):
        return False
    cure = "remove it, or choose another folder"
    if not out.is_dir():
        raise TreeError(f"{out}: is a file, not a folder for a phantom tree; {cure}")
    if not any(out.iterdir()):
        return False
    marker = out / MARKER
    if not marker.is_file():
        raise TreeError(f"{out}: holds something other than a phantom tree; {cure}")
    if marker.read_text(encoding="utf-8") != _marker(tree):
        raise TreeError(f"{out}: holds a phantom tree of another specification; {cure}")
    return True


def _fresh_part(out: Path) -> Path:
    """An empty folder beside `out`; those that killed processes left behind are removed."""
    for left in out.parent.glob(f".{out.name}.part-*"):
        match = re.fullmatch(r".*\.part-(\d+)", left.name)
        if match and not _runs_elsewhere(int(match.group(1))):
            shutil.rmtree(left, ignore_errors=True)
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    part.mkdir()
    return part


def _runs_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks whether the process is there
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_scan(job: tuple[Scan, str]) -> None:
    scan, root = job
    path = Path(root) / scan.path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(
        draw_phantom(scan.spec, scan.person.seed),
        path,
        uid_seed=scan.uid_seed,
        shared_groups=scan.shared_groups,
        style=scan.style,
    )


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Iterator[None]]]:
    if jobs == 1:
        yield map
        return
    # Spawned, not forked: callers may hold threads, and a forked copy of those can hang.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap_unordered


def _draw_all(
    scans: list[Scan], root: Path, jobs: int, progress: Callable[[int, int], None] | None
) -> None:
    work = [(scan, str(root)) for scan in scans]
    with _mapper(min(jobs, len(work))) as apply:
        for done, _ in enumerate(apply(_write_scan, work), start=1):
            if progress:
                progress(done, len(work))
