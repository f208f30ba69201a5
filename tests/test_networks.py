"""Networks from scratch: of volumes in three dimensions, of B-scans in two."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from oct_io import PhantomTree, SourceConfig, open_source
from oct_io.labels.questions import LabelQuestion
from oct_judge.asking import ask_trained, untrained
from oct_judge.candidates import RANDOM, Cast, Embedder
from oct_judge.family import Family
from oct_judge.finished.spoiling import Spoiler, askers_of
from oct_judge.question import ComparisonConfig, FinetuneConfig
from oct_judge.results import Found
from oct_judge.rivals.answers import ask_network
from oct_judge.rivals.networks import Bscanwise, check_network, count, make_classifier
from oct_judge.study import open_study
from oct_launch import Mistake
from oct_vjepa import Encoder, EncoderConfig

pytestmark = pytest.mark.slow  # MONAI takes 20 s to import


@pytest.mark.parametrize("name", ["monai_resnet10", "monai_densenet121"])
def test_of_one_bscan_a_network_has_two_dimensions(name):
    flat = make_classifier(name, 3, 0, shape=(1, 32, 64))
    deep = make_classifier(name, 3, 0, shape=(8, 32, 64))
    assert {one.ndim for one in flat.parameters()} <= {1, 2, 4}
    assert count(flat) < 0.7 * count(deep)
    assert flat(torch.zeros(2, 1, 1, 32, 64)).shape == (2, 3)


def test_a_network_of_bscans_averages_what_it_says_of_each():
    network = make_classifier("monai_resnet10_2d", 2, 0, shape=(4, 32, 32)).eval()
    assert isinstance(network, Bscanwise)
    volume = torch.rand(1, 1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = network(volume)
        each = torch.cat([network(volume[:, :, [one]]) for one in range(4)])
        turned = network(volume.flip(2))
    assert each.std(dim=0).min() > 0
    torch.testing.assert_close(whole, each.mean(dim=0, keepdim=True))
    torch.testing.assert_close(whole, turned)


def test_a_network_of_timm_takes_the_window_or_says_why_not():
    pytest.importorskip("timm", reason="timm and torch-xla cannot be locked together")
    for name in ("timm_resnet18", "timm_vit_tiny_patch16_224"):
        check_network(name, (2, 32, 64))
        network = make_classifier(name, 3, 0, shape=(2, 32, 64)).eval()
        assert isinstance(network, Bscanwise)
        assert network(torch.zeros(2, 1, 2, 32, 64)).shape == (2, 3)
    first, again, other = (
        next(make_classifier("timm_resnet18", 3, seed, shape=(1, 32, 64)).parameters())
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for name, shape, said in (
        ("timm_resnet19", (1, 32, 64), "resnet19"),
        ("timm_vit_tiny_patch16_224", (1, 8, 64), ""),
    ):
        with pytest.raises(Mistake, match=rf"compare\.networks \({name}\): .*{said}"):
            check_network(name, shape)


@pytest.mark.drill
def test_what_was_trained_beside_the_encoder_says_of_unspoilt_volumes_what_it_said(tmp_path):
    name = "monai_resnet10"
    config = FinetuneConfig(
        mode="full",
        data=SourceConfig(
            root=str(tmp_path / "data"), cache=str(tmp_path / "cache"), window="tiny", jobs=1,
            phantom=PhantomTree(participants=24, shape=(8, 64, 64), jobs=1),
        ),
        task=LabelQuestion(column="thin"),
        compare=ComparisonConfig(networks=[name]),
    )  # fmt: skip
    recipe = replace(config.training, epochs=1, warmup_epochs=0, batch_size=4)
    config = replace(config, training=recipe)
    study, runtime = open_study(config, open_source(config.data)), config.runtime.pick()
    shape = {"input_shape": (8, 64, 64), "patch_size": (2, 16, 16)}
    family = Family.of_one(Encoder(EncoderConfig(**shape, width=24, depth=2, heads=2)).eval())
    cast = Cast(family, Embedder(tmp_path, runtime, config.readout, 5), study.rows)
    beside = ask_trained(config, study, partial(untrained, cast), RANDOM, runtime, tmp_path)
    answers = {
        RANDOM: beside,
        f"network {name}": ask_network(config, study, name, runtime, tmp_path),
    }
    found = Found(config=config, study=study, cast=cast, answers=answers, few=[], touches=0)
    spoiler = Spoiler(found)
    askers = askers_of(found, "", tmp_path)
    assert list(askers) == list(answers)
    for who, asker in askers.items():
        [[answer]] = answers[who]
        own = np.searchsorted(spoiler.tested, answer.test_rows)
        likely, even = asker(answer, 0, spoiler.rows("gain", 0))
        assert likely[own] == pytest.approx(answer.test, abs=1e-5)
        assert even[own] == pytest.approx(answer.test_decided, abs=1e-5)
        assert np.abs(asker(answer, 0, spoiler.rows("gain", 5))[1] - even).max() > 1e-4
