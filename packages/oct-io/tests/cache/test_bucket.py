import hashlib
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from oct_io import (
    ScanError,
    SourceConfig,
    TreeError,
    Window,
    build_cache,
    open_cache,
    open_source,
    read_manifest,
)
from oct_io.cache.decoding import Refused
from oct_io.cache.making import find_missing
from oct_io.cache.parts import PartFolder, Plan, make_part
from oct_io.cache.publishing import publish_cache
from oct_io.cli import main
from oct_io.errors import StoreError
from oct_io.labels.splits import write_split
from oct_io.records.record import ScanRecord
from oct_io.storage.buckets import StorageConfig, current_storage, open_filesystem, using_storage
from oct_io.storage.files import list_tokens
from oct_io.storage.kept_records import KeptRecords

WINDOW = Window(name="test", extent_mm=(4.0, 0.15, 4.0), shape=(4, 16, 12))
ONE = 4 * 16 * 12
SCHEMES = ("s3", "gs")
OUTAGE = r"^s3://eyes at http://127\.0\.0\.1.*: out of reach for \d+ s"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Tests wait less than people; how often they wait stays."""
    monkeypatch.setattr("oct_io.storage.outages.FIRST_WAIT_S", 0.02)


@pytest.fixture(scope="module")
def local(phantom_tree, tmp_path_factory):
    """A cache on a disk: 12 volumes in 3 shards, and one refused scan."""
    folder = tmp_path_factory.mktemp("local") / "cache"
    records = [*read_manifest(phantom_tree), ScanRecord(path="nobody/4007.dcm")]
    build_cache(records, phantom_tree, WINDOW, folder, shard_bytes=4 * ONE)
    return folder


@pytest.fixture(scope="module")
def filled(local, servers, tmp_path_factory):
    """The cache in both stores, sent by `publish_cache` to one of them."""
    for scheme in SCHEMES:
        servers.fill(scheme, {"eyes/made/of": b"a bucket"})
        config = StorageConfig(
            endpoint_url=f"http://{servers.places[scheme]}", anonymous=scheme == "gs"
        )
        with using_storage(config):
            publish_cache(local, f"{scheme}://eyes/cache")
    return "eyes/cache"


@pytest.fixture
def published(filled, storage):
    """`published(scheme)` gives the URL of the cache and a proxy in front of the store."""

    def publish(scheme, **how):
        return f"{scheme}://{filled}", storage(scheme, **how)

    return publish


def impatient():
    """Give up soon, for a store that is not there."""
    return using_storage(replace(current_storage(), give_up_s=2.0))


def contents(proxy):
    """Bytes that were sent of shards."""
    return sum(one.size for one in proxy.requests if ".u8" in one.path and one.method == "GET")


def bound(folder, volumes):
    """A bound in GB for the index in `folder` and so many volumes."""
    index = sum((folder / one).stat().st_size for one in ("index.json", "entries.arrow"))
    return (index + 500 + 13 * 8 + volumes * ONE) / 1e9  # 500: the line of the quarantine


def test_of_threads_that_want_one_place_one_gets_it_and_its_record_is_whole(tmp_path):
    contents = [bytes([number]) * 2_000_000 for number in range(1, 9)]
    digests = [hashlib.sha256(content).digest() for content in contents]
    for attempt in range(20):
        (tmp_path / str(attempt)).mkdir()
        kept = KeptRecords(tmp_path / str(attempt), record_bytes=len(contents[0]), slots=1)
        at_once = threading.Barrier(len(contents))

        def keep(number, kept=kept, at_once=at_once):
            at_once.wait()
            kept.keep(number, memoryview(contents[number]))

        with ThreadPoolExecutor(len(contents)) as threads:
            list(threads.map(keep, range(len(contents))))
        wanted = memoryview(bytearray(len(contents[0])))
        assert sum(kept.read_into(wanted, n, one) for n, one in enumerate(digests)) == 1


def test_as_many_records_are_kept_as_there_are_places_whichever_they_are(tmp_path):
    kept, wanted = KeptRecords(tmp_path, record_bytes=100, slots=8), memoryview(bytearray(100))
    contents = {number: bytes([number]) * 100 for number in range(0, 80, 8)}
    digests = {number: hashlib.sha256(content).digest() for number, content in contents.items()}
    in_turn, others = list(contents), pickle.loads(pickle.dumps(kept))
    with ThreadPoolExecutor(4) as threads:  # two handles, as of two processes, and threads of each
        for number in (*in_turn, *in_turn):
            for one in (kept, others):
                threads.submit(one.keep, number, memoryview(contents[number]))
    found = [number for number in contents if others.read_into(wanted, number, digests[number])]
    assert len(found) == 8
    assert (tmp_path / "volumes").stat().st_size == 8 * 100


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_cache_in_a_bucket_has_the_volumes_of_the_one_on_the_disk(
    scheme, local, published, tmp_path
):
    url, proxy = published(scheme)
    there, here = open_cache(url, kept=tmp_path / "kept"), open_cache(local)
    assert there.fingerprint == here.fingerprint
    assert list(there.entries) == list(here.entries)
    assert contents(proxy) == 0  # opened by its index alone
    for kept in (False, True):
        proxy.clear()
        for one, other in zip(there, here, strict=True):
            assert np.array_equal(one, other)
            one[:] = 0  # nobody else has it
        assert contents(proxy) == (0 if kept else 12 * ONE)
    there.verify()
    assert not any(one.path for one in there.quarantined)
    assert [one.key for one in there.quarantined] == [one.key for one in here.quarantined]


def test_a_sample_costs_its_own_bytes_however_small_the_place_and_whatever_the_order(
    local, published, tmp_path
):
    url, proxy = published("s3")
    kept_gb = bound(local, 1)
    volumes = open_cache(url, kept=tmp_path / "kept", kept_gb=kept_gb)
    rng, saved = np.random.default_rng(0), []
    for _ in range(4):
        proxy.clear()
        order = rng.permutation(12).tolist()
        for number, volume in zip(order, volumes.each(order), strict=True):
            assert np.array_equal(volume, open_cache(local)[number])
        saved.append(12 - contents(proxy) / ONE)
    assert saved == [0, 1, 1, 1]  # what came first stays, so that each epoch finds it
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= kept_gb * 1e9


def test_processes_share_one_place_and_each_reads_its_own_samples(local, published, tmp_path):
    url, proxy = published("s3")
    volumes = open_cache(url, kept=tmp_path / "kept", kept_gb=bound(local, 5))
    program = tmp_path / "worker.py"
    program.write_text(
        "import pickle, sys\n"
        "volumes = pickle.load(open(sys.argv[1], 'rb'))\n"
        "for number in map(int, sys.argv[2:]):\n"
        "    sys.stdout.buffer.write(volumes[number].tobytes())\n"
    )
    some = volumes.select(range(1, 12))
    (tmp_path / "volumes").write_bytes(pickle.dumps(some))
    command = [sys.executable, program, tmp_path / "volumes", *map(str, range(0, 11, 2))]
    expected = [open_cache(local)[number] for number in range(1, 12)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert all(map(np.array_equal, some.each(range(1, 11, 2)), expected[1::2]))
        assert worker.stdout.read() == b"".join(one.tobytes() for one in expected[::2])
    assert contents(proxy) == 11 * ONE
    proxy.clear()
    assert all(map(np.array_equal, some, expected))
    assert contents(proxy) == (11 - 5) * ONE  # five were kept, whoever read them


def test_what_a_killed_process_left_half_written_is_fetched_again(local, published, tmp_path):
    url, proxy = published("s3")
    volumes = open_cache(url, kept=tmp_path / "kept")
    expected = list(volumes)
    (kept,) = (tmp_path / "kept").rglob("volumes")
    with kept.open("r+b") as file:
        file.seek(3 * ONE + 100)
        file.write(b"torn")
    proxy.clear()
    assert all(map(np.array_equal, expected, volumes))
    assert contents(proxy) == ONE
    proxy.clear()
    assert all(map(np.array_equal, expected, open_cache(url, kept=tmp_path / "kept")))
    assert contents(proxy) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bad_network_spoils_no_volume(scheme, local, published, tmp_path):
    faults = ("reset", "truncate", "shorten", "busy")
    url, proxy = published(scheme, faults=faults, fraction=0.3, seed=2)
    there = open_cache(url, kept=tmp_path / "kept", kept_gb=bound(local, 0))
    assert all(np.array_equal(*pair) for pair in zip(there, open_cache(local), strict=True))
    assert any(one.fault for one in proxy.requests)


def test_an_outage_is_one_line_and_what_is_kept_is_still_read(local, published, tmp_path):
    url, proxy = published("s3")
    volumes = open_cache(url, kept=tmp_path / "kept")
    first = volumes[0]
    proxy.shut()
    with (
        impatient(),
        pytest.raises(StoreError, match=r"^s3://eyes at http.*: out of reach for [1-9]") as caught,
    ):
        volumes[1]
    assert "\n" not in str(caught.value)
    assert np.array_equal(volumes[0], first)
    proxy.open()
    assert np.array_equal(volumes[1], open_cache(local)[1])


def test_what_is_asked_for_next_is_on_its_way_together(published, tmp_path):
    url, proxy = published("s3")
    volumes = open_cache(url, kept=tmp_path / "kept")
    proxy.latency_s = 0.4
    started = threading.active_count()
    volumes.ahead(range(8))
    assert threading.active_count() >= started + 8  # all at once
    expected = [volumes[number] for number in range(8)]
    proxy.shut()
    assert all(np.array_equal(volumes[n], one) for n, one in enumerate(expected))


def test_what_is_still_asked_for_in_an_outage_does_not_hold_the_end_of_a_program(
    published, tmp_path
):
    url, proxy = published("s3")
    program = (
        "import sys, oct_io\n"
        "from oct_io.storage.buckets import StorageConfig, configure_storage\n"
        "configure_storage(StorageConfig(endpoint_url=sys.argv[2], give_up_s=600))\n"
        "volumes = oct_io.open_cache(sys.argv[1], kept=sys.argv[3])\n"
        "print('open', flush=True)\n"
        "sys.stdin.readline()\n"
        "volumes.ahead(range(8))\n"
    )
    place = [url, proxy.url, str(tmp_path / "other")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "open\n"
    proxy.shut()
    process.communicate("go\n", timeout=120)
    assert process.returncode == 0


def test_bytes_that_are_not_what_was_published_are_refused(local, published, tmp_path):
    published("s3")
    url = "s3://eyes/spoilt"
    publish_cache(local, url)
    filesystem, path = open_filesystem(f"{url}/shard-00001.u8")
    filesystem.pipe_file(path, bytes(4 * ONE))
    volumes = open_cache(url, kept=tmp_path / "kept")
    with pytest.raises(ScanError, match=r"shard-00001\.u8: content: bytes 0 to 768 are not what"):
        volumes[4]
    filesystem.rm(path)
    with pytest.raises(ScanError, match=r"shard-00001\.u8: fetch: no such file"):
        volumes[4]


def test_the_place_is_of_one_cache_at_a_time_and_of_nothing_else(local, published, tmp_path):
    url, _ = published("s3")
    kept = tmp_path / "kept"
    volumes = open_cache(url, kept=kept)
    with pytest.raises(TreeError, match="for a run that goes on; give this one a place of its own"):
        open_cache(url, kept=kept, kept_gb=bound(local, 2))
    list(volumes)
    del volumes
    open_cache(url, kept=kept, kept_gb=bound(local, 2))
    assert len([one for one in kept.iterdir() if one.is_dir()]) == 1
    with pytest.raises(TreeError, match="exists and keeps no volumes"):
        open_cache(url, kept=local)
    with pytest.raises(TreeError, match=r"its index alone takes .* GB, data\.kept_gb is 1e-06"):
        open_cache(url, kept=tmp_path / "other", kept_gb=1e-6)


def test_a_copy_that_was_interrupted_counts_for_nothing_and_goes_on(
    local, servers, storage, tmp_path, capsys
):
    servers.fill("s3", {"eyes/made/of": b"a bucket"})
    proxy = storage("s3")
    proxy.fail_later(6)
    url = "s3://eyes/interrupted"
    with impatient(), pytest.raises(StoreError):
        publish_cache(local, url)
    proxy.failing.join(60)
    assert not proxy.failing.is_alive(), "given up before the port was closed"
    proxy.open()
    with pytest.raises(TreeError, match=r"no cache here, it lacks index\.json; oct-io publish"):
        open_cache(url, kept=tmp_path / "kept")
    assert main(["publish", str(local), url]) == 0
    assert f"data.cache={url}" in capsys.readouterr().out
    assert publish_cache(local, url) == 0
    open_cache(url, kept=tmp_path / "kept").verify()


def test_another_cache_is_not_mixed_with_the_one_that_lies_there(
    local, published, phantom_tree, tmp_path
):
    url, _ = published("s3")
    build_cache(read_manifest(phantom_tree)[:3], phantom_tree, WINDOW, tmp_path / "other")
    with pytest.raises(TreeError, match="holds another cache; give this one a place of its own"):
        publish_cache(tmp_path / "other", url)


def test_a_source_opens_a_published_cache_without_its_scans(
    phantom_tree, servers, storage, tmp_path
):
    servers.fill("s3", {"eyes/made/of": b"a bucket"})
    storage("s3")
    here = SourceConfig(
        root=str(phantom_tree), window="tiny", cache=str(tmp_path / "cache"), jobs=1
    )
    source = open_source(here)
    publish_cache(here.cache, "s3://eyes/opened")
    write_split(tmp_path / "split.tsv", source.split)
    there = {"cache": "s3://eyes/opened", "kept": str(tmp_path / "kept"), "window": "tiny"}
    for tables in (
        {"split": str(tmp_path / "split.tsv")},
        {"labels": str(phantom_tree / "participants.tsv")},
        {"root": str(phantom_tree)},
    ):
        found = open_source(SourceConfig(**there, **tables))
        assert found.volumes.fingerprint == source.volumes.fingerprint
        assert found.outside(["test"]) == source.outside(["test"])
        assert found.measure_intensity([0, 5, 7]) == source.measure_intensity([0, 5, 7])
        assert found.remarks == ()
    assert found.labelled("thin").labels.tolist() == source.labelled("thin").labels.tolist()
    left = open_source(SourceConfig(**there, lateralities=["R"]))
    assert {one.laterality for one in left.volumes.entries} == {"R"}
    assert left.unselected == len(source.volumes) - len(left.volumes)
    assert left.remarks == (
        "no table says who of the cache is for test, so that everybody takes part; data.labels and "
        "data.split name tables",
    )
    of_scans = tmp_path / "scans.csv"
    of_scans.write_text("filepath,seen,recommended_split\na/R.dcm,yes,test\nb/R.dcm,no,train\n")
    with pytest.raises(TreeError, match="says the recommended_split of scans, and a cache"):
        open_source(SourceConfig(**there, labels=str(of_scans)))
    with pytest.raises(TreeError, match=r"was cut out by Window.*set data\.window"):
        open_source(SourceConfig(**there | {"window": "8x64x64"}))
    with pytest.raises(TreeError, match="built without mask"):
        open_source(SourceConfig(**there, annotations=["mask"]))
    with pytest.raises(TreeError, match=r"data\.kept is not set"):
        open_source(SourceConfig(**there | {"kept": ""}))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_cache_built_into_a_bucket_has_the_bytes_of_the_one_on_the_disk_though_it_was_cut(
    scheme, local, filled, phantom_tree, storage, tmp_path, monkeypatch
):
    root, url = phantom_tree, f"{scheme}://eyes/built"
    records = [*read_manifest(root), ScanRecord(path="nobody/4007.dcm")]
    proxy = storage(scheme)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    proxy.fail_later(25)
    with impatient(), pytest.raises(StoreError):
        build_cache(records, root, WINDOW, url, shard_bytes=4 * ONE)
    proxy.failing.join(60)
    assert not proxy.failing.is_alive(), "given up before the port was closed"
    proxy.open()
    with pytest.raises(TreeError, match="no cache here"):
        open_cache(url, kept=tmp_path / "kept")
    index = build_cache(records, root, WINDOW, url, shard_bytes=4 * ONE)
    there, here = open_cache(url, kept=tmp_path / "kept"), open_cache(local)
    assert (there.fingerprint, there.mean) == (here.fingerprint, here.mean)
    assert all(map(np.array_equal, there, here))
    there.verify()
    names = {path.rpartition("/")[2] for path in list_tokens(url)}
    shards = {f"shard-0000{n}.u8" for n in range(len(index.shards))}
    assert names == shards | {"entries.arrow", "index.json", "quarantine.jsonl", "publishing.json"}
    proxy.clear()
    again = build_cache(records, root, WINDOW, url, shard_bytes=4 * ONE)
    assert again.fingerprint == index.fingerprint
    assert not [one for one in proxy.requests if one.path.endswith(".u8")]
    with pytest.raises(TreeError, match="holds another cache"):
        build_cache(records[:3], root, WINDOW, url)
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]  # nothing else came to this disk


def test_a_build_into_a_place_where_another_is_at_work_is_refused_before_it_decodes_a_scan(
    local, phantom_tree, tmp_path
):
    url, seen = "memory://two-builds/cache", []
    records = [*read_manifest(phantom_tree), ScanRecord(path="nobody/4007.dcm")]

    def note(*done):
        seen.append(done)

    def begin_another(done, total, bad):
        if done == 5:
            for others in (records[:3], records[::-1]):  # other scans; the same with other numbers
                with pytest.raises(TreeError, match="is still coming or was interrupted"):
                    build_cache(others, phantom_tree, WINDOW, url, progress=note)

    build_cache(records, phantom_tree, WINDOW, url, shard_bytes=4 * ONE, progress=begin_another)
    assert seen == []
    there = open_cache(url, kept=tmp_path / "kept")
    assert all(map(np.array_equal, there, open_cache(local)))
    assert not [path for path in list_tokens(url) if "part-" in path]


def test_of_builds_that_begin_in_one_moment_the_one_noted_last_goes_on(phantom_tree, tmp_path):
    url, records = "memory://one-moment/cache", read_manifest(phantom_tree)
    key = "/one-moment/cache/publishing.json"
    filesystem, _ = open_filesystem(url)

    def note_another(done, total, bad):
        filesystem.pipe_file(key, b"another")

    with pytest.raises(TreeError, match="which is still coming"):
        build_cache(records, phantom_tree, WINDOW, url, progress=note_another)
    with pytest.raises(TreeError, match="no cache here"):
        open_cache(url, kept=tmp_path / "kept")
    filesystem.rm(key)
    build_cache(records[:3], phantom_tree, WINDOW, url)
    left = {path for path in list_tokens(url) if not path.startswith("shard-")}
    assert left == {"entries.arrow", "index.json", "quarantine.jsonl", "publishing.json"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_build_that_ends_because_too_much_is_bad_leaves_its_place_to_others(
    scheme, servers, storage, phantom_tree, tmp_path
):
    servers.fill(scheme, {"eyes/made/of": b"a bucket"})
    storage(scheme)
    url, bad = f"{scheme}://eyes/mended", ScanRecord(path="nobody/4007.dcm")
    with pytest.raises(TreeError, match="1 of 1 scans cannot be used"):
        build_cache([bad], phantom_tree, WINDOW, url)
    assert list_tokens(url) == {}
    assert len(build_cache(read_manifest(phantom_tree)[:1], phantom_tree, WINDOW, url).entries) == 1


def test_parts_of_an_interrupted_build_are_asked_for_together(servers, storage):
    servers.fill("s3", {"eyes/made/of": b"a bucket"})
    proxy = storage("s3")
    plan = Plan(
        records=tuple(ScanRecord(path=f"{number}.dcm") for number in range(40)),
        sources=tuple(map(str, range(40))),
        root="nowhere",
        window=WINDOW,
        part_scans=1,
        parts="s3://eyes/asked-for",
    )
    folder, seen = PartFolder(plan.parts), []
    for number in (3, 30):
        refused = Refused("decode", "cut off")
        scans = plan.scans_of(number)
        folder.write(number, *make_part(plan.records[scans], plan.sources[scans], [refused]))
    proxy.latency_s = 0.3
    began = time.monotonic()
    missing = find_missing(plan, folder, lambda *done: seen.append(done))
    assert time.monotonic() - began < 40 * proxy.latency_s / 2
    assert missing == [n for n in range(40) if n not in (3, 30)]
    ((scans, refusals),) = seen
    assert (scans, len(refusals)) == (2, 2)
