"""What was meant: the nearest right names for a misspelt setting, and the reason for a refusal."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from oct_launch.console import one_line
from oct_launch.settings import Setting, read_choices, read_groups, walk

WANTED = {
    "could not be converted to Integer": "an integer",
    "could not be converted to Float": "a number",
    "is not a valid bool": "true or false",
}
"""What OmegaConf says of a value, and what it must be in the words of a reader."""


def explain(
    error: BaseException, overrides: Sequence[str], schema: type, configs: Path, name: str
) -> str:
    """Say in one line what is wrong with the arguments; "" if they explain nothing.

    Args:
        error: what Hydra or OmegaConf said.
        overrides: the arguments that set something.
        schema: dataclass of the settings.
        configs: folder of the groups.
        name: of the app.
    """
    groups, settings = read_groups(configs, name), list(walk(schema))
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException:
        return _explain_quotes(overrides)
    for one in parsed:
        key = one.key_or_group.replace("/", ".")
        if key.split(".")[0] == "hydra":
            continue
        if one.key_or_group in groups:
            if said := _explain_choice(one.key_or_group, one.value(), configs):
                return said
        elif said := _explain_entry(key, settings):
            return said
        elif not _is_known(key, settings):
            return _explain_key(key, [one.key for one in settings] + list(groups))
    return _explain_type(error)


def _explain_quotes(overrides: Sequence[str]) -> str:
    """Which argument Hydra reads as grammar of its own and would read in quotes; "" if none."""
    parser = OverridesParser.create()
    for one in overrides:
        key, _, value = one.partition("=")
        try:
            parser.parse_overrides([one])
        except OverrideParseException:
            quoted = f'{key}="{value}"'
            try:
                parser.parse_overrides([quoted])
            except OverrideParseException:
                return ""
            return f"{one}: has signs that Hydra reads as its own; quoted it is '{quoted}'"
    return ""


def _explain_entry(key: str, settings: Iterable[Setting]) -> str:
    """What is wrong with a key below an entry of a dictionary of sections, as in more.NAME.root."""
    for one in settings:
        if one.entry is not None and key.startswith(f"{one.key}."):
            name, _, rest = key[len(one.key) + 1 :].partition(".")
            known = list(walk(one.entry, f"{one.key}.{name}."))
            if rest and not _is_known(key, known):
                return _explain_key(key, [other.key for other in known])
    return ""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names, the nearest first; as a whole, else by their last part."""
    names = list(dict.fromkeys(known))
    if found := get_close_matches(word, names, n=3, cutoff=0.75):
        return found
    last = word.rsplit(".", 1)[-1]
    leaves = get_close_matches(last, [one.rsplit(".", 1)[-1] for one in names], n=3, cutoff=0.75)
    close = [one for leaf in dict.fromkeys(leaves) for one in names if one.endswith(f".{leaf}")]
    return close[:3] or get_close_matches(word, names, n=3)


def _is_known(key: str, settings: Iterable[Setting]) -> bool:
    return any(key == one.key or (one.open and key.startswith(f"{one.key}.")) for one in settings)


def _explain_key(key: str, known: Sequence[str]) -> str:
    close = nearest(key, known)
    meant = f"did you mean {' or '.join(close)}?" if close else "--help lists all"
    return f"{key}: there is no such setting; {meant}"


def _explain_choice(group: str, value: object, configs: Path) -> str:
    choices = [one.name for one in read_choices(configs, group)]
    if value is None or not isinstance(value, str) or value in choices:
        return ""
    close = get_close_matches(value, choices, n=3)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{group}/{value}: there is no such choice; {meant}There are {', '.join(choices)}"


def _explain_type(error: BaseException) -> str:
    """What a value must be, from the error below Hydra's."""
    cause: BaseException | None = error
    while cause is not None:
        key = getattr(cause, "full_key", "")
        if isinstance(cause, OmegaConfBaseException) and key:
            text = one_line(cause)
            if text.endswith("is not in struct"):
                return f"{key}: there is no such entry; {key}=NAME OF A CONFIG makes it"
            for complaint, words in WANTED.items():
                if found := re.match(rf"Value ('.*?')(?: of type \S+)? {complaint}", text):
                    return f"{key} must be {words}, not {found[1]}"
            return f"{key}: {text}"
        cause = cause.__cause__
    return ""
