"""Devices, sites or other groups in the shares that are asked for, whatever their numbers."""

import importlib
import json
import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from oct_io import PhantomTree, SourceConfig, open_source
from oct_io.space.transforms import AugmentConfig
from oct_vjepa import EncoderConfig, MaskingConfig
from oct_xla import Feed, FeedConfig

pytestmark = pytest.mark.slow

APP = Path(__file__).parent.parent / "apps" / "pretrain"
OFF = {
    "flip_probability": 0, "affine_probability": 0, "gamma": 1, "contrast": 0, "offset": 0,
    "roll_off": 0, "speckle": 0, "noise": 0, "dropped_bscans": 0, "shadow_probability": 0,
}  # fmt: skip
NAMES = ("settings", "samples", "mixing")
TREE = PhantomTree(
    participants=12, shape=(4, 40, 32), split_fractions=(1.0, 0.0, 0.0),
    devices=("phantom_a", "phantom_b"), eyes=("R",), jobs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def app():
    sys.path.insert(0, str(APP))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(APP))
    for name in NAMES:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("mixed")
    data, cache = str(place / "data"), str(place / "cache")
    return open_source(SourceConfig(root=data, cache=cache, window="tiny", jobs=1, phantom=TREE))


@pytest.fixture(scope="module")
def mix(app, source):
    def mix(**settings):
        seen = list(range(len(source.volumes)))[1:]
        samples = app["samples"].PretrainSamples(
            source.volumes, seen, MaskingConfig(), encoder=EncoderConfig(), seed=0,
            augment=AugmentConfig(**OFF),
        )  # fmt: skip
        config = app["settings"].MixtureConfig(**settings)
        return app["mixing"].mix(config, source, seen, samples, seed=0), seen

    return mix


def test_each_device_has_its_share_of_an_epoch_and_its_own_volumes(mix, source):
    mixture, seen = mix(by="@device", weights={"phantom_b": 3})
    device = source.attributes(["@device"])["@device"]
    numbers = Counter(device[seen])
    assert min(numbers.values()) > 1
    drawn = [mixture.draw(index, epoch) for epoch in range(4) for index in range(len(mixture))]
    shares = Counter(mixture.parts[one.part].name for one in drawn)
    assert shares["phantom_b"] == pytest.approx(3 * shares["phantom_a"], abs=4)
    for one in drawn:
        part = mixture.parts[one.part]
        assert device[seen[part.sample._indices[one.sample]]] == part.name


def test_a_volume_that_comes_again_in_an_epoch_has_other_masks(mix):
    mixture, _ = mix(by="@device", weights={"phantom_b": 9})
    drawn = [mixture.draw(index, 0) for index in range(len(mixture))]
    often = Counter((one.part, one.sample) for one in drawn).most_common(1)[0]
    assert often[1] > 1
    first, second = [i for i, one in enumerate(drawn) if one[:2] == often[0]][:2]
    one, other = mixture(first, 0), mixture(second, 0)
    assert np.array_equal(one.volume_BCZYX, other.volume_BCZYX)
    assert not np.array_equal(one.masks[0].context_BK, other.masks[0].context_BK)


def test_workers_give_the_batches_that_none_gives(mix):
    mixture, _ = mix(by="@device")
    copied = pickle.loads(pickle.dumps(mixture))
    feed, other = (Feed(one, len(one), FeedConfig(batch_size=4)) for one in (mixture, copied))
    for one, same in zip(feed.batches(3), other.batches(3), strict=False):
        assert np.array_equal(one.volume_BCZYX, same.volume_BCZYX)
        assert np.array_equal(one.masks[0].context_BK, same.masks[0].context_BK)
        break


def test_a_weight_of_nobody_is_refused_with_the_values_that_there_are(mix):
    with pytest.raises(ValueError, match=r"names spectralis; .*@device has phantom_a, phantom_b"):
        mix(by="@device", weights={"spectralis": 2})


def test_without_a_column_nothing_is_mixed_and_weights_need_one(mix):
    assert mix()[0] is None
    with pytest.raises(ValueError, match=r"needs mixture\.by"):
        mix(weights={"R": 2})


def test_a_run_says_its_shares_and_other_shares_are_another_run(place, smoke, call_app):
    run_dir = place / "mixed"
    common = (
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={smoke.data}",
        "loop.steps=3", "loop.evaluate_every=0", "probe.columns=[]", "mixture.by=@eye",
    )  # fmt: skip
    outcome = call_app(*common, "mixture.weights={R: 3}")
    assert outcome.code == 0, outcome.errors
    (told,) = [line for line in outcome.out.splitlines() if line.startswith("mixture: ")]
    assert "L 25% of an epoch" in told
    assert "R 75% of an epoch" in told
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 3
    assert losses != [row["loss"] for row in smoke.rows[:3]]
    refused = call_app(*common, "mixture.weights={R: 1}")
    assert refused.code == 2
    assert "mixture.weights" in refused.errors
