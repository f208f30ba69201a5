"""A folder of phantom scans laid out as AI-READI lays out its scans."""

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.dicom.writer import write_dicom
from oct_io.errors import TreeError
from oct_io.interrupts import end_with_parent, uninterrupted
from oct_io.phantom.arrangements import arrange
from oct_io.phantom.drawing import PhantomTruth, draw_phantom_with_truth
from oct_io.phantom.faults import EXPECTED, Expected, make_odd, spoil_scans, write_expected
from oct_io.phantom.history import HISTORY, history_row, tie_ages
from oct_io.phantom.nuisance import shuffle_lesions, tie_sites
from oct_io.phantom.retina import SURFACES
from oct_io.phantom.scans import Scan, identify, list_scans
from oct_io.phantom.specification import PhantomTree
from oct_io.phantom.tables import Person, draw_people, participant_row, write_table
from oct_io.saving import appearing
from oct_io.volume import Spacing

MARKER, PEOPLE = "phantom.json", "participants.tsv"

BOUNDARIES = {
    "rnfl": "ILM",
    "gcl": "RNFL/GCL",
    "ipl": "GCL/IPL",
    "inl": "IPL/INL",
    "opl": "INL/OPL",
    "onl": "OPL/ONL",
    "ez": "EZ",
    "rpe": "RPE",
    "druse": "RPE/BM",
    "choroid": "BM",
    "sclera": "CSI",
}
"""Surface by the layer below it -> name in `oct_io.boundaries`; the lower edge of the ellipsoid
zone has none."""

CLASSES = ("background", "IRF")


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
    people = draw_participants(tree)
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


def draw_participants(tree: PhantomTree) -> list[Person]:
    """The participants of a tree, with the labels that its table gives them."""
    people = draw_people(
        tree.participants,
        seed=tree.seed,
        prevalence=tree.lesion_prevalence,
        split_fractions=tree.split_fractions,
    )
    people = tie_ages(people, shown=tree.effect > 0 and not tree.null)
    people = arrange(people, tree.arrangements, seed=tree.seed, prevalence=tree.lesion_prevalence)
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
        paths = [scan.path for scan in scans if scan.spec.pattern == "raster"]
        found += spoil_scans(root, paths, tree.seed)
    return found


def _write_tables(
    root: Path, tree: PhantomTree, people: list[Person], scans: list[Scan]
) -> list[Expected]:
    """Write manifest and participants; also what is odd about the manifest."""
    version = tree.manifest_version
    rows = [(scan.person.id, scan.row) for scan in scans]
    found = make_odd(rows, tree.seed) if tree.odd_manifest else []
    write_table(root / "retinal_oct" / "manifest.tsv", rows, version)
    _write_people(root / PEOPLE, tree, people)
    return found


def _write_people(path: Path, tree: PhantomTree, people: list[Person]) -> None:
    rows = [(one.id, participant_row(one, tree.arrangements) | history_row(one)) for one in people]
    write_table(path, rows, tree.manifest_version)


def _renew_people(out: Path, tree: PhantomTree) -> None:
    """Write the table of participants again if that of a tree of before has fewer columns."""
    path = (out / out.name if tree.odd_manifest else out) / PEOPLE
    with path.open(encoding="utf-8") as file:
        if file.readline().rstrip("\n").split("\t")[-len(HISTORY) :] == list(HISTORY):
            return
    building = path.with_name(f".{path.name}.{os.getpid()}")
    _write_people(building, tree, draw_participants(tree))
    building.replace(path)


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
    _renew_people(out, tree)
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
    volume, truth = draw_phantom_with_truth(scan.spec, scan.person.seed)
    write_dicom(
        volume,
        path,
        uid_seed=scan.uid_seed,
        shared_groups=scan.shared_groups,
        style=scan.style,
    )
    if scan.annotated:
        mask, layers = Path(root) / scan.mask_path, Path(root) / scan.layers_path
        write_truth(truth, volume.spacing, path, mask=mask, layers=layers)


def true_layers(truth: PhantomTruth, spacing: Spacing) -> dict[str, NDArray[np.float32]]:
    """Rows at which the boundaries of a phantom lie, (bscans, columns), by standard name."""
    rows = truth.surfaces_um / np.float32(1000 * spacing.row) - np.float32(0.5)
    return {
        BOUNDARIES[layer]: surface.astype(np.float32)
        for layer, surface in zip(SURFACES, rows, strict=True)
        if layer in BOUNDARIES
    }


def true_mask(truth: PhantomTruth) -> NDArray[np.uint8]:
    """Voxels of cysts, which all lie within the retina, as a place in `CLASSES`."""
    return truth.fluid.astype(np.uint8)


def write_truth(
    truth: PhantomTruth, spacing: Spacing, scan: Path, *, mask: Path, layers: Path
) -> None:
    """Write fluid as a DICOM segmentation of the file `scan`, and boundaries as an .npz."""
    from pydicom import dcmread  # half of a second to import

    from oct_io.dicom.segmentation_writer import write_segmentation

    source = dcmread(scan, stop_before_pixels=True)
    write_segmentation(mask, true_mask(truth), CLASSES, source, algorithm="oct-io phantom")
    with appearing(layers) as part, part.open("wb") as file:
        np.savez_compressed(file, **true_layers(truth, spacing))  # type: ignore[arg-type]


def _in_processes(work: list[tuple[Scan, str]], jobs: int) -> Generator[None, None, None]:
    """Draw scans with several processes, one step a scan.

    Raises:
        TreeError: a process is gone, for which `multiprocessing.Pool` would wait for ever.
    """
    # Spawned, not forked: callers may hold threads, and a forked copy of those can hang.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=end_with_parent, initargs=(theirs,)
    )
    try:
        with uninterrupted():
            drawn = [pool.submit(_write_scan, one) for one in work]
        yield from (one.result() for one in as_completed(drawn))
    except BrokenProcessPool as error:
        raise TreeError(
            "a process that draws scans was killed, or did not start: take fewer jobs if memory is "
            'short, and put a call in a script under `if __name__ == "__main__":`'
        ) from error
    finally:
        ours.close()  # what is being drawn is thrown away
        pool.shutdown(cancel_futures=True)
        theirs.close()


def _draw_here(work: list[tuple[Scan, str]]) -> Generator[None, None, None]:
    for one in work:
        _write_scan(one)
        yield


def _draw_all(
    scans: list[Scan], root: Path, jobs: int, progress: Callable[[int, int], None] | None
) -> None:
    work = [(scan, str(root)) for scan in scans]
    jobs = min(jobs, len(work))
    drawn = _in_processes(work, jobs) if jobs > 1 else _draw_here(work)
    with closing(drawn):
        for done, _ in enumerate(drawn, start=1):
            if progress:
                progress(done, len(work))
