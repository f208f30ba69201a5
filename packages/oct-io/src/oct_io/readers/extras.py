"""Libraries that only some formats need, imported when a file asks for them."""

import sys
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
