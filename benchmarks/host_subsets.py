"""What do hosts read from a bucket whose disks hold their share, undivided and in `feed.subsets`?

A cache of 40 volumes of 1.2 MB lies in a bucket, by moto's S3 API, before which a proxy counts
bytes. Four hosts, one after the other, read five epochs of their samples, each with a disk for its
index and a quarter of the volumes. Beside it, by arithmetic on the order of the feed, 64 hosts with
disks for a 64th of 64,000 samples each: what is asked for and not kept, who comes first stays.

    python benchmarks/host_subsets.py
"""

import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import oct_io
import torch
from bucket_shards import Volumes, load_servers, make_cache
from oct_io.cache.publishing import publish_cache
from oct_io.storage.buckets import StorageConfig, using_storage
from oct_xla import Feed, FeedConfig
from writing import write_results

HOSTS, BATCH, EPOCHS = 4, 8, 5
MANY, SAMPLES, LARGE_BATCH = 64, 64_000, 2048
URL = "s3://eyes/cache"


def read_by_hosts(servers: Any, here: oct_io.CachedVolumes, place: Path, subsets: int) -> Any:
    """Bytes read over those of the data in each epoch, and the most that a disk holds."""
    size = here.index.record_bytes * len(here)
    index = sum(one.stat().st_size for one in here.folder.iterdir() if one.suffix != ".u8")
    kept_gb = (index + 1000 + size / HOSTS) / 1e9
    shares: list[float] = []
    with (
        servers.Proxy(servers.places["s3"]) as proxy,
        using_storage(StorageConfig(endpoint_url=proxy.url, read_timeout_s=300.0)),
    ):
        feeds = []
        for host in range(HOSTS):
            volumes = oct_io.open_cache(URL, kept=place / f"{host}", kept_gb=kept_gb)
            config = FeedConfig(batch_size=BATCH, subsets=subsets)
            feeds.append(Feed(Volumes(volumes), len(volumes), config))
        steps = feeds[0].steps_per_epoch
        for epoch in range(EPOCHS):
            proxy.clear()
            for host, feed in enumerate(feeds):
                batches = feed.batches(epoch * steps, rank=host, world=HOSTS)
                for _ in islice(batches, steps):
                    pass
            sent = sum(one.size for one in proxy.requests if one.path.endswith(".u8"))
            shares.append(round(sent / size, 3))
    held = max(
        sum(one.stat().st_size for one in (place / f"{host}").rglob("*") if one.is_file())
        for host in range(HOSTS)
    )
    return {"read_by_epoch": shares, "most_on_a_disk": held, "bound": int(kept_gb * 1e9)}


def count_of_many(subsets: int) -> list[float]:
    """Share of its samples that a host, of 64, fetches in each epoch: the mean of four of them."""
    feed = Feed(
        lambda index, epoch: index, SAMPLES, FeedConfig(batch_size=LARGE_BATCH, subsets=subsets)
    )
    places, fetched = SAMPLES // MANY, [0] * EPOCHS
    asked = feed.steps_per_epoch * LARGE_BATCH // MANY
    hosts = (0, 21, 42, 63)
    for host in hosts:
        kept: set[int] = set()
        walk = feed.keys(0, rank=host, world=MANY)
        for epoch in range(EPOCHS):
            for keys in islice(walk, feed.steps_per_epoch):
                for index, _ in keys:
                    if index not in kept:
                        fetched[epoch] += 1
                        if len(kept) < places:
                            kept.add(index)
    return [round(one / asked / len(hosts), 3) for one in fetched]


def main() -> None:
    """Measure, print and write down."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
    torch.set_num_threads(1)
    servers = load_servers()
    with tempfile.TemporaryDirectory() as name, servers.serve() as places:
        here = make_cache(Path(name))
        servers.places.update(places)
        servers.fill("s3", {"eyes/made/of": b"a bucket"})
        with using_storage(StorageConfig(endpoint_url=f"http://{places['s3']}")):
            publish_cache(Path(name) / "cache", URL)
        facts = {
            "volumes": len(here),
            "hosts": HOSTS,
            "undivided": read_by_hosts(servers, here, Path(name) / "undivided", 1),
            "in subsets": read_by_hosts(servers, here, Path(name) / "subsets", HOSTS),
            "64 hosts, by arithmetic": {
                "samples": SAMPLES,
                "undivided": count_of_many(1),
                "in subsets": count_of_many(MANY),
            },
        }
    for key, value in facts.items():
        print(f"{key}: {value}", flush=True)
    write_results("host_subsets", ("oct-io", "oct-xla", "s3fs", "moto"), facts)


if __name__ == "__main__":
    main()
