"""What a target accepts, which rows have an answer, and which rows are alike."""

import numpy as np
import pytest
from oct_vjepa.measures.target import STRATA, Target

NAN = np.nan


@pytest.mark.parametrize(
    ("kind", "values", "names", "known"),
    [
        ("nominal", [0, 1, -1, 2], "abc", [True, True, False, True]),
        ("ordinal", [0, -1], "ab", [True, False]),
        ("multilabel", [[0, 1], [-1, -1], [-1, 0]], "ab", [True, False, True]),
        ("regression", [1.5, NAN], "a", [True, False]),
        ("survival", [[3.0, 1.0], [2.0, NAN]], "a", [True, False]),
    ],
)
def test_rows_without_an_answer_are_told(kind, values, names, known):
    target = Target(kind=kind, values=np.array(values), names=tuple(names))
    assert target.known.tolist() == known
    assert target.take(target.known).known.all()


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [
        ("likely", [0, 1], "ab"),
        ("nominal", [0, 2], "ab"),
        ("nominal", [0, 0], "a"),
        ("multilabel", [0, 1], "ab"),
        ("multilabel", [[0, 2]], "ab"),
        ("survival", [1.0, 2.0], "a"),
    ],
)
def test_what_is_no_answer_to_the_question_is_refused(kind, values, names):
    with pytest.raises(ValueError, match=r"target|kind|values"):
        Target(kind=kind, values=np.array(values), names=tuple(names))


def test_strata_are_classes_combinations_and_parts_of_a_quantity():
    ages = Target(kind="regression", values=np.array([*range(50), NAN]), names=("age",))
    counts = np.bincount(ages.strata())
    assert sorted(counts.tolist()) == [1, *[50 // STRATA] * STRATA]
    labels = Target(kind="multilabel", values=np.array([[0, 1], [1, 1], [0, 1]]), names=("a", "b"))
    assert len(set(labels.strata()[[0, 2]])) == 1
    assert len(set(labels.strata())) == 2
