import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from oct_io import ScanError, Window, build_cache, read_manifest, read_volume
from oct_io.catalog.headers import read_headers
from oct_io.errors import StoreError
from oct_io.readers.registry import read_header
from oct_io.scan.header import ScanHeader
from oct_io.source import SourceConfig, open_source
from oct_io.storage.buckets import (
    StorageConfig,
    configure_storage,
    current_storage,
    open_filesystem,
    using_storage,
)
from oct_io.storage.files import (
    change_tokens,
    exists,
    is_folder,
    list_tokens,
    read_bytes,
    read_head,
    read_range,
)
from oct_io.storage.verdicts import is_passing, passes

WINDOW = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))
SCHEMES = ("s3", "gs")
SCANS, DISTINCT = 200, 4  # of the fixture `stores`


@pytest.fixture(params=SCHEMES)
def scheme(request, stores):
    return request.param


def test_a_header_scan_of_200_files_takes_one_small_request_each(scheme, storage):
    proxy = storage(scheme)
    root = f"{scheme}://eyes/many"
    paths = [path for path in list_tokens(root) if path.endswith(".dcm")]
    assert len(paths) == SCANS
    proxy.clear()
    seen = []
    headers = list(read_headers(root, paths, progress=lambda *state: seen.append(state)))
    assert all(isinstance(one, ScanHeader) for one in headers)
    assert len(proxy.requests) == SCANS
    assert len({one.path for one in proxy.requests}) == SCANS
    assert max(one.size for one in proxy.requests) < 300_000
    assert seen == [(number + 1, SCANS) for number in range(SCANS)]
    uids = [one.sop_instance_uid for one in headers]
    assert uids == uids[:DISTINCT] * (SCANS // DISTINCT)  # in the order that was asked for


def test_headers_come_in_order_with_their_errors_and_stop_when_nobody_asks(scheme, storage):
    proxy = storage(scheme)
    root = f"{scheme}://eyes"
    first, missing, empty = read_headers(
        root, ["many/000.dcm", "many/none.dcm", "other/empty.dcm"], concurrency=2
    )
    assert first.shape == (12, 160, 144)
    assert (missing.stage, missing.reason) == ("fetch", "no such file")
    assert empty.stage == "parse"
    assert "empty" in empty.reason
    proxy.clear()
    some = read_headers(root, [f"many/{n:03}.dcm" for n in range(SCANS)], concurrency=2)
    next(some)
    some.close()
    assert len(proxy.requests) < 20


def test_a_whole_read_is_one_request(scheme, storage, large_scans):
    proxy = storage(scheme)
    assert read_bytes(f"{scheme}://eyes/many/001.dcm") == large_scans[1]
    assert read_volume(f"{scheme}://eyes/many/001.dcm").voxels.shape == (12, 160, 144)
    assert [one.size for one in proxy.requests] == [len(large_scans[1])] * 2


def test_a_part_of_a_file_is_one_request_and_ends_where_the_file_ends(scheme, storage):
    proxy = storage(scheme)
    url = f"{scheme}://eyes/many/000.dcm"
    content = read_bytes(url)
    size = len(content)
    proxy.clear()
    assert read_head(url, 132)[128:] == b"DICM"
    assert read_range(url, size - 5, size + 5) == content[-5:]
    assert read_range(url, size, size + 5) == b""
    assert [one.size for one in proxy.gets()][:2] == [132, 5]
    assert len(proxy.requests) == 3


def test_an_empty_file_is_empty_and_a_missing_one_is_asked_for_once(scheme, storage):
    proxy = storage(scheme)
    assert read_bytes(f"{scheme}://eyes/other/empty.dcm") == b""
    proxy.clear()
    for missing in ("none.dcm", "other"):
        with pytest.raises(ScanError, match="fetch: no such file"):
            read_bytes(f"{scheme}://eyes/{missing}")
    assert len(proxy.requests) == 2


def test_a_file_that_is_too_large_is_refused_before_it_is_fetched(scheme, storage, monkeypatch):
    proxy = storage(scheme, bytes_per_s=200_000)  # all of it would take two seconds
    monkeypatch.setattr("oct_io.storage.files.MAX_FILE_BYTES", 100_000)
    with pytest.raises(ScanError, match="bytes, more than 100,000"):
        read_bytes(f"{scheme}://eyes/many/000.dcm")
    assert len(proxy.requests) == 1


def test_folders_are_told_from_files_and_from_nothing(scheme, storage):
    storage(scheme)
    root = f"{scheme}://eyes"
    places = ("", "/many", "/many/000.dcm", "/none")
    assert [exists(root + one) for one in places] == [True, True, True, False]
    assert [is_folder(root + one) for one in places] == [True, True, False, False]
    assert not exists(f"{scheme}://nobodys-bucket")
    tokens = change_tokens(root, ["many/000.dcm", "many/001.dcm", "many/004.dcm", "many/x.dcm"])
    assert tokens["many/x.dcm"] == "absent"
    assert tokens["many/000.dcm"] != tokens["many/001.dcm"]


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.u8")}


def test_a_cache_built_from_a_bucket_by_workers_has_the_bytes_of_the_local_one(
    scheme, storage, phantom_tree, tmp_path
):
    local = build_cache(read_manifest(phantom_tree), phantom_tree, WINDOW, tmp_path / "local")
    root = f"{scheme}://eyes/data"
    storage(scheme)
    records = read_manifest(root)
    # A proxy of its own: to ask whether a file is there, gcsfs sends two questions at once and
    # leaves as soon as one is answered; the other may reach the proxy after all else.
    proxy = storage(scheme)
    index = build_cache(records, root, WINDOW, tmp_path / scheme, jobs=2)
    assert index.fingerprint == local.fingerprint
    assert [replace(one, source="") for one in index.entries] == [
        replace(one, source="") for one in local.entries
    ]  # the source is an entity tag there, a time here
    assert shards(tmp_path / scheme) == shards(tmp_path / "local")
    names = [one.path.rsplit("/", 1)[-1] for one in proxy.gets()]
    assert len(names) == len(set(names)) == len(records) == 12
    assert {one.span is not None for one in proxy.gets()} == {True}


def test_a_cache_of_a_bucket_notices_a_changed_file(stores, storage, phantom_tree, tmp_path):
    storage("s3")
    files = sorted(phantom_tree.rglob("*.dcm"))
    stores.fill("s3", {f"eyes/changing/{n}.dcm": files[n].read_bytes() for n in range(2)})
    root = "s3://eyes/changing"
    first = build_cache(read_manifest(root), root, WINDOW, tmp_path / "cache")
    stores.fill("s3", {"eyes/changing/0.dcm": files[2].read_bytes()})
    second = build_cache(read_manifest(root), root, WINDOW, tmp_path / "cache")
    assert second.fingerprint != first.fingerprint


FORKED = """
import hashlib, multiprocessing, sys, warnings
from oct_io.storage.buckets import StorageConfig, configure_storage, current_storage
from oct_io.storage.buckets import open_filesystem
from oct_io.storage.files import read_bytes

PLACES = dict(zip(sys.argv[1::2], sys.argv[2::2]))


def digest(url):
    options = {"token": "anon"} if url.startswith("gs") else {}
    options["endpoint_url"] = PLACES[url]
    return hashlib.sha256(read_bytes(url, storage_options=options)).hexdigest()


if __name__ == "__main__":
    warnings.simplefilter("error")
    configure_storage(StorageConfig(give_up_s=120))
    expected = {url: digest(url) for url in PLACES}  # sessions, sockets and thread are in use
    for method in ("fork", "spawn"):
        if method == "fork":  # Python 3.12 warns of what this test is about
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        context = multiprocessing.get_context(method)
        with context.Pool(2, initializer=configure_storage, initargs=(current_storage(),)) as pool:
            found = pool.map(digest, [*PLACES] * 5, chunksize=1)
            pool.close()
            pool.join()
        assert found == [*expected.values()] * 5, method
    assert {url: digest(url) for url in PLACES} == expected
    print("done")
"""


def test_what_a_parent_opened_works_in_forked_and_spawned_workers(stores, storage, tmp_path):
    proxies = {f"{scheme}://eyes/many/000.dcm": storage(scheme) for scheme in SCHEMES}
    script = tmp_path / "workers.py"
    script.write_text(FORKED)
    places = [text for url, proxy in proxies.items() for text in (url, proxy.url)]
    done = subprocess.run(
        [sys.executable, script, *places], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "done\n", done.stderr
    assert done.stderr == ""
    for proxy in proxies.values():
        assert len(proxy.requests) == 1 + 5 + 5 + 1


def test_threads_share_the_filesystem_of_their_process(stores, storage):
    storage("s3")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: open_filesystem("s3://eyes")[0], range(8)))
    assert len({id(one) for one in made}) == 1
    with using_storage(StorageConfig(endpoint_url="http://127.0.0.1:9")):
        assert open_filesystem("s3://eyes")[0] is not made[0]


def test_the_address_of_the_store_may_come_from_the_environment_or_the_caller(
    stores, monkeypatch, large_scans
):
    place = f"http://{stores.places['s3']}"
    url = "s3://eyes/many/000.dcm"
    assert read_bytes(url, storage_options={"endpoint_url": place}) == large_scans[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", place)
    with using_storage(StorageConfig()):
        assert read_bytes(url) == large_scans[0]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{stores.places['gs']}")
    with using_storage(StorageConfig(anonymous=True)):
        assert read_bytes("gs://eyes/many/001.dcm") == large_scans[1]


def test_what_backblaze_b2_needs_is_what_the_client_does(stores, storage):
    storage("s3", config={"region": "us-west-004", "connections": 7, "read_timeout_s": 9.0})
    filesystem, _ = open_filesystem("s3://eyes")
    filesystem.connect()
    asked = filesystem.s3.meta.config
    assert asked.request_checksum_calculation == "when_required"
    assert asked.response_checksum_validation == "when_required"
    assert (asked.max_pool_connections, asked.read_timeout) == (7, 9.0)
    assert asked.retries["total_max_attempts"] == 3
    assert asked.region_name == "us-west-004"


def test_no_credentials_and_no_permission_are_said_once_and_in_words(
    stores, storage, monkeypatch, tmp_path
):
    proxy = storage("s3", faults=("forbid",), fraction=1.0)
    with pytest.raises(ScanError, match="no permission to read it"):
        read_bytes("s3://eyes/many/000.dcm")
    assert len(proxy.requests) == 1
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with using_storage(StorageConfig(endpoint_url=proxy.url, region="none-yet")):
        with pytest.raises(StoreError, match=r"no credentials found; set .* AWS_ACCESS_KEY_ID"):
            read_bytes("s3://eyes/many/000.dcm")
        with pytest.raises(StoreError, match="no credentials found"):
            exists("s3://eyes/many")
    assert len(proxy.requests) == 1


def test_credentials_do_not_enter_a_configuration(capsys):
    for options in ({"key": "AKIA"}, {"client_kwargs": {"aws_secret_access_key": "shh"}}):
        with pytest.raises(ValueError, match="credentials do not belong") as error:
            StorageConfig(options=options)
        assert "AKIA" not in str(error.value)
        assert "shh" not in str(error.value)
    with pytest.raises(ValueError, match="no credentials"):
        StorageConfig(endpoint_url="https://me:shh@s3.example.org")
    assert StorageConfig(options={"token": "anon", "requester_pays": True})


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint_url": "s3.example.org"},
        {"connections": 0},
        {"first_answer_s": 0},
        {"give_up_s": 0},
        {"content_cache_gb": -1.0},
    ],
)
def test_a_setting_that_cannot_be_is_named(wrong):
    with pytest.raises(ValueError, match=f"storage.{next(iter(wrong))}"):
        StorageConfig(**wrong)


def test_a_configuration_ends_with_its_block():
    before = current_storage()
    with using_storage(StorageConfig(connections=2)):
        assert current_storage().connections == 2
    assert current_storage() == before
    configure_storage(StorageConfig(connections=3))
    assert current_storage().connections == 3
    configure_storage(None)
    assert current_storage() == StorageConfig()


def test_memory_is_read_by_this_process_even_where_workers_are_asked_for(phantom_tree, tmp_path):
    memory, _ = open_filesystem("memory://")
    for path in phantom_tree.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/data/{path.relative_to(phantom_tree)}", path.read_bytes())
    index = build_cache(
        read_manifest("memory://data"), "memory://data", WINDOW, tmp_path / "cache", jobs=2
    )
    assert (len(index.entries), index.refused) == (12, 0)
    first = next(path for path in list_tokens("memory://data") if path.endswith(".dcm"))
    assert read_header(f"memory://data/{first}").shape == (6, 48, 40)


def test_folders_pipes_and_missing_files_on_a_disk_fail_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    started = time.monotonic()
    for name, reason in (("pipe.dcm", "not a file"), ("", "not a file"), ("x", "no such file")):
        with pytest.raises(ScanError, match=f"fetch: {reason}"):
            read_bytes(tmp_path / name)
    assert time.monotonic() - started < 7, "less than the waits between tries add up to"


def test_only_what_may_pass_is_asked_again():
    assert all(is_passing(error) for error in (ConnectionResetError(), TimeoutError()))
    lasting = (FileNotFoundError(), PermissionError(), IsADirectoryError(), ValueError(), OSError())
    assert not any(is_passing(error) for error in lasting)
    assert all(map(passes, (500, 502, 503, 504, 429)))
    assert not any(map(passes, (400, 401, 403, 404, 416, 501)))


def test_a_source_says_in_its_configuration_how_its_bucket_is_reached(stores, storage, tmp_path):
    proxy = storage("s3")
    config = SourceConfig(
        root="s3://eyes/data",
        cache=str(tmp_path / "cache"),
        window="tiny",
        jobs=1,
        storage=StorageConfig(endpoint_url=proxy.url, content_cache=str(tmp_path / "kept")),
    )
    with using_storage(StorageConfig(endpoint_url="http://127.0.0.1:9", first_answer_s=1.0)):
        assert len(open_source(config).volumes) == 12
        assert current_storage() == config.storage
    fetched = len(proxy.gets())
    with using_storage(StorageConfig()):
        open_source(replace(config, cache=str(tmp_path / "other")))
    assert len(proxy.gets()) == fetched == 12
