"""What settings may be: the rules that every configuration shares, and the words that refuse."""

from collections.abc import Callable
from typing import NamedTuple


class Rule(NamedTuple):
    """What a number must be, and how an error says so."""

    words: str
    holds: Callable[[float], bool]


POSITIVE = Rule("must be positive", lambda value: value > 0)
COUNT = Rule("must be positive", lambda value: value >= 1)
AT_LEAST_1 = Rule("must be at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Rule("must not be negative", lambda value: value >= 0)
FROM_0_TO_1 = Rule("must be from 0 to 1", lambda value: 0 <= value <= 1)
FROM_0_BELOW_1 = Rule("must be from 0 to below 1", lambda value: 0 <= value < 1)
BETWEEN_0_AND_1 = Rule("must be between 0 and 1", lambda value: 0 < value < 1)
ABOVE_0_TO_1 = Rule("must be above 0 and at most 1", lambda value: 0 < value <= 1)


def check_numbers(config: object, section: str, rule: Rule, *names: str) -> None:
    """Refuse a configuration in which a field breaks the rule.

    Raises:
        ValueError: names the section, the field, its value and the rule.
    """
    for name in names:
        value = getattr(config, name)
        if not rule.holds(value):
            raise ValueError(f"{section}.{name} ({value}) {rule.words}")


def check_choices(config: object, section: str, **choices: tuple[str, ...]) -> None:
    """Refuse a configuration in which a field is none of its choices.

    Raises:
        ValueError: names the section, the field, its value and the choices.
    """
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"{section}.{name} ({value!r}) must be one of {allowed}")
