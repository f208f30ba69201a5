"""A rule lets through what it says, and its error names section, field, value and rule."""

from types import SimpleNamespace

import pytest
from oct_vjepa import rules

NUMBERS = (float("nan"), -1, 0, 0.5, 1, 2)
ALLOWED = [
    (rules.POSITIVE, [0.5, 1, 2]),
    (rules.COUNT, [1, 2]),
    (rules.AT_LEAST_1, [1, 2]),
    (rules.NOT_NEGATIVE, [0, 0.5, 1, 2]),
    (rules.FROM_0_TO_1, [0, 0.5, 1]),
    (rules.FROM_0_BELOW_1, [0, 0.5]),
    (rules.BETWEEN_0_AND_1, [0.5]),
    (rules.ABOVE_0_TO_1, [0.5, 1]),
]


def said_of(rule, value):
    """The words that refuse the value; none if it may pass."""
    try:
        rules.check_numbers(SimpleNamespace(rate=value), "loop", rule, "rate")
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("rule", "allowed"), ALLOWED)
def test_a_rule_lets_through_what_it_says_and_names_what_it_refuses(rule, allowed):
    for value in NUMBERS:
        refused = f"loop.rate ({value}) {rule.words}"
        assert said_of(rule, value) == ("" if value in allowed else refused)


def test_every_named_field_is_checked_and_no_other():
    config = SimpleNamespace(first=1, second=-1)
    rules.check_numbers(config, "loop", rules.POSITIVE, "first")
    with pytest.raises(ValueError, match=r"loop\.second"):
        rules.check_numbers(config, "loop", rules.POSITIVE, "first", "second")


def test_a_choice_is_one_of_those_that_are_named():
    config = SimpleNamespace(kind="a", form="c")
    rules.check_choices(config, "loop", kind=("a", "b"))
    with pytest.raises(ValueError, match=r"loop\.form \('c'\) must be one of \('a', 'b'\)"):
        rules.check_choices(config, "loop", kind=("a", "b"), form=("a", "b"))
