"""Training from shards in a bucket with a tenth of the data on the disk: what it reads and costs.

A cache of 40 volumes of 1.2 MB, seven in a shard, lies on the disk and, by moto's S3 API, in a
bucket, before which a proxy counts bytes; in a second arm it answers 30 ms late. Three epochs are
read in the order of the feed, eight given to a step of 100 ms that takes no CPU. Beside it stands,
by arithmetic on that order, what other ways to keep a tenth would read: whole shards or volumes, of
which those go that were not used for longest. --keep writes results/bucket_shards.json.

    python benchmarks/bucket_shards.py --keep
"""

import argparse
import importlib.util
import math
import os
import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import oct_io
import torch
from numpy.typing import NDArray
from oct_io.cache.publishing import publish_cache
from oct_io.space.windows import find_window
from oct_io.storage.buckets import StorageConfig, using_storage
from oct_xla import Feed, FeedConfig, LoopConfig, fit, pick_runtime
from oct_xla.feeding.order import Order
from torch import Tensor, nn
from writing import write_results

SERVERS = Path(__file__).parents[1] / "packages/oct-io/tests/servers.py"
VOLUMES, WINDOW, EPOCHS, BATCH, WORKERS = 40, "32x192x192", 3, 4, 2
STEP_S, LATENCY_S, SHARE, STALLED_EPOCHS = 0.1, 0.03, 0.1, 8
SIMULATED, IN_SHARD, SIMULATED_EPOCHS = 7000, 7, 4  # 64 MB hold seven volumes of macula6


class Volumes:
    """What the feed asks for: a cached volume, said beforehand unless `alone`."""

    def __init__(self, volumes: oct_io.CachedVolumes, *, alone: bool = False) -> None:
        self.volumes, self.alone = volumes, alone

    def __call__(self, index: int, epoch: int) -> NDArray[Any]:
        """One of them."""
        del epoch
        return self.volumes[index]

    def ahead(self, keys: Sequence[tuple[int, int]]) -> None:
        """What comes next."""
        if not self.alone:
            self.volumes.ahead([index for index, _ in keys])


class Slow(nn.Module):
    """A step that takes `STEP_S` and no CPU, as on an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def loss(self, batch: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Any number."""
        time.sleep(STEP_S)
        return {"loss": self.weight * batch[0, 0, 0, 0]}


class Rows(list[dict[str, float]]):
    """Keeps what the loop tells."""

    def write(self, row: Any) -> None:
        """Keep one row."""
        self.append(dict(row))

    def close(self) -> None:
        """Nothing to finish."""


def load_servers() -> Any:
    """The module of the tests that starts the APIs."""
    spec = importlib.util.spec_from_file_location("bucket_shards_servers", SERVERS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def on_disk(folder: Path) -> int:
    """Bytes that a folder takes."""
    return sum(one.stat().st_blocks * 512 for one in folder.rglob("*"))


def stall(volumes: oct_io.CachedVolumes) -> dict[str, float]:
    """Share of a step in which the loop waited for the feed, after the epoch of the start.

    The proxy works in the process that trains, so that steps in which the machine is busy wait.
    """
    feed = Feed(Volumes(volumes), len(volumes), FeedConfig(batch_size=BATCH, workers=WORKERS))
    rows, runtime = Rows(), pick_runtime("cpu")
    loop = LoopConfig(steps=STALLED_EPOCHS * feed.steps_per_epoch, log_every=1)
    fit(Slow(), feed, loop, runtime=runtime, learning_rate=lambda step: 0.0, sinks=[rows])
    runtime.close()
    waits = [row["data_wait_fraction"] for row in rows[feed.steps_per_epoch :]]
    return {
        "median": round(statistics.median(waits), 4),
        "mean": round(statistics.mean(waits), 4),
    }


def read(volumes: oct_io.CachedVolumes, *, alone: bool = False, first_epoch: int = 0) -> float:
    """Seconds a sample in this process, one epoch in the order of the feed."""
    feed = Feed(Volumes(volumes, alone=alone), len(volumes), FeedConfig(batch_size=BATCH))
    steps = feed.steps_per_epoch
    started = time.perf_counter()
    for _ in islice(feed.batches(first_epoch * steps), steps):
        pass
    return (time.perf_counter() - started) / (steps * BATCH)


def measure(servers: Any, url: str, data_bytes: int, place: Path, latency_s: float) -> Any:
    """One arm that reads a bucket."""
    kept_gb = SHARE * data_bytes / 1e9
    with servers.Proxy(servers.places["s3"], latency_s=latency_s) as proxy:
        config = StorageConfig(endpoint_url=proxy.url, read_timeout_s=300.0)
        with using_storage(config):
            volumes = oct_io.open_cache(url, kept=place, kept_gb=kept_gb)
            seconds, shares, peak = [], [], 0
            for epoch in range(EPOCHS):
                proxy.clear()
                seconds.append(read(volumes, first_epoch=epoch))
                gets = [one for one in proxy.requests if one.path.endswith(".u8")]
                shares.append(sum(one.size for one in gets) / data_bytes)
                peak = max(peak, on_disk(place))
            return {
                "seconds a sample, by epoch": [round(one, 4) for one in seconds],
                "seconds a sample, not said beforehand": round(read(volumes, alone=True), 4),
                "bytes read over bytes of the data, by epoch": [round(one, 3) for one in shares],
                "peak bytes on the disk": peak,
                "bound": int(kept_gb * 1e9),
                "feed stall, share": stall(volumes),
            }


def simulate(records: int, orders: Iterable[Sequence[int]], size: int, shard: int) -> list[float]:
    """Share of the data read in each epoch, if what was not used for longest goes.

    Args:
        records: how many volumes there are.
        orders: which is asked for, epoch by epoch.
        size: volumes that are kept.
        shard: volumes that are fetched, kept and go together.
    """
    kept: OrderedDict[int, None] = OrderedDict()
    found = []
    for order in orders:
        fetched = 0
        for number in order:
            name = number // shard
            if name not in kept:
                fetched += shard
                kept[name] = None
                if len(kept) * shard > size:
                    kept.popitem(last=False)
            kept.move_to_end(name)
        found.append(round(fetched / records, 3))
    return found


def stay(orders: Iterable[Sequence[int]], slots: int) -> list[float]:
    """Share of the data read in each epoch as `KeptRecords` keeps it: who comes first stays."""
    kept: set[int] = set()
    found = []
    for order in orders:
        found.append(1 - len(kept.intersection(order)) / len(order))
        kept |= {*order[: slots - len(kept)]}
    return [round(one, 3) for one in found]


def alternatives() -> dict[str, Any]:
    """What other ways to keep a tenth of 7,000 volumes would read, in each epoch."""
    positions = torch.arange(SIMULATED).numpy()
    orders = [
        Order(SIMULATED, seed=0, epoch=epoch).take(positions).tolist()
        for epoch in range(SIMULATED_EPOCHS)
    ]
    tenth = SIMULATED // 10
    return {
        "volumes, of which the first that came stay": stay(orders, tenth),
        "volumes, least recently used": simulate(SIMULATED, orders, tenth, 1),
        "shards of 7, least recently used": simulate(SIMULATED, orders, tenth, IN_SHARD),
    }


def make_cache(place: Path) -> oct_io.CachedVolumes:
    """Cache some phantoms on the disk."""
    tree = oct_io.PhantomTree(participants=VOLUMES // 2, shape=(8, 48, 48), jobs=1)
    oct_io.write_phantom_tree(place / "data", tree)
    records = oct_io.read_manifest(place / "data")
    window = find_window(WINDOW)
    shard = IN_SHARD * math.prod(window.shape)
    oct_io.build_cache(records, place / "data", window, place / "cache", shard_bytes=shard)
    return oct_io.open_cache(place / "cache")


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true", help="write results/bucket_shards.json")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
    torch.set_num_threads(1)
    servers = load_servers()
    with tempfile.TemporaryDirectory() as name, servers.serve() as places:
        place = Path(name)
        here = make_cache(place)
        size = len(here) * here.index.record_bytes
        servers.places.update(places)
        servers.fill("s3", {"eyes/made/of": b"a bucket"})
        with using_storage(StorageConfig(endpoint_url=f"http://{places['s3']}")):
            publish_cache(place / "cache", "s3://eyes/cache")
        read(here)
        facts = {
            "load before, processes on cores": f"{os.getloadavg()[0]:.0f} on {os.cpu_count()}",
            "volumes": len(here),
            "bytes of the data": size,
            "batch": BATCH,
            "workers of the stall": WORKERS,
            "seconds of a step of the stall": STEP_S,
            "disk": {
                "seconds a sample": round(read(here), 4),
                "feed stall, share": stall(here),
            },
            "s3 on this machine": measure(servers, "s3://eyes/cache", size, place / "near", 0),
            "s3, 30 ms away": measure(servers, "s3://eyes/cache", size, place / "far", LATENCY_S),
            f"read of {SIMULATED:,} volumes with a tenth kept, by epoch": alternatives(),
        }
    for key, value in facts.items():
        print(f"{key}: {value}", flush=True)
    if options.keep:
        write_results("bucket_shards", ("oct-io", "oct-xla", "s3fs", "moto"), facts)


if __name__ == "__main__":
    main()
