"""Read, audit, resample and cache retinal OCT scans, in millimetres.

`read_volume(url)` reads one scan, `open_volume(url)` what it says of itself; `read_manifest(root)`
lists those of a data set, `build_cache` decodes each once, and `open_cache` gives arrays of one
shape; `open_source(config)` does all of it. Every error that bad data causes is an `OctIoError` of
one line.

The folders are wings, each with its own docstring, from the ground up: storage (bytes), space
(windows), scan (one scan of any format), dicom, readers, phantom, records (which scans there are),
catalog (what a data set holds), cache (decoded once), commands. A wing imports those before it, as
`lint-imports` checks.
"""

from typing import TYPE_CHECKING, Any

from oct_io.cache.build import build_cache
from oct_io.cache.volumes import CachedVolumes, open_cache
from oct_io.catalog.audit import audit
from oct_io.catalog.manifest import ScanRecord, hash_participant, read_manifest
from oct_io.catalog.participants import read_participants
from oct_io.errors import OctIoError, ScanError, TreeError
from oct_io.labels.classes import load_labels
from oct_io.readers.registry import open_volume, read_volume
from oct_io.readers.registry import read_header as read_header
from oct_io.space.resample import WINDOWS, Window, resample
from oct_io.volume import OctVolume, Spacing

if TYPE_CHECKING:
    from oct_io.dicom.writer import write_dicom
    from oct_io.labels.questions import LabelQuestion as LabelQuestion
    from oct_io.phantom import PhantomTree, draw_phantom, write_phantom_tree
    from oct_io.source import LabelledVolumes as LabelledVolumes
    from oct_io.source import Source as Source
    from oct_io.source import SourceConfig, open_source

_LATER = {
    "PhantomTree": "oct_io.phantom",
    "draw_phantom": "oct_io.phantom",
    "write_phantom_tree": "oct_io.phantom",
    "LabelQuestion": "oct_io.labels.questions",
    "LabelledVolumes": "oct_io.source",
    "Source": "oct_io.source",
    "SourceConfig": "oct_io.source",
    "open_source": "oct_io.source",
    "write_dicom": "oct_io.dicom.writer",
}
"""Imported at first use: who reads scans does not wait for the code that draws them. The two types
that `open_source` gives, and that of a question, are here too and left out of `__all__`."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'oct_io' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)


__all__ = [
    "WINDOWS",
    "CachedVolumes",
    "OctIoError",
    "OctVolume",
    "PhantomTree",
    "ScanError",
    "ScanRecord",
    "SourceConfig",
    "Spacing",
    "TreeError",
    "Window",
    "audit",
    "build_cache",
    "draw_phantom",
    "hash_participant",
    "load_labels",
    "open_cache",
    "open_source",
    "open_volume",
    "read_manifest",
    "read_participants",
    "read_volume",
    "resample",
    "write_dicom",
    "write_phantom_tree",
]
