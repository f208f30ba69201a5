"""Encoders by `name=path`, and networks of the size that is wanted."""

import sys

import numpy as np
import pytest
import torch
from oct_judge.rivals.encoders import features_of, open_encoder
from oct_judge.rivals.networks import strides_of
from oct_launch import Mistake
from oct_vjepa import Encoder, EncoderConfig


class Means:
    """Two lines that make an encoder."""

    fingerprint = "means"

    def embed(self, volumes):
        return volumes.float().mean(dim=(2, 3))


def make_means():
    return Means()


def saved(folder, shape, patch):
    encoder = Encoder(
        EncoderConfig(input_shape=shape, patch_size=patch, width=12, depth=1, heads=1)
    )
    encoder.save_pretrained(folder)
    return folder


def test_an_encoder_of_bscans_goes_through_volumes_stack_by_stack(tmp_path):
    from oct_judge.candidates import Embedder, Rows
    from oct_vjepa.evaluation.readouts import ReadoutConfig
    from oct_xla import pick_runtime

    flat = saved(tmp_path / "flat", (1, 16, 16), (1, 8, 8))
    deep = saved(tmp_path / "deep", (4, 16, 16), (2, 8, 8))
    named = open_encoder(f"flat={flat}", (4, 16, 16))
    assert named.name == "flat"
    for mistaken in ((4, 32, 32), (2, 16, 16)):
        with pytest.raises(Mistake, match=r"takes \(4, 16, 16\) voxels"):
            open_encoder(f"deep={deep}", mistaken)
    readout = ReadoutConfig(blocks=["last"], pools=["mean", "max"])
    embed = Embedder(tmp_path / "features", pick_runtime("cpu"), readout, 2)
    volumes = np.random.default_rng(0).integers(0, 256, (5, 4, 16, 16)).astype(np.uint8)
    bscans = volumes.reshape(20, 1, 16, 16)
    whole = features_of(named.of("", 0), embed, Rows(volumes, "five", np.ones((5, 3)), 4))
    each = features_of(named.of("", 0), embed, Rows(bscans, "twenty", np.ones((20, 3)), 1))
    assert whole.keys() == each.keys()
    for name, found in each.items():
        assert np.allclose(whole[name], found.reshape(5, 4, -1).mean(axis=1), atol=1e-5)


def test_a_factory_gives_an_encoder_of_two_lines(monkeypatch, tmp_path):
    from oct_judge.candidates import Embedder, Rows
    from oct_vjepa.evaluation.readouts import ReadoutConfig
    from oct_xla import pick_runtime

    monkeypatch.setitem(sys.modules, "of_others", sys.modules[__name__])
    named = open_encoder("theirs=of_others:make_means", (4, 16, 16))
    volumes = np.random.default_rng(0).integers(0, 256, (5, 4, 16, 16)).astype(np.uint8)
    embed = Embedder(tmp_path, pick_runtime("cpu"), ReadoutConfig(), 2)
    found = features_of(named.encoder, embed, Rows(volumes, "five", np.ones((5, 3)), 4))
    assert list(found) == ["own"]
    assert np.allclose(found["own"], volumes.mean(axis=(2, 3)), atol=1e-3)


def test_a_factory_that_wants_more_is_told_in_a_line():
    with pytest.raises(Mistake, match=r"compare\.encoders \(json:loads\): .*missing 1 required"):
        open_encoder("theirs=json:loads", (4, 16, 16))


def test_a_factory_may_give_stacks_further_apart(monkeypatch, tmp_path):
    from oct_judge.candidates import Embedder, Rows
    from oct_vjepa.evaluation.readouts import ReadoutConfig
    from oct_vjepa.evaluation.sliced import SlicedEncoder
    from oct_xla import pick_runtime

    thin = Encoder.from_pretrained(saved(tmp_path / "thin", (1, 16, 16), (1, 8, 8)))
    theirs = SlicedEncoder(thin, every=2).eval()
    monkeypatch.setattr(sys.modules[__name__], "make_means", lambda: theirs)
    monkeypatch.setitem(sys.modules, "of_others", sys.modules[__name__])
    named = open_encoder("theirs=of_others:make_means", (4, 16, 16))
    volumes = np.random.default_rng(0).integers(0, 256, (5, 4, 16, 16)).astype(np.uint8)
    readout = ReadoutConfig(blocks=["last"], pools=["mean", "max"])
    embed = Embedder(tmp_path / "features", pick_runtime("cpu"), readout, 2)
    found = features_of(named.encoder, embed, Rows(volumes, "five", np.ones((5, 3)), 4))
    with torch.no_grad():
        wanted = theirs.embed(torch.from_numpy(volumes)).numpy()
    assert np.allclose(found["last/mean"], wanted, atol=1e-5)


@pytest.mark.slow
def test_a_rival_is_opened_once_for_check_and_question(call_app, tmp_path, monkeypatch):
    (tmp_path / "counted_rival.py").write_text(
        "from pathlib import Path\n"
        "class Means:\n"
        "    fingerprint = 'means'\n"
        "    def embed(self, volumes):\n"
        "        return volumes.float().mean(dim=(2, 3))\n"
        "def make():\n"
        "    with (Path(__file__).parent / 'opened').open('a') as file:\n"
        "        file.write('x')\n"
        "    return Means()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    saved(tmp_path / "own", (8, 64, 64), (2, 16, 16))
    outcome = call_app(
        "finetune", f"encoder={tmp_path / 'own'}", 'compare.encoders=["them=counted_rival:make"]',
        "data.phantom.participants=12", "data.phantom.split_fractions=[0.5,0.0,0.5]",
        "data.phantom.eyes=[R]", "data.phantom.jobs=1", "data.jobs=1",
        f"data.root={tmp_path / 'data'}", f"data.cache={tmp_path / 'cache'}", "bootstrap=100",
        f"features={tmp_path / 'features'}", f"run_dir={tmp_path / 'run'}", "compare.maps=0",
        "compare.baselines=[]", "compare.random_init=false", "compare.ranked=false",
        "compare.subgroups=[]", "compare.shortcuts=[]",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    assert "encoder them" in outcome.out
    assert (tmp_path / "opened").read_text() == "x"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("somewhere", "must be name=folder"),
        ("one=nowhere", "there is no folder nowhere"),
        ("one=resnet18@nowhere.pth", "there is no file nowhere.pth"),
        ("one=no_such_module:make", "no_such_module"),
        ("one=datetime:datetime.now", "must be name=folder"),
        ("one=collections:Counter", "without embed or fingerprint"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(spec, words):
    with pytest.raises(Mistake, match=words):
        open_encoder(spec, (4, 16, 16))


def test_flat_volumes_are_halved_along_what_is_long_enough():
    assert strides_of((8, 64, 64)) == [(2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2)]
    assert strides_of((1, 96, 256))[0] == (1, 2, 2)
    with pytest.raises(Mistake, match="cannot be halved"):
        strides_of((1, 5, 5))


@pytest.mark.drill
def test_a_unet_of_the_wanted_size_gives_a_logit_for_every_voxel_and_class():
    from oct_judge.rivals.networks import count, make_unet

    state = torch.get_rng_state()
    for shape in ((8, 32, 32), (1, 48, 64)):
        network, parameters = make_unet(shape, 3, parameters=100_000, seed=0)
        assert parameters == count(network)
        assert 30_000 < parameters < 300_000
        assert network(torch.zeros(2, 1, *shape)).shape == (2, 3, *shape)
    assert torch.equal(state, torch.get_rng_state())


def test_baselines_stand_side_by_side_and_beside_random_weights(tmp_path):
    from oct_judge.candidates import Cast, Embedder, Rows
    from oct_vjepa.evaluation.readouts import ReadoutConfig
    from oct_vjepa.probes.protocol import Round
    from oct_xla import pick_runtime

    class Alone:
        """A family of one encoder."""

        def __init__(self, encoder):
            self.of = lambda name, seed: encoder

    saved(tmp_path / "own", (4, 16, 16), (2, 8, 8))
    family = Alone(Encoder.from_pretrained(tmp_path / "own"))
    volumes = np.random.default_rng(0).integers(0, 256, (6, 4, 16, 16)).astype(np.uint8)
    readout = ReadoutConfig(blocks=["last"], pools=["mean", "max"])
    embed = Embedder(tmp_path / "features", pick_runtime("cpu"), readout, 2)
    cast = Cast(family, embed, Rows(volumes, "six", np.ones((6, 3)), 4))
    fit = np.arange(6) < 4
    one = Round("test", fit, ~fit & False, ~fit)
    name, _ = readout.names(1)
    cast.chosen["test", 0] = name

    cast.forget_fitted([one])  # the first question

    def of(baseline):
        (found,) = cast.baseline(baseline).readouts(one, 0).values()
        return found

    grey, layer = of("grey histogram"), of("random layer")
    assert np.array_equal(of("random layer + grey histogram"), np.hstack([layer, grey]))
    own = cast.random().readouts(one, 0)
    assert len(own) == 2
    # Read out as validation chooses for it, whatever the encoder's choice.
    rival = cast.baseline("random init + grey histogram").readouts(one, 0)
    assert rival.keys() == own.keys()
    assert all(np.array_equal(rival[k], np.hstack([own[k], grey])) for k in own)
    beside = cast.beside("random init + grey histogram").readouts(one, 0)
    (both,) = beside.values()
    assert np.array_equal(both[:, len(own[name][0]) :], np.hstack([own[name], grey]))
    cast.forget_fitted([one])  # another question, of which the same rows are fitted on
    assert of("random layer") is layer
    other = one._replace(fit=~fit)
    cast.forget_fitted([other])  # and one of which others are
    assert of("grey histogram") is grey
    (found,) = cast.baseline("random layer").readouts(other, 0).values()
    assert not np.array_equal(found, layer)
    bank = of("filter bank")
    (found,) = cast.baseline("filter bank").readouts(other, 1).values()
    assert found is bank, "nothing is learned: it is computed once for all rounds and seeds"
    for wrong in ("random init", "random layer + histogram"):
        with pytest.raises(ValueError, match=r"compare.baselines \(.*\) must be among"):
            cast.baseline(wrong)
