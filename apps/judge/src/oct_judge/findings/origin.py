"""The command that made a result, with nothing in it that should not be passed on."""

import re
import shlex
from collections.abc import Sequence

from oct_io.storage.files import redact

PLACES = ("root", "cache", "labels", "split", "manifest", "label_concepts")
"""Settings of data whose values may name a person, a host or a bucket."""
PATH = re.compile(r"""(?<![^\s"'=,@\[({])(?:[a-z][a-z0-9]*://|[/~])[^\s"',\])}]+""")
"""An absolute path or a URL in a value, such as in a list of name=place."""


def command_of(app: str, given: Sequence[str]) -> str:
    """The line that repeats this run; where data lie is left for the reader to fill in.

    Args:
        app: name of the app.
        given: settings of the command line, key=value each.
    """
    return shlex.join(["uv", "run", f"apps/{app}", *(_told(one) for one in given)])


def _told(setting: str) -> str:
    key, equals, value = setting.partition("=")
    if key.lstrip("+").startswith("data.storage"):
        return f"{key}{equals}..."
    if key.lstrip("+").removeprefix("data.") in PLACES and key.lstrip("+").startswith("data."):
        return f"{key}{equals}..."
    if value.startswith(("/", "~")) or re.match(r"[a-z][a-z0-9]*://", value):
        return f"{key}{equals}{_end_of(value)}"
    return f"{key}{equals}{PATH.sub(lambda found: _end_of(found[0]), value)}"


def _end_of(place: str) -> str:
    """Its last name, with the rest left out."""
    return f".../{redact(place).rstrip('/').rsplit('/', 1)[-1]}"
