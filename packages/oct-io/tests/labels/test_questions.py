"""Questions of every kind to one column, and the settings that do not go together."""

import pytest
from oct_io import TreeError
from oct_io.catalog.participants import STUDY_GROUPS
from oct_io.labels.questions import LabelQuestion, answer, read_numbers, read_yes_no

GROUPS = {str(n): {"study_group": name} for n, name in enumerate((*STUDY_GROUPS, "", "healthy"))}


def rows(*cells, column="grade"):
    return {str(number): {column: cell} for number, cell in enumerate(cells)}


def ask(table, **question):
    return answer(LabelQuestion(**{"column": "grade"} | question), table)


def test_more_numbers_than_classes_may_be_are_a_quantity_and_fewer_are_classes():
    many, few = rows(*map(str, range(21))), rows(*map(str, range(20)))
    assert ask(many).kind == "regression"
    assert ask(many).values["7"] == 7.0
    assert ask(many).names == ("grade",)
    assert (ask(few).kind, len(ask(few).names)) == ("nominal", 20)
    assert ask(few, kind="regression").kind == "regression"
    with pytest.raises(TreeError, match="has 21 different values; at most 20 classes"):
        ask(many, kind="nominal")
    with pytest.raises(TreeError, match="has 22 different values"):
        ask(rows(*map(str, range(21)), "high"))


def test_the_order_of_severity_is_kept_unless_asked_otherwise():
    for column in ("study_group", "diabetes4"):
        found = ask(GROUPS, column=column)
        assert (found.kind, found.names) == ("ordinal", STUDY_GROUPS)
        assert found.values == {"0": 0, "1": 1, "2": 2, "3": 3, "5": 0}
        assert ask(GROUPS, column=column, kind="nominal").kind == "nominal"
    assert ask(GROUPS, column="healthy_vs_rest").kind == "nominal"


def test_words_have_no_order_unless_it_is_given_and_numbers_have():
    words = rows("mild", "none", "Severe", "mild")
    assert ask(words).names == ("mild", "none", "severe")
    with pytest.raises(TreeError, match=r"its classes are words .*; task\.classes=\[\.\.\.\] says"):
        ask(words, kind="ordinal")
    found = ask(words, kind="ordinal", classes=["none", "mild", "severe"])
    assert found.values == {"0": 1, "1": 0, "2": 2, "3": 1}
    assert found.kind == "ordinal"
    assert ask(rows("2", "10", "1"), kind="ordinal").names == ("1", "2", "10")


def test_a_subset_of_classes_leaves_the_others_out_and_counts_them():
    found = ask(rows("amd", "csc", "normal", "AMD", "", "dme"), classes=["normal", "amd"])
    assert found.values == {"0": 1, "2": 0, "3": 1}
    assert (found.names, found.outside, found.kind) == (("normal", "amd"), 2, "nominal")
    ends = ask(GROUPS, column="study_group", classes=["insulin-controlled", "healthy"])
    assert ends.values == {"0": 1, "3": 0, "5": 1}
    preset = ask(GROUPS, column="healthy_vs_rest", classes=["rest", "healthy"])
    assert preset.values == {"0": 1, "1": 0, "2": 0, "3": 0, "5": 1}
    with pytest.raises(TreeError, match=r"no cell is 'glaucoma' of task\.classes; there are amd"):
        ask(rows("amd", "normal"), classes=["normal", "glaucoma"])


def test_more_words_than_classes_may_be_can_be_asked_for_two_of_them():
    many = rows(*(f"diagnosis {number}" for number in range(30)))
    found = ask(many, classes=["diagnosis 3", "diagnosis 17"])
    assert (found.values, found.outside) == ({"3": 0, "17": 1}, 28)


def test_cuts_make_ordered_classes_and_a_value_that_reaches_a_cut_is_above_it():
    sugar = rows("5.6", "5.7", "6.4", "6.5", "", "11")
    found = ask(sugar, bins=[5.7, 6.5])
    assert found.values == {"0": 0, "1": 1, "2": 1, "3": 2, "5": 2}
    assert found.names == ("below 5.7", "5.7 to 6.5", "6.5 and more")
    assert found.kind == "ordinal"
    named = ask(sugar, bins=[5.7, 6.5], classes=["normal", "raised", "high"], kind="nominal")
    assert (named.names, named.kind) == (("normal", "raised", "high"), "nominal")


def test_a_cell_that_is_no_number_is_named_and_a_missing_one_is_none():
    assert read_numbers(rows("1.5", "", "nan", "unknown", "-2"), "grade") == {"0": 1.5, "4": -2.0}
    with pytest.raises(TreeError, match=r"as a quantity, but 1 of 2 cells are no numbers.*'tall'"):
        read_numbers(rows("1.5", "tall"), "grade")
    with pytest.raises(TreeError, match="holds no number"):
        read_numbers(rows("", "nan"), "grade")
    with pytest.raises(TreeError, match="no label column 'weight'; the table has: grade"):
        read_numbers(rows("1"), "weight")


def test_yes_and_no_are_read_in_all_their_spellings():
    cells = rows("TRUE", "no", "1", "0.0", "", "Yes", "unknown")
    assert read_yes_no(cells, "grade") == {"0": 1, "1": 0, "2": 1, "3": 0, "5": 1}
    with pytest.raises(TreeError, match="must say yes or no, not 'mild'"):
        read_yes_no(rows("yes", "mild"), "grade")
    with pytest.raises(TreeError, match="says neither yes nor no"):
        read_yes_no(rows("", ""), "grade")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "guess"}, r"task\.kind \(guess\) must be one of auto, nominal"),
        ({"kind": "survival"}, r"task\.kind=survival needs task\.event"),
        ({"kind": "multilabel"}, r"task\.kind=multilabel needs task\.columns"),
        ({"kind": "nominal", "event": "died"}, r"task\.event \(died\) goes with task\.kind=surv"),
        ({"kind": "ordinal", "columns": ["a"]}, r"task\.columns .* goes with task\.kind=multil"),
        ({"kind": "regression", "bins": [1.0]}, r"task\.bins .* do not go with task\.kind=regr"),
        ({"columns": ["a"], "classes": ["b", "c"]}, r"task\.classes .* do not go with"),
        ({"bins": [2.0, 1.0]}, r"task\.bins .* must be numbers that rise"),
        ({"bins": [float("nan")]}, r"task\.bins .* must be numbers that rise"),
        ({"bins": [1.0], "classes": ["a", "b", "c"]}, r"must be 2 for these task\.bins"),
        ({"classes": ["a"]}, r"task\.classes .* must be two or more"),
        ({"columns": ["a", "a"]}, r"task\.columns .* names one twice"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LabelQuestion(**settings)


def test_a_question_says_its_kind_where_the_column_need_not():
    assert LabelQuestion(columns=["a", "b"]).settled == "multilabel"
    assert LabelQuestion(column="years", event="died").settled == "survival"
    assert LabelQuestion(bins=[1.0]).settled == "ordinal"
    assert LabelQuestion().settled == ""
    assert LabelQuestion(columns=["a", "b"]).name == "a, b"
