"""Scans that tests write for themselves, and the folder of real ones."""

import importlib.util
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import ClassVar

import fsspec
import imagecodecs
import numpy as np
import pydicom
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from oct_io.cache.index import read_index
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import PhantomTree, write_phantom_tree
from oct_io.storage import buckets
from oct_io.storage.buckets import StorageConfig, using_storage
from oct_io.volume import OctVolume, Spacing
from pydicom.encaps import encapsulate, encapsulate_extended

SECRET = "Secret^Person"
SPACING = Spacing(0.25, 0.004, 0.05)

SYNTAXES = {
    "jpeg2000": ("1.2.840.10008.1.2.4.90", lambda a: imagecodecs.jpeg2k_encode(a, reversible=True)),
    "jpegls": ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
    "ljpeg": ("1.2.840.10008.1.2.4.70", lambda a: imagecodecs.ljpeg_encode(a)),
}


def draw_volume(seed=0, shape=(8, 48, 40), dtype=np.uint8, **changes):
    """A bright band, bent by `seed`, in a dark and noisy box; every frame differs."""
    rng = np.random.default_rng(seed)
    bscans, rows, columns = shape
    top = rows * (0.4 + 0.05 * np.sin(np.arange(columns) / 9 + np.arange(bscans)[:, None] + seed))
    depth = np.arange(rows)[None, :, None] - top[:, None, :]
    band = np.exp(-((depth / (rows / 10)) ** 2))
    full = np.iinfo(dtype).max
    voxels = (0.1 * rng.random(shape) + 0.85 * band) * full
    volume = OctVolume(
        voxels.astype(dtype),
        SPACING,
        "drawn",
        laterality="L",
        device="topcon_triton",
        protocol="triton_macula_6x6_octa_oct",
        region="Macula, 6 x 6",
        participant_id="4007",
    )
    return replace(volume, **changes)


def compress(dataset, codec, table):
    """Encode the frames of a native dataset, with a basic, empty or extended offset table.

    `codec` is a name in SYNTAXES, or the UID of a syntax and what encodes a frame in it.
    """
    uid, encode = SYNTAXES[codec] if isinstance(codec, str) else codec
    streams = [bytes(encode(frame)) for frame in dataset.pixel_array]
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    if table == "extended":
        data, offsets, lengths = encapsulate_extended(streams)
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    else:
        data = encapsulate(streams, has_bot=table == "basic")
    dataset.PixelData = data
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


@pytest.fixture(scope="session")
def draw():
    return draw_volume


@pytest.fixture
def scan_file(tmp_path):
    """Writes a scan; `edit(dataset)` spoils it, `codec` and `table` compress it.

    Its measures stand per frame if `shared_groups` is false.
    """

    def write(
        name="scan.dcm",
        volume=None,
        edit=None,
        codec="",
        table="basic",
        shared_groups=True,
        **changes,
    ):
        volume = replace(volume or draw_volume(), **changes)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = str(path.relative_to(tmp_path))
        write_dicom(volume, path, uid_seed=seed, shared_groups=shared_groups)
        dataset = pydicom.dcmread(path)
        dataset.PatientName = SECRET
        if codec:
            compress(dataset, codec, table)
        if edit:
            edit(dataset)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def as_before_tables():
    """Gives a cache the index that it had when `index.json` held the entries; returns that file."""

    def rewrite(folder):
        index = read_index(Path(folder))
        tree = {one.name: getattr(index, one.name) for one in fields(index)}
        tree |= {"format": "oct-io-cache", "version": 1, "window": asdict(index.window)}
        tree["entries"] = [asdict(entry) for entry in index.entries]
        path = Path(folder) / "index.json"
        path.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")
        (Path(folder) / "entries.arrow").unlink()
        return path

    return rewrite


@pytest.fixture(scope="session")
def samples():
    folder = os.environ.get("OCT_SAMPLES")
    if not folder:
        pytest.skip("set OCT_SAMPLES to the folder of real scans to run this test")
    return Path(folder)


class CountingFileSystem(MemoryFileSystem):
    """A bucket in memory that counts what is asked of it."""

    protocol = "counting"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    requests: ClassVar[list] = []
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("counting://").strip("/")

    def cat_file(self, path, start=None, end=None, **kwargs):
        content = super().cat_file(path, start=start, end=end, **kwargs)
        self.requests.append(len(content))
        return content


@pytest.fixture
def bucket():
    """A filesystem that answers to counting:// and lists the sizes of its answers."""
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    CountingFileSystem.store.clear()
    CountingFileSystem.requests.clear()
    return CountingFileSystem()


def load_module(path):
    """The module at `path`; test folders are not packages, so that names may repeat."""
    spec = importlib.util.spec_from_file_location(f"oct_io_test_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def neighbour():
    """`neighbour(__file__, name)` is the module of that file name in the folder of a test."""
    return lambda test, name: load_module(Path(test).with_name(name))


@pytest.fixture(scope="session")
def clusters(neighbour):
    """Ray clusters whose nodes are processes of their own."""
    return neighbour(__file__, "clusters.py")


@pytest.fixture(scope="session")
def servers(neighbour):
    """Proxies, and real S3 and GCS APIs at `servers.places`."""
    module = neighbour(__file__, "servers.py")
    with pytest.MonkeyPatch.context() as patch, module.serve() as places:
        patch.setenv("AWS_ACCESS_KEY_ID", "made-up")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        module.places.update(places)
        yield module


@pytest.fixture
def storage(servers):
    """`storage(scheme)` gives a proxy that counts, with the storage pointed at it."""
    with ExitStack() as open_ones:

        def start(scheme, *, config=None, **faults):
            proxy = servers.Proxy(servers.places[scheme], **faults)
            buckets._OPEN.clear()  # a port may be given out again; nobody has answered there yet
            open_ones.callback(proxy.close)
            wanted = {"endpoint_url": proxy.url, "anonymous": scheme == "gs"}
            wanted |= {"read_timeout_s": 300.0} | (config or {})  # a busy machine is no bad network
            open_ones.enter_context(using_storage(StorageConfig(**wanted)))
            return proxy

        yield start


@pytest.fixture(scope="session")
def phantom_tree(tmp_path_factory):
    """A phantom data set on disk, 12 scans with a manifest; returns its root."""
    root = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom_tree(root, PhantomTree(participants=6, shape=(6, 48, 40), jobs=1))
    return root


@pytest.fixture(scope="session")
def large_scans(tmp_path_factory):
    """Contents of four files that are longer than what is read for a header."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        volume = draw_volume(number, shape=(12, 160, 144))
        write_dicom(volume, folder / f"{number}.dcm", uid_seed=str(number))
    return [(folder / f"{number}.dcm").read_bytes() for number in range(4)]


@pytest.fixture(scope="session")
def stores(servers, phantom_tree, large_scans):
    """`servers`, with the phantom data set and 200 larger scans in both stores."""
    files = [path for path in phantom_tree.rglob("*") if path.is_file()]
    tree = {f"eyes/data/{p.relative_to(phantom_tree)}": p.read_bytes() for p in files}
    many = {f"eyes/many/{number:03}.dcm": large_scans[number % 4] for number in range(200)}
    for scheme in ("s3", "gs"):
        servers.fill(scheme, {**tree, **many, "eyes/other/empty.dcm": b""})
    return servers
