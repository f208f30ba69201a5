"""Libraries that only some formats need, imported when a file asks for them."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from oct_io.errors import ScanError


def needed(module: str, extra: str, where: str) -> ModuleType:
    """Import `module`, which comes with the extra `oct-io[extra]`.

    Raises:
        ScanError: stage `parse`, with what to install.
    """
    try:
        import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        reason = f"reading it needs {library}: install oct-io[{extra}]"
        raise ScanError(where, "parse", reason) from error
    return sys.modules[module]


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep what `library` prints and logs, which may quote the file, to itself."""
    logger = logging.getLogger(library)
    before, logger.disabled = logger.disabled, True
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.disabled = before
        logger.setLevel(level)
