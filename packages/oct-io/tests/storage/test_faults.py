import errno
import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from oct_io import ScanError, TreeError, Window, build_cache, read_manifest
from oct_io.catalog.headers import read_headers
from oct_io.cli import main
from oct_io.errors import StoreError
from oct_io.quarantine import QUARANTINE, read_quarantine, refuse, write_quarantine
from oct_io.readers.arrays import peek_npz
from oct_io.readers.stacks import is_stack
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.storage.buckets import StorageConfig, using_storage
from oct_io.storage.files import exists, list_tokens, read_bytes

WINDOW = Window(name="test", extent_mm=(4.0, 0.15, 4.0), shape=(4, 16, 12))
ONE_SCAN = 4 * 16 * 12
QUICK = {"read_timeout_s": 1.5, "give_up_s": 60.0}
SEED = 1  # one with which the few requests of a small data set meet every fault
ALL = ("reset", "delay", "truncate", "shorten", "busy")
SCHEMES = ("s3", "gs")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Tests wait less than people; how often they wait stays."""
    monkeypatch.setattr("oct_io.storage.outages.FIRST_WAIT_S", 0.02)


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.u8")}


def build(records, root, out, **changes):
    return build_cache(records, root, WINDOW, out, shard_bytes=4 * ONE_SCAN, **changes)


@pytest.fixture(scope="module")
def undisturbed(phantom_tree, tmp_path_factory):
    """The cache that every build of the 12 scans must give."""
    out = tmp_path_factory.mktemp("undisturbed") / "cache"
    build(read_manifest(phantom_tree), phantom_tree, out)
    return shards(out)


def test_a_cache_built_through_a_bad_network_has_the_same_bytes(
    stores, storage, undisturbed, tmp_path
):
    proxy = storage("s3", faults=ALL, seed=SEED, delay_s=2.0, config=QUICK)
    root = "s3://eyes/data"
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}"
        index = build(read_manifest(root), root, out, jobs=jobs)
        assert (index.refused, shards(out)) == (0, undisturbed)
    spoilt = [one.fault for one in proxy.requests if one.fault]
    assert set(spoilt) == set(ALL)
    assert 0.1 < len(spoilt) / len(proxy.requests) < 0.35


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_port_that_closes_in_the_middle_of_a_build_costs_no_scan(
    scheme, stores, storage, undisturbed, tmp_path
):
    proxy = storage(scheme, config=QUICK)
    root = f"{scheme}://eyes/data"
    records = read_manifest(root)
    proxy.fail_later(4, seconds=1.5)
    index = build(records, root, tmp_path / "cache")
    assert (index.refused, shards(tmp_path / "cache")) == (0, undisturbed)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.drill)])
def test_a_port_that_stays_closed_stops_the_build_which_goes_on_later(
    jobs, stores, storage, undisturbed, tmp_path
):
    # The worker that is refused must wait for longer than the other takes for what it has.
    proxy = storage("s3", config={**QUICK, "give_up_s": 8.0 if jobs > 1 else 1.0})
    records = read_manifest("s3://eyes/data")
    parts = ".cache.building/parts/*.json"
    # Two workers have at most two parts of four unfinished, so that of nine requests one is whole.
    proxy.fail_later(9, once=lambda: any(tmp_path.glob(parts)))
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"out of reach for .* the same command again") as error:
        build(records, "s3://eyes/data", tmp_path / "cache", jobs=jobs)
    assert time.monotonic() - started < 60
    assert "\n" not in str(error.value)
    assert ".dcm" not in str(error.value)
    kept = sorted(tmp_path.glob(parts))
    assert kept
    proxy.open()
    proxy.clear()
    index = build(records, "s3://eyes/data", tmp_path / "cache")
    assert (index.refused, shards(tmp_path / "cache")) == (0, undisturbed)
    assert len(proxy.gets()) <= 12 - 4 * len(kept) + jobs  # a cut connection is asked again


@pytest.mark.parametrize("fault", ["reset", "busy"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_parts_in_a_bucket_are_written_and_read_through_a_bad_network(
    scheme, fault, stores, storage, undisturbed, phantom_tree, tmp_path
):
    proxy = storage(scheme, faults=(fault,), fraction=0.3, seed=3, config=QUICK)
    parts = f"{scheme}://eyes/parts-{fault}"
    build(read_manifest(phantom_tree), phantom_tree, tmp_path / "cache", parts=parts)
    assert shards(tmp_path / "cache") == undisturbed
    assert not exists(parts)
    assert any(one.fault for one in proxy.requests)


def test_parts_out_of_reach_are_one_line_of_the_command(
    stores, storage, phantom_tree, tmp_path, capsys
):
    proxy = storage("s3", config={"first_answer_s": 0.5, "give_up_s": 5.0})
    proxy.shut()
    wanted = [str(phantom_tree), str(tmp_path / "cache"), "--window", "tiny", "--jobs", "1"]
    assert main(["cache", *wanted, "--parts", "s3://eyes/none"]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("oct-io:")]
    assert f"s3://eyes at {proxy.url}: out of reach for" in line
    assert "storage.endpoint_url" in line


def test_refusals_that_older_versions_wrote_for_an_outage_are_forgotten(phantom_tree, tmp_path):
    records = read_manifest(phantom_tree)
    out = tmp_path / "cache"
    first = build(records, phantom_tree, out)
    shown = [
        refuse(record.key, record.path, "fetch", reason, source=entry.source)
        for record, entry, reason in zip(
            records, first.entries, ("transport failed (EndpointConnectionError)",), strict=False
        )
    ]
    write_quarantine(out / QUARANTINE, shown)
    seen = []
    build(records, phantom_tree, out, progress=lambda *state: seen.append(state))
    assert seen, "the cache was built again"
    assert read_quarantine(out / QUARANTINE) == ()


def test_a_missing_file_is_a_fact_and_stays_refused(phantom_tree, tmp_path):
    records = read_manifest(phantom_tree)
    records[0] = replace(records[0], path="absent.dcm")
    first = build(records, phantom_tree, tmp_path / "cache")
    seen = []
    second = build(records, phantom_tree, tmp_path / "cache", progress=lambda *s: seen.append(s))
    assert (first.refused, second, seen) == (1, first, [])


def test_headers_arrive_through_a_bad_network(stores, storage):
    proxy = storage("s3", faults=ALL, seed=1, delay_s=2.0, config=QUICK)
    paths = list(list_tokens("s3://eyes/many"))[:60]
    assert all(isinstance(one, ScanHeader) for one in read_headers("s3://eyes/many", paths))
    assert len(proxy.gets()) > 60


@pytest.mark.parametrize("fault", ALL)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_fault_ends_in_right_bytes(scheme, fault, stores, storage, large_scans):
    config = {**QUICK, "read_timeout_s": 0.3}
    storage(scheme, faults=(fault,), fraction=0.5, seed=2, delay_s=0.6, config=config)
    for number in range(4):
        assert read_bytes(f"{scheme}://eyes/many/{number:03}.dcm") == large_scans[number % 4]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("fault", ["busy", "shorten"])
def test_a_store_that_always_fails_is_an_outage_and_no_fact_about_a_scan(
    scheme, fault, stores, storage
):
    storage(scheme, faults=(fault,), fraction=1.0, config={"give_up_s": 0.6})
    with pytest.raises(StoreError, match="out of reach for") as error:
        read_bytes(f"{scheme}://eyes/many/000.dcm")
    assert ("503" in str(error.value)) == (fault == "busy")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_store_that_never_stops_sending_is_left_in_time(scheme, stores, storage):
    config = {**QUICK, "give_up_s": 1.5}
    storage(scheme, bytes_per_s=4_000, config=config)  # bytes come, so no read times out
    started = time.monotonic()
    with pytest.raises(StoreError, match="out of reach"):
        read_bytes(f"{scheme}://eyes/many/000.dcm")
    assert time.monotonic() - started < 20, "all of it would take over a minute"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_store_that_never_answers_is_said_while_it_is_waited_for_and_left_in_time(
    scheme, stores, storage, monkeypatch, caplog
):
    monkeypatch.setattr("oct_io.storage.outages.SPEAK_S", 1.0)
    proxy = storage(scheme, faults=("silent",), fraction=1.0, config={"first_answer_s": 3.0})
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"out of reach for \d s \(no answer\), and it never"):
        read_bytes(f"{scheme}://eyes/many/000.dcm")
    assert time.monotonic() - started < 20
    (said,) = caplog.messages
    assert f"waiting for {scheme}://eyes at {proxy.url}" in said


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("fault", ["redirect", "circle"])
def test_a_redirect_is_named_at_once(scheme, fault, stores, storage):
    proxy = storage(scheme, faults=(fault,), fraction=1.0)
    for ask in (read_bytes, exists):
        with pytest.raises(StoreError, match=r"the store redirects; set storage\.endpoint_url"):
            ask(f"{scheme}://eyes/many/000.dcm")
    assert len(proxy.requests) < 100


@pytest.mark.parametrize("code", ["ExpiredToken", "AuthorizationHeaderMalformed"])
def test_a_key_or_region_that_is_wrong_for_all_is_no_fact_about_one(
    code, servers, stores, storage, monkeypatch
):
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    monkeypatch.setattr(servers, "FORBIDDEN", body)
    storage("s3", faults=("forbid",), fraction=1.0)
    with pytest.raises(StoreError, match=code):
        read_bytes("s3://eyes/many/000.dcm")


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"old" * 1000)
    states = []

    def fstat(handle, real=os.fstat):
        if len(states) == 1:  # after the first look at it
            path.write_bytes(b"new" * 1000)
        states.append(real(handle))
        return states[-1]

    monkeypatch.setattr("oct_io.storage.transport.os.fstat", fstat)
    assert read_bytes(path) == b"new" * 1000
    assert len(states) >= 4


def test_who_was_given_up_on_is_asked_once_more_and_heard_when_it_is_back(stores, storage):
    proxy = storage("s3", config={**QUICK, "give_up_s": 6.0})
    assert exists("s3://eyes/many")
    proxy.shut()
    with pytest.raises(StoreError):
        read_bytes("s3://eyes/many/000.dcm")
    started = time.monotonic()
    with pytest.raises(TreeError):
        exists("s3://eyes/many")
    assert time.monotonic() - started < 15
    proxy.open()
    assert exists("s3://eyes/many")
    proxy.shut()
    threading.Timer(1.0, proxy.open).start()
    assert exists("s3://eyes/many"), "its patience is back"


def test_no_such_file_is_still_said_of_one_scan(stores, storage):
    proxy = storage("s3")
    with pytest.raises(ScanError, match="no such file"):
        read_bytes("s3://eyes/many/none.dcm")
    assert len(proxy.requests) == 1


def test_a_bad_sector_is_a_fact_and_a_lost_network_disk_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("oct_io.storage.outages.DISK_S", 0.1)
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"x")
    spoilt, fstat = path.stat().st_ino, os.fstat
    for number, expected in ((errno.EIO, ScanError), (errno.ESTALE, StoreError)):

        def fail(handle, number=number):
            found = fstat(handle)
            if found.st_ino == spoilt:
                raise OSError(number, os.strerror(number))
            return found

        monkeypatch.setattr("oct_io.storage.transport.os.fstat", fail)
        with using_storage(StorageConfig(give_up_s=1.0)), pytest.raises(expected):
            read_bytes(path)


@pytest.mark.parametrize(("ending", "look"), [(".npz", peek_npz), (".tif", is_stack)])
def test_a_disk_lost_while_a_scan_is_looked_into_is_no_fact_about_the_scan(
    ending, look, tmp_path, monkeypatch
):
    monkeypatch.setattr("oct_io.storage.outages.DISK_S", 0.1)
    path = tmp_path / f"scan{ending}"
    voxels = np.random.default_rng(0).integers(0, 256, (8, 256, 256), dtype=np.uint8)
    np.savez(path, voxels) if ending == ".npz" else tifffile.imwrite(path, voxels)
    lost, fstat = path.stat().st_ino, os.fstat

    def fail(handle):
        found = fstat(handle)
        if found.st_ino == lost:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return found

    monkeypatch.setattr("oct_io.storage.transport.os.fstat", fail)
    with using_storage(StorageConfig(give_up_s=1.0)), pytest.raises(StoreError):
        look(ScanFile(url=str(path)))


def test_readers_that_nobody_waits_for_end_although_the_store_is_away(stores, storage):
    proxy = storage("s3", config={"give_up_s": 300.0})
    paths = list(list_tokens("s3://eyes/many"))
    some = read_headers("s3://eyes/many", paths, concurrency=4)
    next(some)
    proxy.shut()
    time.sleep(0.5)
    readers = [one for one in threading.enumerate() if one.name.startswith("oct-io-header")]
    assert readers
    some.close()
    for one in readers:
        one.join(10)
    assert not any(one.is_alive() for one in readers)
