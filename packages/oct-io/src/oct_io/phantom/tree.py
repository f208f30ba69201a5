"""A folder of phantom scans laid out as AI-READI lays out its scans."""

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from oct_io.errors import TreeError
from oct_io.phantom.drawing import Phantom, draw_phantom
from oct_io.phantom.scanners import find_device
from oct_io.phantom.tables import (
    MANIFEST_COLUMNS,
    PARTICIPANT_COLUMNS,
    Person,
    draw_people,
    manifest_row,
    participant_row,
    write_table,
)
from oct_io.writer import localizer_uid, sop_instance_uid, write_dicom

FORMAT = 2
"""Grows when equal specs would give other voxels; an older tree is then not taken for a new one."""

MARKER = "phantom.json"


@dataclass(kw_only=True, slots=True)
class PhantomTree:
    """What to write: how many people, seen by what, with which lesions."""

    participants: int = 240
    """Both eyes of each are scanned; 240 give a quick and steady demonstration."""

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
    """Scanners that participants are spread over, evenly and independently of the labels."""

    devices_per_participant: int = 1
    """More than one gives several scans of the same eyes."""

    manifest_version: int = 2
    """1 and 2 name the id `participant_id`, 3 names it `person_id`, as AI-READI's releases do."""

    jobs: int = 0
    """Processes that draw; 0 takes one per CPU, 1 draws in this process."""

    def __post_init__(self) -> None:
        self.devices = tuple(self.devices)
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
        for device in self.devices:
            find_device(device)
        checked = Phantom(effect=self.effect, shape=self.shape, extent_mm=self.extent_mm)
        self.shape, self.extent_mm = checked.shape, checked.extent_mm


def _require(holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"phantom_tree.{field} ({value}) must be {rule}")


@dataclass(frozen=True, slots=True)
class _Scan:
    """One file of the tree; small enough to be sent to a process."""

    person: Person
    spec: Phantom
    uid_seed: str

    @property
    def path(self) -> str:
        """Below the root, as AI-READI names its files."""
        spec, key = self.spec, self.person.id
        uid = sop_instance_uid(self.uid_seed)
        name = f"{key}_{spec.protocol}_{spec.laterality.lower()}_{uid}.dcm"
        return f"retinal_oct/structural_oct/{spec.device}/{key}/{name}"


def _list_scans(tree: PhantomTree, people: list[Person]) -> list[_Scan]:
    """All scans of a tree, in the order of its manifest."""
    tree_key = json.dumps(_identity(tree))
    scans = []
    for index, person in enumerate(people):
        for turn in range(tree.devices_per_participant):
            # People come in random order, so taking turns spreads devices independently of labels.
            device = tree.devices[(index + turn) % len(tree.devices)]
            for eye in ("R", "L"):
                spec = _phantom(tree, person, device, eye)
                scans.append(_Scan(person, spec, f"{tree_key} {person.id} {device} {eye}"))
    return scans


def _phantom(tree: PhantomTree, person: Person, device: str, laterality: str) -> Phantom:
    return Phantom(
        device=device,
        laterality=laterality,
        fluid=person.fluid,
        drusen=person.drusen,
        thin=person.thin,
        study_group=person.study_group,
        effect=tree.effect,
        shape=tree.shape,
        extent_mm=tree.extent_mm,
        participant_id=person.id,
    )


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
    people = draw_people(
        tree.participants,
        seed=tree.seed,
        prevalence=tree.lesion_prevalence,
        split_fractions=tree.split_fractions,
    )
    scans = _list_scans(tree, people)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = _fresh_part(out)
    try:
        _draw_all(scans, part, tree.jobs or os.cpu_count() or 1, progress)
        _write_tables(part, tree, people, scans)
        try:
            os.rename(part, out)
        except OSError as error:
            if not _is_there(out, tree):  # else another process was first, with the same tree
                raise TreeError(f"{out}: cannot put the phantom tree here ({error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _identity(tree: PhantomTree) -> dict[str, object]:
    """All that changes what is written: everything but the number of processes."""
    spec = {name: value for name, value in asdict(tree).items() if name != "jobs"}
    return {"format": FORMAT, "tree": spec}


def _marker(tree: PhantomTree) -> str:
    note = "Made up by oct-io: no scan, participant or label in this folder is real."
    return json.dumps({"phantom": note, **_identity(tree)}, indent=2) + "\n"


def _write_tables(root: Path, tree: PhantomTree, people: list[Person], scans: list[_Scan]) -> None:
    version = tree.manifest_version
    rows = [(scan.person.id, _manifest_row(scan)) for scan in scans]
    write_table(root / "retinal_oct" / "manifest.tsv", rows, MANIFEST_COLUMNS, version)
    described = [(person.id, participant_row(person)) for person in people]
    write_table(root / "participants.tsv", described, PARTICIPANT_COLUMNS, version)
    (root / MARKER).write_text(_marker(tree), encoding="utf-8")


def _manifest_row(scan: _Scan) -> dict[str, str]:
    grid = scan.spec.grid
    return manifest_row(
        device=scan.spec.device,
        laterality=scan.spec.laterality,
        shape=grid.shape,
        spacing=grid.spacing,
        uids=(sop_instance_uid(scan.uid_seed), localizer_uid(scan.uid_seed)),
        path=scan.path,
    )


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


def _write_scan(job: tuple[_Scan, str]) -> None:
    scan, root = job
    path = Path(root) / scan.path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(draw_phantom(scan.spec, scan.person.seed), path, uid_seed=scan.uid_seed)


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Iterator[None]]]:
    if jobs == 1:
        yield map
        return
    # Spawned, not forked: callers may hold threads, and a forked copy of those can hang.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap_unordered


def _draw_all(
    scans: list[_Scan], root: Path, jobs: int, progress: Callable[[int, int], None] | None
) -> None:
    work = [(scan, str(root)) for scan in scans]
    with _mapper(min(jobs, len(work))) as apply:
        for done, _ in enumerate(apply(_write_scan, work), start=1):
            if progress:
                progress(done, len(work))
