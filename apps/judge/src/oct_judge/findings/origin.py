"""The command that made a result, with nothing in it that should not be passed on."""

import shlex
from collections.abc import Sequence

from oct_io.storage.files import redact

PLACES = ("root", "cache", "labels", "split", "manifest", "label_concepts")
"""Settings of data whose values may name a person, a host or a bucket."""


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
    if value.startswith(("/", "~")) or "://" in value:
        return f"{key}{equals}.../{redact(value).rstrip('/').rsplit('/', 1)[-1]}"
    return setting
