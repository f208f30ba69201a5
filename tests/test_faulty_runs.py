"""Runs whose folder lies in a bucket behind a network that breaks: they end as on a disk."""

import importlib.util
import sys
from pathlib import Path

import fsspec
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "packages/oct-xla/tests"))
from afar import train
from buckets import options_of, serve
from oct_xla import read_rows
from oct_xla.errors import OctXlaError
from oct_xla.folder import lease
from oct_xla.folder.remote import working_folder

SERVERS = Path(__file__).parent.parent / "packages/oct-io/tests/servers.py"
SPEC = importlib.util.spec_from_file_location("faulty_servers", SERVERS)
servers = importlib.util.module_from_spec(SPEC)
sys.modules["faulty_servers"] = servers  # where pytest looks assertions up
SPEC.loader.exec_module(servers)

pytest.importorskip("moto")
pytestmark = [pytest.mark.drill, pytest.mark.filterwarnings("ignore")]  # of botocore and aiohttp


@pytest.fixture(scope="module")
def ports():
    with serve() as ports:
        yield ports


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Losses of a run on a disk, stopped and taken up as those in buckets are."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, steps=8)
    train(folder)
    return losses(folder)


def losses(folder):
    return [(row["step"], row["loss"]) for row in read_rows(folder / "metrics.jsonl")]


@pytest.fixture
def lossy(monkeypatch):
    """`lossy(scheme, port, fault, seed)` spoils three of ten requests from now on."""
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "SILENT_S", 1.5)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    proxies = []

    def start(scheme, port, fault, seed):
        proxy = servers.Proxy(
            f"127.0.0.1:{port}", faults=(fault,), fraction=0.3, seed=seed, delay_s=0.5
        )
        proxies.append(proxy)
        monkeypatch.setitem(fsspec.config.conf, scheme, options_of(scheme, proxy.port))
        return proxy

    yield start
    for proxy in proxies:
        proxy.shut()


def until_it_ends(url, most, **options):
    """Train as somebody does who gives the same command again; returns what was told."""
    told = []
    for _ in range(most):
        try:
            train(url, **options)
            return told
        except OctXlaError as error:
            told.append(str(error))
    raise AssertionError(told)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fault", ["reset", "delay", "truncate", "busy", "shorten"])
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_run_ends_as_on_a_disk_though_the_network_breaks_and_the_disk_is_lost(
    scheme, fault, seed, ports, lossy, whole, tmp_path, monkeypatch
):
    proxy = lossy(scheme, ports[scheme], fault, seed)
    url = f"{scheme}://runs/{fault}-{seed}"
    # An answer whose length is right and whose end lacks may come five times in a row.
    most = 4 if fault == "shorten" else 1
    for disk, steps in (("first", 8), ("second", 12)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / disk))
        told = until_it_ends(url, most, steps=steps)
        assert not any("\n" in line for line in told)
    assert losses(working_folder(url)) == whole
    assert sum(one.fault == fault for one in proxy.requests) > 3
