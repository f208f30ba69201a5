"""An encoder for each round and seed: who is asked where, and who is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from oct_io import PhantomTree, SourceConfig, TreeError, open_source
from oct_io.labels.questions import LabelQuestion
from oct_judge.asking import ask, ask_with_few_labels, draw_subsets, subset_sizes
from oct_judge.beginning import open_rivals
from oct_judge.candidates import Cast, Embedder
from oct_judge.checkpoint import CheckpointConfig
from oct_judge.family import Family, find_members, open_family
from oct_judge.question import ComparisonConfig, FinetuneConfig, ProtocolConfig
from oct_judge.rivals.answers import ask_rivals
from oct_judge.rivals.encoders import candidate, open_encoder
from oct_judge.study import check_test_set, open_study
from oct_launch import Mistake, Stages
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.readouts import ReadoutConfig
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.protocol import few_labels, make_rounds

SMALL = EncoderConfig(input_shape=(8, 64, 64), patch_size=(2, 16, 16), width=24, depth=2, heads=2)
NAMES = [(fold, seed) for fold in ("fold-0", "fold-1") for seed in (0, 1)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs that left an encoder for each of two folds and seeds, and a phantom with these folds."""
    where = tmp_path_factory.mktemp("families")
    for number, (fold, seed) in enumerate(NAMES):
        torch.manual_seed(number)
        measured = replace(SMALL, input_mean=50.0 + number)  # on other volumes each
        Encoder(measured).save_pretrained(where / f"dme-{fold}-seed{seed}" / "encoder")
    return where


@pytest.fixture(scope="module")
def asked(place):
    tree = PhantomTree(participants=24, shape=(8, 64, 64), jobs=1)
    data = SourceConfig(
        root=str(place / "data"), cache=str(place / "cache"), window="tiny", jobs=1, phantom=tree
    )
    source = open_source(data)
    people = sorted(set(source.participants(range(len(source.volumes)))))
    rows = [f"{one}\tfold-{number % 2}\tby hand" for number, one in enumerate(people)]
    (place / "folds.tsv").write_text("participant\tpart\trule\n" + "\n".join(rows) + "\n")
    data.split = str(place / "folds.tsv")
    config = FinetuneConfig(
        data=data,
        weights=str(place / "dme-{round}-seed{seed}" / "encoder"),
        task=LabelQuestion(column="thin"),
        protocol=ProtocolConfig(name="leave_one_out", by="@split", folds=3),
        seeds=2,
        readout=ReadoutConfig(blocks=["last"], pools=["mean"]),
    )
    family, _ = open_family(config.weights, CheckpointConfig())
    return config, open_study(config, open_source(data)), family


def test_each_fold_is_a_round_and_asks_the_encoder_that_was_kept_from_it(place, asked):
    config, study, family = asked
    assert [one.name for one in study.rounds] == ["fold-0", "fold-1"]
    embed = Embedder(place / "features", config.runtime.pick(), config.readout, 16)
    cast = Cast(family, embed, study.rows)
    told = {}
    for number, (fold, seed) in enumerate(NAMES):
        torch.manual_seed(number)
        own = cast.own(fold, seed)
        again = embed(Encoder(replace(SMALL, input_mean=50.0 + number)).eval(), study.rows)
        assert np.array_equal(own["last/mean"], again["last/mean"])
        told[fold, seed] = own["last/mean"].tobytes()
    assert len(set(told.values())) == 4
    answers = ask(config, study, cast.pretrained(), "linear")
    assert [[(one.round, one.seed) for one in rounds] for rounds in answers] == [
        [("fold-0", 0), ("fold-1", 0)],
        [("fold-0", 1), ("fold-1", 1)],
    ]


def test_an_encoder_that_has_seen_who_is_tested_is_refused(place, asked):
    config, study, family = asked
    check_test_set(config, study, family)
    tested = {one.name: study.participants[one.test].tolist() for one in study.rounds}
    for fold, seed in NAMES:
        seen = [one for name, people in tested.items() if name != fold for one in people]
        run = place / f"dme-{fold}-seed{seed}" / "provenance.json"
        run.write_text(json.dumps({"participants_in_training": sorted(set(seen))}))
    check_test_set(config, study, family)
    run.write_text(json.dumps({"participants_in_training": tested["fold-1"][:1]}))
    with pytest.raises(TreeError, match="1 of 12 test participants took part in pretraining"):
        check_test_set(config, study, family)
    with pytest.raises(TreeError):  # one encoder for all rounds has seen those of the other one
        check_test_set(config, study, Family.of_one(family.first, family.place_of("fold-1", 0)))


def test_a_rival_too_is_one_for_each_round_and_seed(place, asked):
    config, study, family = asked
    embed = Embedder(place / "features", config.runtime.pick(), config.readout, 16)
    spec = f"other={place}/dme-{{round}}-seed{{seed}}/encoder"
    rival = candidate(open_encoder(spec, study.examples.volumes.shape), embed, study.rows)
    own = Cast(family, embed, study.rows)
    for one in study.rounds:
        for seed in (0, 1):
            found = rival.readouts(one, seed)["last/mean"]
            assert np.array_equal(found, own.own(one.name, seed)["last/mean"])


@pytest.mark.parametrize("few", [True, False])
def test_with_few_labels_every_seed_is_asked_on_every_subset(place, asked, tmp_path, few):
    config, study, family = asked
    compare = ComparisonConfig(
        fractions=[0.5], turns=3, baselines=["thumbnail"], few_validation=few
    )
    config = replace(config, compare=compare)
    runtime = config.runtime.pick()
    cast = Cast(family, Embedder(place / "features", runtime, config.readout, 16), study.rows)
    spec = f"other={place}/dme-{{round}}-seed{{seed}}/encoder"
    rival = candidate(
        open_encoder(spec, study.examples.volumes.shape), cast.embed, study.rows
    )  # the same encoders by another name
    found = ask_with_few_labels(config, study, cast, runtime, tmp_path, Stages(), [rival])
    answers = {name: one for name, _, one in found}
    assert list(answers) == ["pretrained", "random init", "thumbnail", rival.name]
    kept = {"seed": config.seed, "validation": few}
    for found in answers.values():
        assert [rounds[0].seed for rounds in found] == [0, 0, 0, 1, 1, 1]
    for number, (seed, turn) in enumerate((seed, turn) for seed in (0, 1) for turn in range(3)):
        rounds = [
            few_labels(one, study.target, study.panel.people, 0.5, **kept, turn=turn)
            for one in study.rounds
        ]
        (alone,) = ask(config, study, cast.pretrained(), "linear", rounds, [seed])
        for name in ("pretrained", rival.name):
            for one, other, part in zip(answers[name][number], alone, rounds, strict=True):
                assert np.array_equal(one.test, other.test)
                assert len(one.validation_rows) == part.validation.sum()
    own = answers["pretrained"]
    assert not np.array_equal(own[0][0].test, own[3][0].test), "the encoder of another seed"


@pytest.mark.parametrize("how", ["mean", "weighted"])
def test_encoders_together_say_what_each_says_seed_by_seed(place, asked, tmp_path, how):
    config, study, family = asked
    compare = ComparisonConfig(baselines=[], ensemble=how)
    config, runtime = replace(config, compare=compare), config.runtime.pick()
    cast = Cast(family, Embedder(place / "features", runtime, config.readout, 16), study.rows)
    one = open_encoder(f"one={place}/dme-fold-0-seed1/encoder", study.examples.volumes.shape)
    own = {"pretrained": ask(config, study, cast.pretrained(), "linear")}
    with Stages() as stages:
        found = ask_rivals(config, study, cast, runtime, tmp_path, stages, own, [one])
    each = own["pretrained"], found["encoder one"], found["pretrained, encoders together"]
    for rounds in zip(*each, strict=True):
        for first, second, both in zip(*rounds, strict=True):
            worth = np.array([float(who.chosen["validation"]) for who in (first, second)])
            worth = worth / worth.sum() if how == "weighted" else np.full(2, 0.5)
            wanted = worth[0] * first.test + worth[1] * second.test
            assert both.test == pytest.approx(wanted)
            assert both.seed == first.seed
            same = (first.round, first.seed) == ("fold-0", 1)
            assert np.array_equal(first.test, second.test) == same


def test_a_rival_that_has_seen_who_is_tested_is_refused(place, asked, tmp_path):
    config, study, _ = asked
    seen = tmp_path / "seen"
    family_of(seen)
    people = study.participants[study.rounds[0].test].tolist()
    (seen / "provenance.json").write_text(json.dumps({"participants_in_training": people}))
    compare = ComparisonConfig(encoders=[f"MAE={seen / 'encoder'}"])
    with pytest.raises(Mistake, match=r"compare\.encoders \(MAE\): 12 of 12 test participants"):
        open_rivals(replace(config, compare=compare), study)
    (told,) = open_rivals(replace(config, compare=compare, allow_seen=True), study)
    assert told.name == "MAE"


def family_of(run):
    Encoder(SMALL).save_pretrained(run / "encoder")
    return Family.of_one(Encoder(SMALL).eval(), str(run / "encoder"))


def test_one_encoder_answers_everywhere_and_several_only_where_they_are_for(place):
    both, _ = open_family(str(place / "dme-fold-0-seed{seed}" / "encoder"), CheckpointConfig())
    assert both.of("anything", 1) is both.members["", 1]
    with pytest.raises(Mistake, match=r"round fold-0 and seed 2; there are .*seed0/encoder"):
        both.of("fold-0", 2)
    assert not both.is_one
    alone, _ = open_family(str(place / "dme-fold-0-seed1" / "encoder"), CheckpointConfig())
    assert alone.is_one
    assert alone.of("fold-1", 7) is alone.first
    assert alone.fingerprint() != both.fingerprint()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dme-{round}-of-{round}/encoder", "once, on this machine"),
        ("nobody-{seed}/encoder", "nothing there is named like that"),
    ],
)
def test_a_place_that_names_nobody_is_one_line(place, name, said):
    with pytest.raises(Mistake, match=said):
        find_members(str(place / name))
    with pytest.raises(Mistake, match="on this machine"):
        find_members("gs://bucket/{round}/encoder")


def test_encoders_of_two_shapes_are_no_family(place, tmp_path):
    Encoder(SMALL).save_pretrained(tmp_path / "a-0")
    other = EncoderConfig(
        input_shape=(8, 64, 64), patch_size=(2, 16, 16), width=36, depth=2, heads=3
    )
    Encoder(other).save_pretrained(tmp_path / "a-1")
    with pytest.raises(Mistake, match="a-1 has another shape"):
        open_family(str(tmp_path / "a-{seed}"), CheckpointConfig())


@pytest.mark.parametrize(("few", "left"), [(True, 8), (False, 32)])
def test_who_chooses_has_few_labels_too_unless_told_otherwise(few, left):
    people = np.arange(200)
    target = Target(kind="nominal", values=(people % 10 == 0) * 1, names=("no", "yes"))
    eyes = target.take(people.repeat(2))
    rounds = make_rounds("kfold", target, people, seed=0)[:1]
    assert rounds[0].validation.sum() == 32
    compare = ComparisonConfig(fractions=[0.25], turns=2, few_validation=few)
    config = FinetuneConfig(compare=compare)
    drawn = draw_subsets(config, rounds, target, people, 0.25)
    assert [one.validation.sum() for (one,) in drawn] == [left, left]
    assert [one.fit.sum() for (one,) in drawn] == [32, 32]
    assert subset_sizes(drawn, people) == {"fit": 32, "validation": left}
    pairs = make_rounds("kfold", eyes, people.repeat(2), seed=0)[:1]
    both = draw_subsets(config, pairs, eyes, people.repeat(2), 0.25)
    assert subset_sizes(both, people.repeat(2)) == {"fit": 32, "validation": left}, "not eyes"
