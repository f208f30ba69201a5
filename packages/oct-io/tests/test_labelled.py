"""Choosing some labelled volumes: whom they are of, and that no class is forgotten."""

import numpy as np
import pytest
from oct_io import PhantomTree, SourceConfig, open_source
from oct_io.labelled import UNLABELLED, choose_labelled

TREE = PhantomTree(
    participants=16, shape=(4, 40, 32), split_fractions=(0.5, 0.0, 0.5), devices=("phantom_a",),
    jobs=1,
)  # fmt: skip
COLUMNS = ("thin", "fluid", "drusen")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("labelled")
    config = SourceConfig(
        root=str(place / "data"), cache=str(place / "cache"), window="tiny", jobs=1, phantom=TREE
    )
    return open_source(config)


@pytest.fixture(scope="module")
def questions(source):
    return {column: source.labelled(column) for column in COLUMNS}


@pytest.fixture(scope="module")
def choose(source, questions):
    def choose(count=8, seed=0):
        return choose_labelled(source.volumes, questions, count, seed=seed)

    return choose


def test_no_test_participant_is_chosen_and_everybody_else_may_be(choose, source):
    chosen = choose(count=1000)
    tested = {key for key, row in source.table.items() if row["recommended_split"] == "test"}
    everyone = {entry.participant for entry in source.volumes.entries}
    assert set(chosen.participants) == everyone - tested
    assert len(tested & everyone) == 8


def test_a_participant_that_one_column_tests_is_chosen_for_no_other(source):
    thin, fluid = source.labelled("thin"), source.labelled("fluid", test_split="train")
    chosen = choose_labelled(source.volumes, {"thin": thin, "fluid": fluid}, 8, seed=0)
    assert len(chosen.volumes) == 0


def test_each_class_of_each_column_is_among_the_volumes(choose):
    chosen = choose(count=6)
    assert len(chosen.volumes) == len(chosen.participants) == 6
    for column in COLUMNS:
        assert sorted(set(chosen.labels[column])) == [0, 1], column


def test_the_labels_are_those_of_the_chosen_volumes(choose, questions):
    chosen = choose()
    for column, examples in questions.items():
        known = dict(zip(examples.volumes.ids, examples.labels.tolist(), strict=True))
        assert chosen.labels[column].tolist() == [known[one] for one in chosen.volumes.ids]


def test_a_volume_without_a_label_in_a_column_is_marked_there(source, questions):
    thin = questions["thin"]
    some = thin.volumes.select(range(4))
    few = type(thin)(
        volumes=some, kind="nominal", values=thin.labels[:4], names=thin.classes,
        participants=thin.participants[:4], held_out=np.zeros(4, dtype=bool), split_rule="none",
    )  # fmt: skip
    chosen = choose_labelled(
        source.volumes, {"fluid": questions["fluid"], "thin": few}, 1000, seed=0
    )
    labelled = set(some.ids)
    for one, label in zip(chosen.volumes.ids, chosen.labels["thin"], strict=True):
        assert (label == UNLABELLED) == (one not in labelled)
    assert (chosen.labels["fluid"] != UNLABELLED).all()
    assert (chosen.labels["thin"] == UNLABELLED).any()


def test_the_choice_depends_on_the_seed_alone(choose):
    one, same, other = (choose(seed=seed).volumes.fingerprint for seed in (0, 0, 1))
    assert one == same != other
