"""Where volumes to embed come from: anything with a length, numbered volumes and their ids.

For `oct-vjepa embed`; a data set of scans is opened by whoever owns it.
"""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

SUFFIXES = (".npy", ".npz", ".safetensors")
ARRAY_NAMES = ("volume", "voxels")
"""Array of a file with several that is taken for the volume."""


class SourceError(Exception):
    """Volumes that cannot be opened or read; the text is one line that names them."""


@runtime_checkable
class VolumeSource(Protocol):
    """What can be embedded. Two more attributes are used where they exist.

    - `fingerprint: str` stands for the volumes; a job that was begun with others is not resumed.
    - `spacings`, or else `spacing`: (z, y, x) between voxel centres, for all volumes or one row
      each; encoders whose positions are lengths need it.
    """

    @property
    def ids(self) -> Sequence[str]:
        """Name of each volume, all different."""
        ...

    def __len__(self) -> int:
        """Number of volumes."""
        ...

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        """Volume (Z, Y, X) or (C, Z, Y, X), uint8 or floating."""
        ...


class FolderVolumes:
    """Volumes of a folder and the folders in it: .npy, .npz and .safetensors, by path.

    The id of a volume is its path within the folder. A file with several arrays must call one of
    them "volume" or "voxels".

    Raises:
        SourceError: no such folder, or nothing in it that can be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise SourceError(f"{folder}: is not a folder; name one with {', '.join(SUFFIXES)}")
        self.paths = sorted(
            path
            for path in self.folder.rglob("*")
            if path.suffix in SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not self.paths:
            raise SourceError(f"{folder}: holds no {', '.join(SUFFIXES)}; nothing to embed")

    @property
    def ids(self) -> list[str]:
        """Path of each volume within the folder."""
        return [path.relative_to(self.folder).as_posix() for path in self.paths]

    @property
    def fingerprint(self) -> str:
        """Stands for names, sizes and times of the files."""
        digest = hashlib.sha256()
        for name, path in zip(self.ids, self.paths, strict=True):
            state = path.stat()
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        return read_array(self.paths[number])


def read_array(path: Path) -> NDArray[Any]:
    """The array of a file, or the one called "volume" or "voxels" if it has several.

    Raises:
        SourceError: a damaged file, Python objects in it, or several arrays without those names.
    """
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return file[_pick(path, file.files)]
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(_pick(path, list(file.keys())))
    except (OSError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise SourceError(f"{path}: cannot be read as a volume ({error})") from error


def open_source(place: str, opener: str = "") -> VolumeSource:
    """The volumes at `place`.

    Args:
        place: a folder, or whatever `opener` takes.
        opener: "module:function" that returns a `VolumeSource`, such as "oct_io:open_cache"; empty
            for a folder of arrays.

    Raises:
        SourceError: what cannot be opened, and why.
    """
    if not opener:
        return FolderVolumes(place)
    module, _, name = opener.partition(":")
    if not module or not name:
        raise SourceError(f"--source {opener}: must be module:function, such as oct_io:open_cache")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SourceError(f"--source {opener}: cannot be imported ({error})") from error
    try:
        source = function(place)
    except Exception as error:  # foreign code: any error of its own is about `place`
        raise SourceError(f"{place}: {opener} cannot open it ({error})") from error
    missing = [part for part in ("ids", "__len__", "__getitem__") if not hasattr(source, part)]
    if missing:
        raise SourceError(
            f"--source {opener}: returned {type(source).__name__}, which lacks {missing[0]}; it "
            "must have a length, numbered volumes and `ids`"
        )
    return source


def _pick(path: Path, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    for name in ARRAY_NAMES:
        if name in names:
            return name
    raise SourceError(
        f"{path}: has the arrays {sorted(names)[:6]}; call the volume {' or '.join(ARRAY_NAMES)}"
    )
