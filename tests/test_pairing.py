"""Pairs of volumes in pretraining: who goes with whom, and that both reach the objective."""

import importlib
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oct_io import PhantomTree, SourceConfig, open_source
from oct_io.space.transforms import AugmentConfig
from oct_vjepa import EncoderConfig, MaskingConfig
from oct_xla import Feed, FeedConfig

PRETRAIN = Path(__file__).parent.parent / "apps" / "pretrain"
TREE = PhantomTree(
    participants=6, shape=(4, 40, 32), devices=("phantom_a", "phantom_b"),
    devices_per_participant=2, jobs=1, seed=3,
)  # fmt: skip
STILL = AugmentConfig(
    flip_probability=0, affine_probability=0, gamma=1, contrast=0, speckle=0, noise=0,
    dropped_bscans=0, shadow_probability=0,
)  # fmt: skip
ENCODER = EncoderConfig(input_shape=(8, 64, 64), patch_size=(2, 8, 16), width=12, heads=2, depth=1)


@pytest.fixture(scope="module")
def entries(source):
    return source.volumes.entries


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("paired")
    return open_source(
        SourceConfig(
            root=str(place / "data"), cache=str(place / "cache"), window="tiny", jobs=1,
            phantom=TREE,
        )
    )  # fmt: skip


@pytest.fixture
def app(monkeypatch):
    """Modules beside the app, by name; workers would import them by name as well."""
    monkeypatch.syspath_prepend(str(PRETRAIN))
    yield importlib.import_module
    for name in ("samples", "pairing", "gathering"):
        sys.modules.pop(name, None)


def test_what_another_set_is_advised_on_is_told_by_the_name_of_its_setting(source, app):
    gathering = app("gathering")
    sets = [gathering.DataSet(name, source, [0], []) for name in ("first", "second")]
    own, others = gathering.advice_of(sets)
    assert (own,) == source.advice
    assert "; data.mirror_left=true puts" in own
    assert "; more.second.mirror_left=true puts" in others


def same(one, other, *names):
    return all(getattr(one, name) == getattr(other, name) for name in names)


RULES = {
    "eyes": lambda a, b: a.laterality != b.laterality,
    "scans": lambda a, b: a.laterality == b.laterality,
    "devices": lambda a, b: a.laterality == b.laterality and a.device != b.device,
    "participant": lambda a, b: True,
}


@pytest.mark.parametrize("kind", RULES)
def test_partners_are_all_that_belong_together_and_nobody_else(kind, entries, app):
    chosen = list(range(len(entries) - 1, 1, -1))  # some of them, in another order
    partners = app("pairing").Partners(entries, chosen, kind)
    for place, number in enumerate(chosen):
        wanted = {
            other
            for other, at in enumerate(chosen)
            if at != number
            and same(entries[number], entries[at], "participant")
            and RULES[kind](entries[number], entries[at])
        }
        assert set(partners.of(place).tolist()) == wanted
        drawn = {partners.choose(place, draw) for draw in range(60)}
        assert drawn == (wanted or {place})
    assert 0 < len(partners) <= len(chosen)


def test_a_pair_holds_both_volumes_and_the_masks_that_the_first_has_alone(source, app):
    chosen = list(range(len(source.volumes)))
    partners = app("pairing").Partners(source.volumes.entries, chosen, "eyes")

    def samples(**more):
        return app("samples").PretrainSamples(
            source.volumes, chosen, MaskingConfig(), augment=STILL, encoder=ENCODER, seed=5, **more
        )

    paired, alone = samples(partners=partners), samples()
    seen = set()
    for index in range(4):
        for epoch in range(6):
            one, plain = paired(index, epoch), alone(index, epoch)
            assert torch.equal(one.volume_BCZYX, plain.volume_BCZYX)
            assert all(
                torch.equal(a, b)
                for mine, theirs in zip(one.masks, plain.masks, strict=True)
                for a, b in zip(mine, theirs, strict=True)
            )
            (found,) = [
                number
                for number in chosen
                if np.array_equal(source.volumes[number], one.partner_BCZYX[0].numpy())
            ]
            assert found in partners.of(index)
            seen.add((index, found))
    assert len(seen) > 4  # not the same one in each epoch
    batch = next(iter(Feed(paired, len(chosen), FeedConfig(batch_size=4)).batches(0)))
    assert batch.partner_BCZYX.shape == batch.volume_BCZYX.shape == (4, 1, 8, 64, 64)


def test_an_encoder_that_counts_in_lengths_is_told_the_millimetres_of_a_crop(source, app):
    encoder = EncoderConfig(
        input_shape=(8, 64, 64), patch_size=(2, 8, 16), width=12, heads=2, depth=1,
        position_unit="length",
    )  # fmt: skip
    cropping = replace(STILL, crop_smallest=0.3)
    samples = app("samples").PretrainSamples(
        source.volumes, [0], MaskingConfig(), augment=cropping, encoder=encoder, seed=5
    )
    whole = np.array(source.volumes.entries[0].spacing)
    found = [samples(0, epoch).spacing_B3.numpy() / whole for epoch in range(20)]
    assert all(one[0] == pytest.approx(1) and 0.3 <= one[1] * one[2] <= 1.0001 for one in found)
    assert len({round(float(one[1]), 4) for one in found}) > 10
    again = samples(0, 3)
    assert torch.equal(again.volume_BCZYX, samples(0, 3).volume_BCZYX)
    assert not torch.equal(again.volume_BCZYX, samples(0, 4).volume_BCZYX)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("pairs=eyes",), "pairs (eyes) does nothing with this objective; take objective=lejepa"),
        (("objective.partner_weight=1",), "objective.partner_weight (1.0) needs pairs=eyes, scans"),
        (("objective=lejepa", "pairs=both"), "pairs ('both') must be one of none, eyes, scans"),
    ],
)
def test_pairs_that_nobody_reads_and_a_loss_without_them_are_refused(given, text, call_app):
    outcome = call_app("pretrain", "experiment=smoke", "objective=vjepa2_smoke", *given)
    assert outcome.code == 2
    (line,) = outcome.error_lines
    assert text in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("jepa", ("objective.partner_weight=0.5", "pairs=scans", "data.phantom.visits=2")),
        ("lejepa", ("objective=lejepa_smoke", "pairs=eyes")),
    ],
)
def test_a_run_trains_on_pairs(name, given, place, call_app):
    run_dir = place / f"pairs-{name}"
    outcome = call_app(
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={run_dir}-data",
        f"data.cache={run_dir}-cache", "data.phantom.participants=12", "data.jobs=1",
        "probe.columns=[]", "loop.steps=2", "loop.evaluate_every=0", "runtime=cpu", *given,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert f"pairs={given[1 if name == 'jepa' else -1].split('=')[1]}: " in outcome.out
    assert " volumes of smoke have a partner" in outcome.out
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    wanted = {"jepa": "partner_loss", "lejepa": "agreement_loss"}[name]
    assert all(np.isfinite(row[wanted]) for row in rows)


def test_a_data_worker_is_sent_four_bytes_for_each_volume(app, source):
    samples = app("samples").PretrainSamples(
        None, range(10**6), MaskingConfig(), augment=STILL, encoder=ENCODER, seed=0
    )
    assert len(pickle.dumps(samples)) < 4.01e6
    assert len(samples) == 10**6
    numbers = source.outside([])
    assert memoryview(numbers).itemsize == 4
    assert {type(one) for one in numbers} == {int}, "none that overflows"
