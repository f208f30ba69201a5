"""A cache put into a bucket, from which any number of hosts train without a copy of it.

Its index comes last and makes it count, so that readers see all of it or nothing. It is never
changed afterwards: who would read it meanwhile would read two.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from oct_io.cache.index import INDEX, annotation_name, find_spoilt_shard, read_index, shard_name
from oct_io.cache.table import ENTRIES
from oct_io.errors import TreeError
from oct_io.quarantine import QUARANTINE, read_quarantine
from oct_io.storage.files import (
    file_size,
    join,
    read_if_there,
    redact,
    remove_folder,
    write_bytes,
)
from oct_io.storage.together import ask_together

BEGUN = "publishing.json"  # which cache comes
OTHER = "holds another cache; give this one a place of its own"
TOGETHER = 4  # shards of 64 MB that are in memory and on their way

Progress = Callable[[int, int], None]
"""Called with the number of files that lie in the bucket, and how many there will be."""


def publish_cache(folder: str | Path, url: str, progress: Progress | None = None) -> int:
    """Copy the cache in `folder` to `url`, and return how many files were sent.

    Files that lie there already, as long as they should be, are not sent again: a copy that was
    interrupted goes on. Paths of refused scans stay behind, because they name participants.

    Args:
        folder: of a whole cache.
        url: folder in a bucket, for this cache alone.
        progress: called after each file.

    Raises:
        TreeError: no whole cache in `folder`, or another one at `url`.
        StoreError: the store is out of reach; the same call goes on.
    """
    place = Path(folder)
    index = read_index(place)
    if not index.entries.digest or find_spoilt_shard(place, index) is not None:
        raise TreeError(f"{folder}: not a whole cache of this version; build it again")
    content = (place / INDEX).read_bytes()
    there = read_if_there(join(url, INDEX))
    if there == content:
        return 0
    if there is not None:
        raise TreeError(f"{redact(url)}: {OTHER}")
    claim(url, {"inputs": index.inputs, "entries": index.entries.digest})
    names = list(_files_of(place, len(index.shards)))
    sent = 0
    for first in range(0, len(names), TOGETHER):
        some = names[first : first + TOGETHER]
        sent += sum(ask_together(url, lambda name: _send(place / name, url), some))
        if progress is not None:
            progress(first + len(some), len(names))
    seal(url, place)
    return sent


def claim(url: str, about: Mapping[str, object]) -> None:
    """Note which cache comes, so that nothing of another is taken for a part of it.

    Raises:
        TreeError: another one was noted there.
    """
    noted = _note(about)
    there = read_if_there(join(url, BEGUN))
    if there is None:
        write_bytes(join(url, BEGUN), noted)
    elif there != noted:
        raise TreeError(
            f"{redact(url)}: holds a part of another cache, which is still coming or was "
            "interrupted; remove it if nobody goes on with it, or give this one a place of its own"
        )


def withdraw(url: str, about: Mapping[str, object]) -> None:
    """Take back that a cache comes, unless another has been noted since."""
    if read_if_there(join(url, BEGUN)) == _note(about):
        remove_folder(join(url, BEGUN))


def _note(about: Mapping[str, object]) -> bytes:
    return json.dumps(about, sort_keys=True).encode()


def seal(url: str, folder: Path) -> None:
    """Send what `folder` says of the shards that lie at `url`; the index, which counts, last."""
    write_bytes(join(url, ENTRIES), (folder / ENTRIES).read_bytes())
    write_bytes(join(url, QUARANTINE), _nameless(folder / QUARANTINE))
    write_bytes(join(url, INDEX), (folder / INDEX).read_bytes())


def _files_of(folder: Path, shards: int) -> Iterator[str]:
    """Names of all files of voxels and annotations."""
    for number in range(shards):
        for name in (shard_name(number), annotation_name(number)):
            if (folder / name).exists():
                yield name


def _send(path: Path, url: str) -> bool:
    """Copy a file, unless one as long lies there; true if it was sent."""
    place = join(url, path.name)
    if file_size(place) == path.stat().st_size:
        return False
    write_bytes(place, path.read_bytes())
    return True


def _nameless(path: Path) -> bytes:
    """Lines of a quarantine file without the paths of the scans."""
    refusals = read_quarantine(path) if path.exists() else ()
    lines = (json.dumps(asdict(replace(one, path="")), sort_keys=True) for one in refusals)
    return "".join(f"{line}\n" for line in lines).encode()
