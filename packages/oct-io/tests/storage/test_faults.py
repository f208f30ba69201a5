import time

import pytest
from oct_io import ScanError, Window, build_cache, read_manifest
from oct_io.catalog.headers import read_headers
from oct_io.scan.header import ScanHeader
from oct_io.storage.files import read_bytes, walk_files

WINDOW = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))
QUICK = {"read_timeout_s": 1.5, "tries": 10}
SEED = 17  # one with which the few requests of a small data set meet every fault
ALL = ("reset", "delay", "truncate", "shorten", "busy")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Tests wait less than people; how often they wait stays."""
    monkeypatch.setattr("oct_io.storage.transport.FIRST_WAIT_S", 0.02)


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.u8")}


def test_a_cache_built_through_a_bad_network_has_the_same_bytes(
    stores, storage, phantom_tree, tmp_path
):
    local = build_cache(read_manifest(phantom_tree), phantom_tree, WINDOW, tmp_path / "local")
    proxy = storage("s3", faults=ALL, seed=SEED, delay_s=2.0, config=QUICK)
    root = "s3://eyes/data"
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}"
        index = build_cache(read_manifest(root), root, WINDOW, out, jobs=jobs)
        assert (index.fingerprint, index.refused) == (local.fingerprint, 0)
        assert shards(out) == shards(tmp_path / "local")
    spoilt = [one.fault for one in proxy.requests if one.fault]
    assert set(spoilt) == set(ALL)
    assert 0.1 < len(spoilt) / len(proxy.requests) < 0.35


def test_headers_arrive_through_a_bad_network(stores, storage):
    proxy = storage("s3", faults=ALL, seed=1, delay_s=2.0, config=QUICK)
    paths = list(walk_files("s3://eyes/many", ".dcm"))[:60]
    assert all(isinstance(one, ScanHeader) for one in read_headers("s3://eyes/many", paths))
    assert len(proxy.gets()) > 60


@pytest.mark.parametrize("fault", ALL)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_each_fault_ends_in_right_bytes_or_in_one_line(scheme, fault, stores, storage, large_scans):
    config = {**QUICK, "read_timeout_s": 0.3, "tries": 3}
    storage(scheme, faults=(fault,), fraction=0.5, seed=2, delay_s=0.6, config=config)
    for number in range(4):
        url = f"{scheme}://eyes/many/{number:03}.dcm"
        found = read_or_error(url)
        if isinstance(found, ScanError):
            assert (found.stage, "transport failed" in found.reason) == ("fetch", True)
        else:
            assert found == large_scans[number % 4]


def read_or_error(url):
    try:
        return read_bytes(url)
    except ScanError as error:
        return error


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_that_always_fails_is_asked_as_often_as_was_said(scheme, stores, storage):
    for fault in ("busy", "shorten"):
        proxy = storage(scheme, faults=(fault,), fraction=1.0, config={"tries": 3})
        with pytest.raises(ScanError, match="transport failed") as error:
            read_bytes(f"{scheme}://eyes/many/000.dcm")
        assert len(proxy.requests) == 3
        assert ("503" in error.value.reason) == (fault == "busy")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_that_never_stops_sending_is_left_in_time(scheme, stores, storage):
    config = {**QUICK, "give_up_s": 1.5, "tries": 3}
    storage(scheme, bytes_per_s=4_000, config=config)  # bytes come, so no read times out
    started = time.monotonic()
    with pytest.raises(ScanError, match="transport failed"):
        read_bytes(f"{scheme}://eyes/many/000.dcm")
    assert time.monotonic() - started < 40, "all of it would take over a minute"


def test_nobody_at_the_address_is_said_in_time(storage, stores):
    proxy = storage("s3", config={"connect_timeout_s": 60.0, "read_timeout_s": 60.0, "tries": 2})
    proxy.close()
    started = time.monotonic()
    with pytest.raises(ScanError, match="transport failed"):
        read_bytes("s3://eyes/many/000.dcm")
    assert time.monotonic() - started < 40, "less than one of its time limits"
