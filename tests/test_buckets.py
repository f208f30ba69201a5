"""Training from shards in a bucket, by real S3 and GCS APIs, with a tenth of the data on disk."""

import importlib.util
import signal
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import oct_io
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "apps" / "pretrain"))

from oct_io.cache.publishing import publish_cache
from oct_io.space.transforms import AugmentConfig
from oct_io.storage.buckets import StorageConfig, using_storage
from oct_judge.candidates import RankedVolumes, iter_volumes
from oct_judge.examples import LabelledSamples, stripe
from oct_judge.finished.spoiling import SpoiltVolumes
from oct_judge.recipe import TrainingConfig
from oct_vjepa import Encoder, EncoderConfig, MaskingConfig
from oct_vjepa.objectives.configuration import JepaConfig
from oct_vjepa.objectives.registry import build_objective
from oct_xla import Feed, FeedConfig, FeedError, LoopConfig, fit, pick_runtime

SERVERS = Path(__file__).parent.parent / "packages" / "oct-io" / "tests" / "servers.py"
SPEC = importlib.util.spec_from_file_location("buckets_servers", SERVERS)
servers = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = servers
SPEC.loader.exec_module(servers)

OUTAGE = r"^feed: sample .*: StoreError: s3://eyes at http://127\.0\.0\.1.*: out of reach"
KEYS = {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
ENCODER = EncoderConfig(input_shape=(8, 64, 64), patch_size=(2, 16, 16), width=24, depth=1, heads=2)


class Losses(list):
    def write(self, row):
        self.append(row["loss"])

    def close(self):
        pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of 20 volumes on the disk."""
    place = tmp_path_factory.mktemp("cache")
    tree = oct_io.PhantomTree(participants=10, shape=(4, 40, 32), jobs=1)
    oct_io.write_phantom_tree(place / "data", tree)
    records = oct_io.read_manifest(place / "data")
    oct_io.build_cache(records, place / "data", oct_io.WINDOWS["tiny"], place / "cache")
    return place / "cache"


@pytest.fixture(scope="module")
def stores():
    """Both stores, with a bucket each."""
    with pytest.MonkeyPatch.context() as patch, servers.serve() as places:
        for name, value in {**KEYS, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        servers.places.update(places)
        for scheme in places:
            servers.fill(scheme, {"eyes/made/of": b"a bucket"})
        yield servers


@pytest.fixture
def publish(stores):
    """Puts a cache into a store, and gives its URL."""

    def publish(folder, scheme):
        with using_storage(reached(scheme, f"http://{stores.places[scheme]}")):
            publish_cache(folder, f"{scheme}://eyes/{folder.name}")
        return f"{scheme}://eyes/{folder.name}"

    return publish


def reached(scheme, address, **more):
    waits = {"read_timeout_s": 300.0} | more  # a busy machine is no bad network
    return StorageConfig(endpoint_url=address, anonymous=scheme == "gs", **waits)


def a_part(folder, share):
    """A bound in GB for a part of the volumes of a cache, its index, and a number for each."""
    index = sum(one.stat().st_size for one in folder.iterdir() if one.suffix != ".u8")
    return (index + 1000 + share * sum(one.stat().st_size for one in folder.glob("*.u8"))) / 1e9


def bytes_in(folder):
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def sent(proxy):
    """Bytes of volumes that came through a proxy."""
    return sum(one.size for one in proxy.requests if one.path.endswith(".u8"))


def make_feed(volumes, **options):
    augment = AugmentConfig(
        flip_probability=0, affine_probability=0, gamma=1, contrast=0, offset=0, roll_off=0,
        speckle=0, noise=0, dropped_bscans=0, shadow_probability=0,
    )  # fmt: skip
    # Other tests run the apps in this process and put their modules away afterwards.
    samples = importlib.import_module("samples")
    made = samples.PretrainSamples(
        volumes, range(len(volumes)), MaskingConfig(), augment=augment, encoder=ENCODER, seed=3
    )
    return Feed(made, len(volumes), FeedConfig(batch_size=4, **options))


def train(feed, epochs=3):
    """Losses of each step of a small run."""
    torch.manual_seed(0)
    objective = build_objective(Encoder(ENCODER), JepaConfig(), MaskingConfig())
    losses, runtime = Losses(), pick_runtime("cpu")
    loop = LoopConfig(steps=epochs * feed.steps_per_epoch, log_every=1)
    fit(objective, feed, loop, runtime=runtime, learning_rate=lambda step: 1e-3, sinks=[losses])
    runtime.close()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "workers"), [("s3", 2), ("gs", 0)])
def test_a_run_from_a_bucket_has_the_losses_of_one_from_the_disk(
    scheme, workers, cache, stores, publish, tmp_path
):
    url, kept_gb, epochs = publish(cache, scheme), a_part(cache, 0.1), 3
    here = oct_io.open_cache(cache)
    with (
        stores.Proxy(stores.places[scheme]) as proxy,
        using_storage(reached(scheme, proxy.url)),
    ):
        there = oct_io.open_cache(url, kept=tmp_path / "kept", kept_gb=kept_gb)
        feed = make_feed(there, workers=workers)
        losses = train(feed, epochs)
        read = sent(proxy)
    assert losses == train(make_feed(here), epochs)
    size, wanted = here.index.record_bytes, epochs * len(here)
    ahead = workers * feed.config.prefetch + 1 if workers else 0  # for steps that never come
    begun = ahead * feed.config.batch_size
    assert (wanted - 2 * epochs) * size <= read <= (wanted - 2 * (epochs - 1) + begun) * size
    assert bytes_in(tmp_path / "kept") <= kept_gb * 1e9


def test_hosts_read_each_their_own_samples_and_no_others(cache, stores, publish, tmp_path):
    url, keys = publish(cache, "s3"), []
    with stores.Proxy(stores.places["s3"]) as proxy, using_storage(reached("s3", proxy.url)):
        for rank in range(2):
            volumes = oct_io.open_cache(url, kept=tmp_path / f"{rank}")
            feed = make_feed(volumes)
            mine = islice(feed.keys(0, rank=rank, world=2), feed.steps_per_epoch)
            keys += [index for batch in mine for index, _ in batch]
            for _ in islice(feed.batches(rank=rank, world=2), feed.steps_per_epoch):
                pass
        assert len(set(keys)) == len(keys) == len(volumes)
        assert sent(proxy) == len(volumes) * volumes.index.record_bytes


@pytest.mark.parametrize("subsets", [1, 2])
def test_hosts_whose_disks_hold_their_subset_read_the_bucket_in_the_first_epoch_alone(
    subsets, cache, stores, publish, tmp_path
):
    url, read = publish(cache, "s3"), []
    with stores.Proxy(stores.places["s3"]) as proxy, using_storage(reached("s3", proxy.url)):
        hosts = [
            oct_io.open_cache(url, kept=tmp_path / f"{rank}", kept_gb=a_part(cache, 0.5))
            for rank in range(2)
        ]
        feeds = [make_feed(volumes, subsets=subsets) for volumes in hosts]
        steps = feeds[0].steps_per_epoch
        for epoch in range(3):
            proxy.clear()
            for rank, feed in enumerate(feeds):
                for _ in islice(feed.batches(epoch * steps, rank=rank, world=2), steps):
                    pass
            read.append(sent(proxy) // hosts[0].index.record_bytes)
        assert read[0] == len(hosts[0]) == 20
        # A host keeps ten. In an order of all of them it asks for half of these, more or less.
        assert read[1:] == [0, 0] if subsets == 2 else min(read[1:]) > 5
        assert all(bytes_in(tmp_path / f"{rank}") <= a_part(cache, 0.5) * 1e9 for rank in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["features", "ranks", "spoilt", "validation", "training"])
def test_an_evaluation_reads_ahead_too(reader, cache, stores, publish, tmp_path):
    url, late_s = publish(cache, "s3"), 0.5
    with stores.Proxy(stores.places["s3"]) as proxy, using_storage(reached("s3", proxy.url)):
        volumes = oct_io.open_cache(url, kept=tmp_path / "kept")
        proxy.latency_s, rows = late_s, np.arange(len(volumes))
        began, count = time.monotonic(), len(volumes)
        if reader == "features":
            read = list(iter_volumes(volumes))
        elif reader == "ranks":
            read = list(iter_volumes(RankedVolumes(volumes), rows[2:].tolist()))
            count -= 2
        elif reader == "spoilt":
            read = list(iter_volumes(SpoiltVolumes(volumes, rows, rows, "speckle", 1)))
        elif reader == "validation":
            stripes = stripe(volumes, rows, 4, pick_runtime("cpu"), ENCODER)
            read = [row for batch in stripes for row in batch.rows]
        else:
            samples = LabelledSamples(
                volumes, rows, TrainingConfig(), encoder=ENCODER, seed=0, labels=rows
            )
            feed = Feed(samples, len(volumes), FeedConfig(batch_size=10))
            read = [label for batch in islice(feed.batches(), 2) for label in batch.label_B]
        assert len(read) == count
        assert time.monotonic() - began < count * late_s, "one after the other"


def test_an_outage_is_one_line_of_the_feed(cache, stores, publish, tmp_path):
    url = publish(cache, "s3")
    with stores.Proxy(stores.places["s3"]) as proxy, using_storage(reached("s3", proxy.url)):
        volumes = oct_io.open_cache(url, kept=tmp_path / "kept")
        batches = make_feed(volumes).batches()
        next(batches)
        proxy.shut()
        impatient = using_storage(reached("s3", proxy.url, give_up_s=0.5))
        with impatient, pytest.raises(FeedError, match=OUTAGE) as end:
            next(batches)
        assert "\n" not in str(end.value)


@pytest.mark.drill
def test_an_app_that_reads_a_bucket_ends_as_one_that_reads_the_disk_though_it_was_killed(
    smoke, stores, publish, place, start, finish
):
    folder = Path(f"{smoke.data}-cache-tiny")
    url, kept, run_dir = publish(folder, "s3"), place / "bucket-kept", place / "from-bucket"
    command = (
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={smoke.data}",
        f"data.cache={url}", f"data.kept={kept}", f"data.kept_gb={a_part(folder, 0.1)}",
        f"data.storage.endpoint_url=http://{stores.places['s3']}", "feed.workers=2",
        f"probe.features={place / 'kept' / 'features'}",
    )  # fmt: skip
    process = start(*command, **KEYS)
    journal, until = run_dir / "metrics.jsonl", time.monotonic() + 300
    while not (journal.exists() and len(journal.read_text().splitlines()) > 5):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    outcome = finish(start(*command, **KEYS))
    assert outcome.code == 0, outcome.errors
    run = type(smoke)(run_dir, smoke.data, outcome)
    assert [row["loss"] for row in run.rows] == [row["loss"] for row in smoke.rows]
    assert bytes_in(kept) <= a_part(folder, 0.1) * 1e9
