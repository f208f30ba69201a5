"""Devices, sites or other groups in the shares that are asked for, whatever their numbers."""

import importlib
import json
import pickle
import shutil
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from oct_io import PhantomTree, SourceConfig, open_source
from oct_io.space.transforms import AugmentConfig
from oct_vjepa import EncoderConfig, MaskingConfig
from oct_xla import Feed, FeedConfig, read_rows

pytestmark = pytest.mark.slow

APP = Path(__file__).parent.parent / "apps" / "pretrain"
OFF = {
    "flip_probability": 0, "affine_probability": 0, "gamma": 1, "contrast": 0, "offset": 0,
    "roll_off": 0, "speckle": 0, "noise": 0, "dropped_bscans": 0, "shadow_probability": 0,
}  # fmt: skip
NAMES = ("settings", "samples", "gathering", "mixing")
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
        one = app["gathering"].DataSet("phantom", source, seen, [])
        return app["mixing"].mix(config, [one], [samples], seed=0), seen

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


def test_without_a_column_nothing_is_mixed_and_weights_need_one(mix, app):
    assert mix()[0] is None
    settings = app["settings"]
    with pytest.raises(ValueError, match=r"needs mixture\.by"):
        settings.PretrainConfig(mixture=settings.MixtureConfig(weights={"R": 2}))


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


@pytest.fixture(scope="module")
def two_sets(app, source, tmp_path_factory):
    """Sets of 11 and of 5 volumes, and what the feed asks each for."""
    place = tmp_path_factory.mktemp("second")
    tree = replace(TREE, participants=5, devices=("phantom_b",), seed=7)
    second = open_source(
        SourceConfig(root=str(place / "data"), cache=str(place / "cache"), window="tiny", jobs=1,
                     phantom=tree)
    )  # fmt: skip
    sets = [
        app["gathering"].DataSet("first", source, list(range(len(source.volumes)))[1:], ["test"]),
        app["gathering"].DataSet("second", second, list(range(len(second.volumes))), []),
    ]
    samples = [
        app["samples"].PretrainSamples(
            one.source.volumes, one.seen, MaskingConfig(), encoder=EncoderConfig(), seed=0,
            augment=AugmentConfig(**OFF),
        )
        for one in sets
    ]  # fmt: skip
    return sets, samples


def test_sets_have_equal_shares_unless_weights_say_otherwise(app, two_sets):
    for weights, share in (({}, 0.5), ({"first": 3}, 0.75)):
        config = app["settings"].MixtureConfig(weights=weights)
        mixture = app["mixing"].mix(config, *two_sets, seed=0)
        assert len(mixture) == 11 + 5
        drawn = [mixture.draw(index, epoch).part for epoch in range(4) for index in range(16)]
        assert mixture.parts[0].name == "first"
        assert drawn.count(0) / len(drawn) == pytest.approx(share, abs=0.04)


def test_a_host_asks_for_the_same_volumes_of_each_set_in_every_epoch(app, two_sets):
    config = app["settings"].MixtureConfig(weights={"first": 3})
    mixture = app["mixing"].mix(config, *two_sets, seed=0, subsets=2)
    feed, asked = Feed(mixture, 16, FeedConfig(batch_size=4, subsets=2)), [set(), set()]
    for rank, seen in enumerate(asked):
        for keys in islice(feed.keys(0, rank=rank, world=2), 12 * feed.steps_per_epoch):
            seen |= {mixture.draw(*key)[:2] for key in keys}
    assert not asked[0] & asked[1]
    assert [len(seen) for seen in asked] == [5 + 2, 6 + 3]


def test_a_sample_of_a_mixture_is_that_of_its_set(app, two_sets):
    sets, samples = two_sets
    mixture = app["mixing"].mix(app["settings"].MixtureConfig(), sets, samples, seed=0)
    for index in range(len(mixture)):
        part, own, turn = mixture.draw(index, 0)
        volume = sets[part].source.volumes[sets[part].seen[own]]
        assert np.array_equal(mixture(index, 0).volume_BCZYX[0], volume)
        assert np.array_equal(
            mixture(index, 0).masks[0].context_BK, samples[part](own, turn).masks[0].context_BK
        )


def test_a_column_divides_the_volumes_of_all_sets(app, two_sets):
    config = app["settings"].MixtureConfig(by="@device")
    mixture = app["mixing"].mix(config, *two_sets, seed=0)
    lengths = {part.name: part.length for part in mixture.parts}
    assert sorted(lengths) == ["phantom_a", "phantom_b"]
    assert sum(lengths.values()) == 16
    assert lengths["phantom_b"] > 5
    asked = [[], []]
    for one, keys in zip(two_sets[1], asked, strict=True):
        one.ahead = keys.extend
    try:
        mixture.ahead([(index, 0) for index in range(len(mixture))])
    finally:
        for one in two_sets[1]:
            del one.ahead
    assert all(asked)
    assert {index for index, _ in asked[1]} <= set(range(5))


def test_mean_and_spread_count_each_set_alike(app, two_sets):
    sets, gathering = two_sets[0], app["gathering"]
    alone = [gathering.measure_intensity([one], EncoderConfig()) for one in sets]
    both = gathering.measure_intensity(sets, EncoderConfig())
    assert both.input_mean == pytest.approx((alone[0].input_mean + alone[1].input_mean) / 2)
    squares = [one.input_std**2 + one.input_mean**2 for one in alone]
    assert both.input_std**2 + both.input_mean**2 == pytest.approx(sum(squares) / 2)
    assert (alone[0].input_mean, alone[0].input_std) == sets[0].source.measure_intensity(
        sets[0].seen
    )


def second_set(place):
    return (
        "more.second=phantom_lesions", f"more.second.root={place / 'second'}",
        f"more.second.cache={place / 'second-cache'}", "more.second.phantom.participants=20",
    )  # fmt: skip


def test_a_run_of_two_sets_goes_on_as_if_it_had_not_stopped_and_names_who_took_part(
    place, smoke, call_app
):
    run = place / "two-sets"
    command = (
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", *second_set(place),
        "loop.evaluate_every=0", "loop.checkpoint_every=2", "loop.steps=4", "probe.columns=[]",
        f"run_dir={run}",
    )  # fmt: skip
    outcome = call_app(*command)
    assert outcome.code == 0, outcome.errors
    assert "mixture: second 50% of an epoch" in outcome.out
    first = (
        [row["loss"] for row in read_rows(run / "metrics.jsonl")],
        (run / "encoder/model.safetensors").read_bytes(),
    )
    assert len(first[0]) == 4
    shutil.rmtree(run / "checkpoints/step-00000004")
    (run / "encoder/model.safetensors").unlink()
    outcome = call_app(*command)
    assert outcome.code == 0, outcome.errors
    again = (
        [row["loss"] for row in read_rows(run / "metrics.jsonl")],
        (run / "encoder/model.safetensors").read_bytes(),
    )
    assert again == first

    facts = json.loads((run / "provenance.json").read_text())
    second = facts["more"]["second"]
    people = set(facts["participants_in_training"])
    assert set(second["participants_in_training"]) < people
    assert second["volumes_in_training"] == len(second["participants_in_training"]) == 12
    assert "12 of second (12 participants)" in (run / "report.html").read_text()
    refused = call_app(*command, "more.second.excluded_splits=[]")
    assert (refused.code, refused.errors.count("\n")) == (2, 1)
    assert "more.second.excluded_splits" in refused.errors
    moved = place / "moved"
    shutil.move(place / "second", moved)
    outcome = call_app(*command, f"more.second.root={moved}")
    assert outcome.code == 0, outcome.errors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("more.second.window=macula6", "more.second.window=macula6 gives volumes of"),
        ("more.second.rot=3", "more.second.rot: there is no such setting; did you mean"),
        ("more.secnd.root=3", "more.secnd: there is no such entry"),
        ("more.second.excluded_splits=[nobody]", "more.second: data.excluded_splits: 'nobody'"),
        ("mixture.weights={third: 2}", "mixture.weights names third; mixture.by=@set has"),
        ("smaller_window=8x32x32", "smaller_window (8x32x32) is of one set"),
    ],
)
def test_sets_that_cannot_go_together_are_refused_in_a_line(place, smoke, call_app, given, said):
    outcome = call_app(
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", *second_set(place),
        f"run_dir={place / 'refused'}", given,
    )  # fmt: skip
    assert outcome.code == 2
    assert outcome.errors.splitlines()[-1].startswith(f"error: {said}")


def test_two_sets_do_not_share_a_name_or_a_cache(place, smoke, call_app):
    begun = ("pretrain", "experiment=smoke", f"data.root={smoke.data}", f"run_dir={place / 'no'}")
    outcome = call_app(*begun, "more.smoke=phantom", "more.smoke.root=x")
    assert (outcome.code, outcome.errors.startswith("error: more.smoke has the name of")) == (
        2,
        True,
    )
    outcome = call_app(*begun, "data.cache=x", "more.b=phantom", "more.b.cache=x")
    assert "more.b.cache (x) is data.cache as well" in outcome.errors
