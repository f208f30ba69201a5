"""Boundaries and masks in a cache: beside the voxels, whole, checked, and only where asked for."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from oct_io import ScanError, SourceConfig, TreeError, Window, build_cache, open_cache, open_source
from oct_io.cache.index import read_index
from oct_io.cache.mending import list_refused, retry
from oct_io.catalog.manifest import read_manifest
from oct_io.records.opening import read_scan
from oct_io.space.layers import layers_to_mask, resample_layers, resample_mask
from oct_io.volume import UNLABELLED

WINDOW = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12), mirror_left=True)
BOTH = ("layers", "mask")
TWO_SCANS = 2 * 4 * 16 * 12
SHAPE = (8, 48, 40)


def mask_of(number):
    return np.random.default_rng(number).integers(0, 3, SHAPE, dtype=np.uint8)


def layers_of(number):
    top = np.full(SHAPE[::2], 15 + number, np.float32)
    return {"ILM": top, "BM": top + 12}


@pytest.fixture
def tree(tmp_path, scan_file, draw):
    """Six scans, of which 0, 1 and 4 have a mask, and 0 and 3 boundaries; returns the root."""
    for number in range(6):
        volume = draw(number, participant_id=str(1001 + number // 2), laterality="RL"[number % 2])
        scan_file(f"tree/{number}.dcm", volume=volume)
    for number, second in ((0, "SRF"), (1, "SRF"), (4, "cyst")):
        names = np.array(["background", second, "IRF"])
        np.savez(tmp_path / f"tree/{number}_mask.npz", mask=mask_of(number), names=names)
    for number, others in ((0, {}), (3, {"rnfl": layers_of(3)["ILM"] + 2})):
        np.savez(tmp_path / f"tree/{number}_layers.npz", **layers_of(number), **others)
    return tmp_path / "tree"


def build(root, out, annotations=BOTH, **changes):
    records = read_manifest(root)
    return build_cache(
        records, root, WINDOW, out, shard_bytes=TWO_SCANS, annotations=annotations, **changes
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_gives_what_resampling_gives_and_nothing_where_a_scan_has_nothing(tree, tmp_path):
    build(tree, tmp_path / "cache")
    volumes = open_cache(tmp_path / "cache")
    volumes.verify()
    assert volumes.mask_classes == ("background", "IRF", "SRF", "cyst")
    assert volumes.layer_names == ("ILM", "RNFL/GCL", "BM")
    assert volumes.entries.with_annotation("mask").tolist() == [0, 1, 4]
    assert volumes.entries.with_annotation("layers").tolist() == [0, 3]
    for number, record in enumerate(read_manifest(tree)):
        scan = read_scan(tree, record, annotations=BOTH)
        layers, mask = volumes.layers(number), volumes.mask(number)
        wanted = resample_layers(scan, WINDOW)
        assert layers.keys() == wanted.keys()
        assert all(np.array_equal(layers[one], wanted[one], equal_nan=True) for one in wanted)
        if scan.mask is None:
            assert (mask == UNLABELLED).all()
            continue
        plain = resample_mask(scan, WINDOW)
        for label, name in enumerate(scan.mask_names):
            same = mask == volumes.mask_classes.index(name)
            assert np.array_equal(same, plain == label)
    painted = volumes.layer_mask(3, ("ILM", "BM"))
    assert np.array_equal(painted, layers_to_mask(volumes.layers(3), WINDOW.shape, ("ILM", "BM")))
    assert {0, 1, 2} <= set(np.unique(painted))


def test_who_asks_for_none_gets_the_cache_that_there_always_was(tree, tmp_path):
    build(tree, tmp_path / "with_files", annotations=())
    for path in [*tree.glob("*_mask*"), *tree.glob("*_layers*")]:
        path.unlink()
    build(tree, tmp_path / "without", annotations=())
    assert contents(tmp_path / "with_files") == contents(tmp_path / "without")
    index = json.loads((tmp_path / "without" / "index.json").read_text())
    assert index["version"] == 2
    assert "annotations" not in index
    volumes = open_cache(tmp_path / "without")
    assert not list((tmp_path / "without").glob("*.ann"))
    assert "mask" not in volumes.entries.table.column_names
    assert volumes.mask_classes == volumes.layer_names == ()
    assert volumes.layers(0) == {}
    assert (volumes.mask(0) == UNLABELLED).all()
    assert len(volumes.entries.with_annotation("mask")) == 0


def test_the_fingerprint_says_what_was_asked_for_and_what_there_was(tree, tmp_path):
    prints = {a: build(tree, tmp_path / "-".join(("c", *a)), a).fingerprint
              for a in ((), ("mask",), ("layers",), BOTH)}  # fmt: skip
    assert len(set(prints.values())) == 4
    np.savez(tree / "0_mask.npz", mask=np.zeros(SHAPE, np.uint8))
    assert build(tree, tmp_path / "again").fingerprint != prints[BOTH]
    for path in [*tree.glob("*_mask*"), *tree.glob("*_layers*")]:
        path.unlink()
    none = build(tree, tmp_path / "none")
    assert none.fingerprint not in prints.values(), "asked for, and no scan had any"
    assert build(tree, tmp_path / "none").fingerprint == none.fingerprint
    selected = open_cache(tmp_path / "c-layers-mask").select(range(6))
    assert selected.fingerprint == prints[BOTH]


def test_the_bytes_depend_neither_on_jobs_nor_on_the_order_of_asking(tree, tmp_path):
    build(tree, tmp_path / "one")
    build(tree, tmp_path / "two", annotations=["mask", "layers"], jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_only_shards_with_annotations_have_a_file_of_them(tree, tmp_path):
    index = build(tree, tmp_path / "cache")
    plane, mask = 4 * 4 * 12, 4 * 16 * 12
    assert index.annotation_bytes == (2 * plane + 2 * mask, 3 * plane, mask)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "cache").glob("*.ann")}
    assert sizes == {f"shard-0000{n}.ann": index.annotation_bytes[n] for n in range(3)}
    (tree / "4_mask.npz").unlink()
    assert build(tree, tmp_path / "cache").annotation_bytes[2] == 0
    assert not (tmp_path / "cache" / "shard-00002.ann").exists()


@pytest.mark.parametrize("changed", ["1_mask.npz", "3_layers.npz"])
def test_a_changed_file_makes_its_scan_anew_and_leaves_the_others(tree, tmp_path, changed):
    build(tree, tmp_path / "cache")
    before = open_cache(tmp_path / "cache")
    kept = {number: before.annotation_bytes(number) for number in range(6)}
    other = {"mask": mask_of(9)} if "mask" in changed else {"BM": layers_of(5)["BM"]}
    np.savez(tree / changed, **other)
    for number in (0, 4):
        (tree / f"{number}.dcm").write_bytes(b"spoilt")
        os.utime(tree / f"{number}.dcm", ns=(1, 1))
    touched = {path: path.stat() for path in tree.glob("*.dcm")}
    assert touched
    build(tree, tmp_path / "cache")
    after = open_cache(tmp_path / "cache")
    after.verify()
    assert len(after) == 4, "two scans were spoilt meanwhile"
    found = {one.key: after.annotation_bytes(n) for n, one in enumerate(after.entries)}
    for number, entry in enumerate(before.entries):
        if entry.key in found:
            assert (found[entry.key] == kept[number]) == (number != int(changed[0]))


def test_unchanged_scans_are_taken_over_with_their_annotations(tree, tmp_path, monkeypatch):
    build(tree, tmp_path / "cache")
    whole = contents(tmp_path / "cache")
    records = read_manifest(tree)
    monkeypatch.setattr("oct_io.cache.decoding.read_scan", None)  # nothing is decoded any more
    part = build_cache(
        records[:4], tree, WINDOW, tmp_path / "cache", annotations=BOTH, shard_bytes=TWO_SCANS
    )
    assert len(part.entries) == 4
    open_cache(tmp_path / "cache").verify()
    assert (tmp_path / "cache" / "shard-00000.ann").read_bytes() == whole["shard-00000.ann"]


def test_a_mask_that_cannot_be_used_refuses_its_scan_by_name_of_the_fault(tree, tmp_path):
    np.savez(tree / "1_mask.npz", mask=mask_of(1)[1:])
    index = build(tree, tmp_path / "cache")
    assert index.refused == 1
    (refusal,) = list_refused(tmp_path / "cache")
    assert refusal.stage == "parse"
    assert refusal.reason == "the mask has 7 x 48 x 40 voxels, its scan 8 x 48 x 40"
    assert build(tree, tmp_path / "voxels", annotations=("layers",)).refused == 0
    np.savez(tree / "1_mask.npz", mask=mask_of(1))
    mended = retry(tmp_path / "cache", read_manifest(tree), tree)
    assert (mended.refused, mended.annotations) == (0, BOTH)
    assert open_cache(tmp_path / "cache").entries.with_annotation("mask").tolist() == [0, 1, 4]


def test_damage_is_found_when_it_is_opened_or_verified(tree, tmp_path):
    build(tree, tmp_path / "cache")
    shard = tmp_path / "cache" / "shard-00001.ann"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    volumes = open_cache(tmp_path / "cache")
    with pytest.raises(ScanError, match=r"shard-00001\.ann.*not what was written"):
        volumes.verify()
    shard.write_bytes(content[:-1])
    with pytest.raises(TreeError, match=r"shard-00001\.ann: has 575 bytes, the index says 576"):
        open_cache(tmp_path / "cache")
    assert build(tree, tmp_path / "cache").annotation_bytes
    open_cache(tmp_path / "cache").verify()
    shard.unlink()
    with pytest.raises(TreeError, match="is missing"):
        open_cache(tmp_path / "cache")


def test_a_worker_gets_the_same_annotations(tree, tmp_path):
    build(tree, tmp_path / "cache")
    some = open_cache(tmp_path / "cache").select([4, 0])
    sent = pickle.loads(pickle.dumps(some))
    assert sent.mask_classes == some.mask_classes
    assert all(np.array_equal(sent.mask(n), some.mask(n)) for n in range(2))
    assert sent.layers(1).keys() == {"ILM", "BM"}
    sent.mask(0)[:] = 7
    assert not (sent.mask(0) == 7).any(), "a fresh array each time"


SCRIPT = """
import os, signal, sys
import oct_io.cache.assembly, oct_io.cache.build, oct_io.cache.parts
from oct_io import Window, build_cache, read_manifest

root, out, point = sys.argv[1:]

class Doomed(oct_io.cache.parts.PartFolder):
    def _write(self, name, content):
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(name, content)

def kill(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

oct_io.cache.making.PartFolder = Doomed
if point == "index":
    oct_io.cache.assembly.write_index = kill
shape = (4, 16, 12)
window = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=shape, mirror_left=True)
both = ("layers", "mask")
build_cache(read_manifest(root), root, window, out, shard_bytes=2 * 4 * 16 * 12, annotations=both)
"""


@pytest.mark.slow
def test_a_build_that_is_killed_between_its_files_ends_with_the_same_bytes(tree, tmp_path):
    build(tree, tmp_path / "whole")
    out = tmp_path / "killed"
    points = ["part-000000.json", "part-000002.ann", "index"]
    for point in points:
        command = [sys.executable, "-c", SCRIPT, str(tree), str(out), point]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -9, (point, done.stderr)
        assert not out.exists()
    build(tree, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_parts_in_a_bucket_give_the_same_bytes(tree, tmp_path):
    build(tree, tmp_path / "one")
    build(tree, tmp_path / "two", parts="memory://parts-of-annotations")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_hash_of_a_record_covers_its_annotations(tree, tmp_path):
    build(tree, tmp_path / "cache")
    entries = read_index(tmp_path / "cache").entries
    plain = [bytes.fromhex(one.sha256) for one in entries]
    others = [bytes.fromhex(one.annotation_sha256) for one in entries]
    wanted = [
        hashlib.sha256(a + b).digest() if b else a for a, b in zip(plain, others, strict=True)
    ]
    assert [one.ljust(32, b"\0") for one in entries.hashes().tolist()] == wanted
    assert replace(entries[0]) == entries[0]


def test_a_source_gives_what_its_configuration_asks_for(tree, tmp_path):
    config = SourceConfig(
        root=str(tree), cache=str(tmp_path / "cache"), window="tiny", jobs=1,
        annotations=["mask"], mirror_left=True,
    )  # fmt: skip
    volumes = open_source(config).volumes
    assert volumes.mask(0).shape == volumes[0].shape
    assert volumes.mask_classes == ("background", "IRF", "SRF", "cyst")
    assert volumes.layers(0) == {}
    with pytest.raises(ValueError, match=r"data\.annotations .* must be some of layers, mask"):
        replace(config, annotations=["masks"])
