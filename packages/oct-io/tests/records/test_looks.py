"""What a listing looks into, how often, and how many at a time; links and names of files."""

import json
import os
import time
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import tifffile
from oct_io import WINDOWS, TreeError, audit, build_cache, open_cache, read_manifest, read_volume
from oct_io.catalog.header_index import scan_states
from oct_io.catalog.manifest import list_scans
from oct_io.cli import main
from oct_io.dicom.writer import write_dicom
from oct_io.readers.stacks import natural_order
from oct_io.records.record import ScanRecord
from oct_io.storage.files import change_tokens, list_tokens
from PIL import Image

TINY = WINDOWS["tiny_field"]
SAID = {"spacing_mm": [0.25, 0.004, 0.05]}


@pytest.fixture(scope="module")
def vendors(neighbour):
    return neighbour(Path(__file__).parents[1] / "readers/conftest.py", "test_vendors.py")


def images(folder, voxels, name="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(voxels):
        Image.fromarray(frame).save(folder / name.format(number))


@pytest.fixture
def tree(tmp_path, draw, vendors):
    """Files of each kind that is looked into: scans and what is none."""
    root, voxels = tmp_path / "tree", draw().voxels
    (root / "bare").mkdir(parents=True)
    for number in range(3):
        write_dicom(draw(number), root / f"bare/IM{number}", uid_seed=str(number))
    (root / "bare/README").write_text("nothing")
    for number in range(3):
        vendors.write_xml(root / f"export{number}", voxels)
    (root / "notes.xml").write_text("<a/>")
    images(root / "slices", voxels, "{}.tif")
    (root / "stacks").mkdir()
    for number in range(3):
        stack = root / f"stacks/{number}.tif"
        tifffile.imwrite(stack, voxels + number, photometric="minisblack")
    (root / "volume.json").write_text(json.dumps(SAID))
    return root


def blank(path):
    """Leave of a file its size and its time of change, so that who looks into it sees nothing."""
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_second_start_looks_into_no_file_that_has_not_changed(tree, tmp_path, draw, caplog):
    cache = tmp_path / "cache"
    first = read_manifest(tree, cache=cache)
    assert [one.path for one in first] == [
        "bare/IM0", "bare/IM1", "bare/IM2", "export0/scan.xml", "export1/scan.xml",
        "export2/scan.xml", "slices", "stacks/0.tif", "stacks/1.tif", "stacks/2.tif",
    ]  # fmt: skip
    said = caplog.messages[-1]
    for path in tree.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            blank(path)
    assert read_manifest(tree, cache=cache) == first
    assert caplog.messages[-1] == said
    assert len(read_manifest(tree)) < len(first), "who looks sees that the files are blank"
    write_dicom(draw(7), tree / "bare/README", uid_seed="7")
    (tree / "bare/IM1").unlink()
    assert [one.path for one in read_manifest(tree, cache=cache)][:3] == [
        "bare/IM0", "bare/IM2", "bare/README",
    ]  # fmt: skip


def test_an_outage_while_files_are_looked_into_is_not_remembered(tree, tmp_path):
    cache = tmp_path / "cache"
    notes = tree / "notes.xml"
    notes.unlink()
    notes.symlink_to(tmp_path / "gone.xml")
    assert read_manifest(tree, cache=cache)[6].path == "notes.xml"
    assert read_manifest(tree, cache=cache)[6].refused[0] == "fetch"


@pytest.fixture
def watched(bucket, monkeypatch):
    """The bucket in memory; `watched(name)` says how often, and how many at once, that is asked."""
    counts, lock = {}, Lock()

    def watch(name):
        inner = getattr(type(bucket), name)
        running = [0]

        def method(self, path, *more, **options):
            with lock:
                running[0] += 1
                asked, peak = counts.get(name, (0, 0))
                counts[name] = asked + 1, max(peak, running[0])
            time.sleep(0.02)
            try:
                return inner(self, path, *more, **options)
            finally:
                with lock:
                    running[0] -= 1

        monkeypatch.setattr(type(bucket), name, method)

    for name in ("cat_file", "info"):
        watch(name)
    bucket.counts = counts
    return bucket


def upload(bucket, tree):
    for path in tree.rglob("*"):
        if path.is_file():
            bucket.pipe_file(f"/b/{path.relative_to(tree)}", path.read_bytes())


def test_a_bucket_is_looked_into_many_files_at_a_time_and_once(tree, tmp_path, watched):
    upload(watched, tree)
    watched.counts.clear()
    first = read_manifest("counting://b", cache=tmp_path / "cache")
    asked, peak = watched.counts["cat_file"]
    assert peak >= 3
    watched.counts.clear()
    assert read_manifest("counting://b", cache=tmp_path / "cache") == first
    assert asked > 20
    assert watched.counts["cat_file"][0] == 1, "volume.json alone"


def test_sidecars_and_odd_endings_of_a_manifest_are_asked_for_many_at_a_time(watched, draw):
    lines = ["participant_id\tfilepath"]
    for number in range(8):
        lines += [f"{number}\t/{number}/a.npy", f"{number}\t/{number}/notes.ima"]
        watched.pipe_file(f"/b/{number}/volume.json", json.dumps(SAID).encode())
        watched.pipe_file(f"/b/{number}/notes.ima", b"nothing")
    watched.pipe_file("/b/list.tsv", "\n".join(lines).encode())
    watched.counts.clear()
    records = read_manifest("counting://b", manifest="counting://b/list.tsv")
    assert [bool(one.refused) for one in records] == [False, True] * 8
    assert all(json.loads(one.sidecar) == SAID for one in records[::2])
    assert watched.counts["cat_file"][1] >= 3
    assert watched.counts["info"][1] >= 3


def test_an_image_of_an_export_in_the_root_is_part_of_its_state(tmp_path, vendors, draw):
    root = vendors.write_xml(tmp_path / "data", draw().voxels)
    out = root / "cache"  # what a cache keeps beside itself is not

    def build():
        done = []
        records, tokens = list_scans(root, cache=out)
        progress = lambda *seen: done.append(seen)  # noqa: E731
        build_cache(records, root, TINY, out, tokens=tokens, progress=progress)
        return len(done), open_cache(out).entries[0].sha256

    times, before = build()
    assert times
    assert build() == (0, before)
    Image.fromarray(draw(5).voxels[3]).save(root / "b3.png")
    os.utime(root / "b3.png", (1, 1))
    times, after = build()
    assert times
    assert after != before


def test_the_state_of_many_exports_in_one_folder_takes_time_in_proportion():
    count = 20_000
    tokens = {f"all/{number}.{kind}": "1:1" for number in range(count) for kind in ("xml", "png")}
    records = [ScanRecord(path=f"all/{number}.xml") for number in range(count)]
    start = time.process_time()
    states = scan_states(tokens, records)
    assert time.process_time() - start < 3, "and not with the square of their number"
    other = scan_states(tokens | {"all/7.png": "2:2"}, records[:1])
    assert states[0] != other[0]


def test_a_folder_has_one_token_whoever_asks(tmp_path, draw):
    images(tmp_path / "eye", draw().voxels)
    tokens = list_tokens(tmp_path)
    record = ScanRecord(path="eye")
    assert scan_states(tokens, [record]) == [change_tokens(tmp_path, ["eye"])["eye"]]
    before = change_tokens(tmp_path, ["eye"])
    (tmp_path / "eye/.hidden").write_text("nothing")
    assert change_tokens(tmp_path, ["eye"]) == before


def named(folder, name):
    """A path whose last part is these bytes."""
    return Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))


def test_names_that_are_not_utf8_are_refused_by_a_line_each(tmp_path, draw, caplog):
    root, voxels = tmp_path / "data", draw().voxels
    images(root / "eye", voxels)
    (root / "eye/0.png").rename(named(root / "eye", b"0\xff.png"))
    images(named(root, b"left\xe9"), voxels)
    np.save(named(root, b"a\xff.npy"), voxels)
    named(root, b"IM\xff").write_bytes(b"\0" * 128 + b"DICM")
    named(root, b"L\xe9gende.txt").write_text("nothing")
    (root / "volume.json").write_text(json.dumps(SAID))
    cache = tmp_path / "cache"
    records = list_scans(root, cache=cache).records
    refused = {one.path: one.refused for one in records if one.refused}
    reason = ("fetch", "its path is not UTF-8; rename it")
    assert refused == dict.fromkeys(["IM%FF", "a%FF.npy", "left%E9"], reason)
    assert "1 .txt" in caplog.text
    assert main(["cache", str(root), str(cache), "--window", "tiny_field", "--jobs", "1",
                 "--max-bad-fraction", "0.9"]) == 0  # fmt: skip
    found = open_cache(cache)
    assert [one.path for one in found.quarantined] == sorted(refused)
    assert len(found) == 1
    assert (audit(root).scans, audit(root).usable) == (4, 1)
    assert main(["manifest", str(root), "--out", str(tmp_path / "list.tsv")]) == 0
    assert len(read_manifest(root, manifest=tmp_path / "list.tsv")) == 4


def test_links_are_followed_below_the_root_and_no_scan_is_found_twice(tmp_path, draw, caplog):
    root, voxels = tmp_path / "data", draw().voxels
    images(root / ".store/deep/eye", voxels)
    (root / ".store/deep/round").symlink_to(root / ".store")
    (root / "p").mkdir()
    np.save(root / "p/a.npy", voxels)
    (root / "linked").symlink_to(root / ".store/deep")
    (root / "p/again").symlink_to(root / "p")
    (root / "p/up").symlink_to(root)
    (root / "p/self").symlink_to(root / "p/self")
    images(tmp_path / "elsewhere", voxels)
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "volume.json").write_text(json.dumps(SAID))
    os.mkfifo(root / "p/pipe.npy")
    found = {one.path: one.refused for one in read_manifest(root)}
    assert sorted(found) == ["linked/eye", "p/a.npy", "p/self"]
    assert (found["p/self"][0], found["linked/eye"], found["p/a.npy"]) == ("fetch", None, None)
    line = next(one for one in caplog.messages if one.startswith("not entered: "))
    assert "1 links to folders out of the root" in line
    assert "2 links to folders that are listed where they lie" in line
    assert "1 pipes" in line


def test_a_folder_of_links_to_images_is_a_scan_and_a_broken_link_is_none_of_its_images(
    tmp_path, draw
):
    voxels = draw().voxels
    images(tmp_path / "store", voxels)
    eye = tmp_path / "data/eye"
    eye.mkdir(parents=True)
    for number in range(8):
        (eye / f"{number}.png").symlink_to(tmp_path / f"store/{number}.png")
    (eye / "volume.json").write_text(json.dumps(SAID))
    (record,) = read_manifest(tmp_path / "data")
    assert (record.path, record.shape) == ("eye", voxels.shape)
    assert np.array_equal(read_volume(eye).voxels, voxels)
    before = change_tokens(tmp_path / "data", ["eye"])
    Image.fromarray(voxels[0]).save(tmp_path / "store/3.png")
    os.utime(tmp_path / "store/3.png", (1, 1))
    assert change_tokens(tmp_path / "data", ["eye"]) != before
    (tmp_path / "store/0.png").unlink()
    (record,) = read_manifest(tmp_path / "data")
    assert record.refused == ("fetch", "no such file")


def test_a_root_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"nothing")
    with pytest.raises(TreeError, match=r"a\.npy: is a file; give the folder"):
        read_manifest(tmp_path / "a.npy")


def test_digits_that_are_no_decimals_do_not_stop_the_order_of_names():
    assert natural_order(["1²10.png", "1²9.png", "٣.png"]) == ["1²9.png", "1²10.png", "٣.png"]
