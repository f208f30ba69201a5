"""Features of volumes: where an encoder meets a data set, once, and what it found is kept."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from oct_vjepa.evaluation.parts import Parts, read_parts
from oct_vjepa.evaluation.sliced import AT_ONCE, SlicedEncoder
from oct_vjepa.model.configuration import CELLS, POOLS
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.pooling import check_pools, class_tokens_of, pool_cells, pool_tokens
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.saving import write_whole

Features = dict[str, NDArray[np.float32]]
"""Pool to (N, D), or as wide as `pooled_width` says; several layers stand side by side along it.
`cells` are of the last layer alone, (N, cells * D)."""

TOKENS = "tokens"
"""Key of the tokens themselves, (N, T, D), where they are kept."""


class Embedder(Protocol):
    """Anything that makes vectors of volumes; these two are all that an encoder must have.

    It pools by itself: its vectors come under each pool that is asked for. If it is a module, it is
    moved to the device and put in evaluation mode as an encoder is.
    """

    @property
    def fingerprint(self) -> str:
        """What stands for its weights and settings in the names of files."""

    def embed(self, volumes: Tensor, /) -> Tensor:
        """(B, D) of (B, Z, Y, X), in the type that the volumes have."""


AnyEncoder = Encoder | SlicedEncoder | Embedder


@torch.no_grad()
def embed_batch(
    encoder: AnyEncoder,
    volumes: NDArray[Any],
    *,
    pools: Sequence[str],
    spacing_B3: Tensor | None = None,
    layers: Sequence[int] | None = None,
    tokens: bool = False,
) -> Features:
    """Pooled features of one batch, computed where the encoder is and in the mode that it is in.

    Args:
        encoder: whose features.
        volumes: (B, Z, Y, X) or (B, C, Z, Y, X).
        pools: how the tokens become vectors; `CELLS` is one.
        spacing_B3: (z, y, x) between voxel centres, for encoders whose positions are lengths.
        layers: blocks that are pooled each by itself and put side by side; None: the last alone.
        tokens: keep the tokens too, under `TOKENS`.

    Raises:
        ValueError: the encoder cannot take the volumes, or there is no such pool or layer.
    """
    if isinstance(encoder, SlicedEncoder):
        return _embed_stacks(encoder, volumes, pools, spacing_B3, layers, tokens)
    if hasattr(encoder, "fingerprint"):
        foreign = cast(Embedder, encoder)
        return _embed_foreign(foreign, volumes, pools, whole=layers is None and not tokens)
    encoder, place = cast(Encoder, encoder), _device_of(encoder)
    extra: dict[str, Any] = {} if layers is None else {"layers": layers}
    if spacing_B3 is not None:
        extra["spacing_B3"] = spacing_B3.to(place)
    found = encoder(_tensor(volumes).to(place), **extra)
    levels = [one.float() for one in (found if layers is not None else (found,))]
    first = class_tokens_of(encoder)
    features = {
        pool: torch.cat([pool_tokens(one, pool, class_tokens=first) for one in levels], dim=-1)
        for pool in pools
        if pool != CELLS
    }
    if CELLS in pools:
        features[CELLS] = pool_cells(levels[-1], encoder.config.grid, class_tokens=first)
    if tokens:
        features[TOKENS] = torch.cat(levels, dim=-1)
    return {name: values.cpu().numpy() for name, values in features.items()}


def _embed_stacks(
    encoder: SlicedEncoder,
    volumes: NDArray[Any],
    pools: Sequence[str],
    spacing_B3: Tensor | None,
    layers: Sequence[int] | None,
    tokens: bool,
) -> Features:
    """Features of each stack, averaged over those of a volume.

    Raises:
        ValueError: tokens are asked for.
    """
    if tokens:
        raise ValueError("a sliced encoder has no tokens of whole volumes to keep")
    cut = encoder.cut(_tensor(volumes), spacing_B3)
    parts = []
    for first in range(0, len(cut.voxels), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        steps = None if cut.spacing_S3 is None else cut.spacing_S3[some]
        voxels = cut.voxels[some].numpy()
        parts.append(
            embed_batch(encoder.encoder, voxels, pools=pools, spacing_B3=steps, layers=layers)
        )
    whole = {pool: np.concatenate([part[pool] for part in parts]) for pool in pools}
    return {
        pool: values.reshape(len(volumes), cut.each, -1).mean(axis=1)
        for pool, values in whole.items()
    }


def _embed_foreign(
    encoder: Embedder, volumes: NDArray[Any], pools: Sequence[str], *, whole: bool
) -> Features:
    """The vectors of an encoder that pools by itself.

    Raises:
        ValueError: tokens or layers are asked for (not `whole`), several channels, or it gives
            anything but a vector a volume.
    """
    if not whole:
        raise ValueError(f"{type(encoder).__name__} pools by itself: it has no layers and tokens")
    batch = _tensor(volumes)
    if batch.shape[1] != 1:
        raise ValueError(f"{type(encoder).__name__} takes one channel, not {batch.shape[1]}")
    found = encoder.embed(batch[:, 0].to(_device_of(encoder)))
    if found.ndim != 2 or len(found) != len(volumes):
        raise ValueError(
            f"{type(encoder).__name__}.embed gave {tuple(found.shape)} for {len(volumes)} volumes; "
            "it must be one vector each"
        )
    vectors = found.float().cpu().numpy()
    return dict.fromkeys(pools, vectors)


def _device_of(encoder: object) -> torch.device:
    """Where it computes; the CPU if it is no module or has no parameters."""
    if isinstance(encoder, torch.nn.Module):
        return next((one.device for one in encoder.parameters()), torch.device("cpu"))
    return torch.device("cpu")


def fingerprint_of(encoder: AnyEncoder) -> str:
    """What stands for an encoder: its own word, or a hash of its weights and settings."""
    own = getattr(encoder, "fingerprint", None)
    return weights_fingerprint(cast(Encoder, encoder)) if own is None else str(own)


def key_of(
    encoder: AnyEncoder,
    volumes_fingerprint: str,
    spacing: Sequence[float] | NDArray[Any] | None,
) -> str:
    """What a file of kept features is called by: encoder, volumes, and spacing where it is read.

    Args:
        encoder: whose features.
        volumes_fingerprint: stands for the volumes and their order.
        spacing: as for `embed_volumes`.
    """
    key = f"{fingerprint_of(encoder)}-{volumes_fingerprint[:16]}"
    by_length = getattr(getattr(encoder, "config", None), "position_unit", "") == "length"
    if spacing is not None and by_length:
        steps = np.ascontiguousarray(spacing, dtype=np.float32)
        key += f"-{hashlib.sha256(steps.tobytes()).hexdigest()[:8]}"
    return key


def embed_volumes(
    encoder: AnyEncoder,
    volumes: Iterable[NDArray[Any]],
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    pools: Sequence[str] = POOLS,
    spacing: Sequence[float] | NDArray[Any] | None = None,
    layers: Sequence[int] | None = None,
) -> Features:
    """Pooled features of each volume for several pools, in one pass: pool -> (N, width).

    Args:
        encoder: moved to `device` if one is given. An `Encoder`, a `SlicedEncoder`, or anything of
            the protocol `Embedder`.
        volumes: (Z, Y, X) or (C, Z, Y, X) arrays, or one array of them; uint8 or floating.
        batch_size: volumes in one pass; the last batch may be smaller.
        device: where to compute; where the encoder is if left out.
        pools: which; those of `POOLS` if left out.
        spacing: (z, y, x) between voxel centres, for encoders whose positions are lengths; one
            triple for all volumes, or one row each, (N, 3).
        layers: blocks whose tokens are pooled each by itself and put side by side, from 0 and
            ascending; the last alone if left out. What is small and local may stand in earlier
            blocks and be gone from the last.

    Raises:
        ValueError: no volumes, several shapes in one batch, an unknown pool or layer, or not as
            many rows of spacing as volumes.
    """
    return _joined(
        list(_embed_rest(encoder, volumes, 0, batch_size, device, pools, spacing, layers)), pools
    )


def _embed_rest(
    encoder: AnyEncoder,
    volumes: Iterable[NDArray[Any]],
    done: int,
    batch_size: int,
    device: torch.device | str | None,
    pools: Sequence[str],
    spacing: Sequence[float] | NDArray[Any] | None,
    layers: Sequence[int] | None,
) -> Iterator[Features]:
    """Features of each batch behind the first `done` volumes, as `embed_volumes`."""
    check_pools([one for one in pools if one != CELLS])
    module = encoder if isinstance(encoder, torch.nn.Module) else torch.nn.Module()
    if device is not None:
        module.to(device)
    was_training = module.training
    module.eval()
    for batch in _batches(volumes, batch_size):
        steps = None if spacing is None else _spacing_rows(spacing, done, len(batch))
        yield embed_batch(encoder, batch, pools=pools, spacing_B3=steps, layers=layers)
        done += len(batch)
    module.train(was_training)
    if spacing is not None and np.ndim(spacing) == 2 and len(spacing) != done:
        raise ValueError(f"spacing has {len(spacing)} rows, but there are {done} volumes")


def _joined(parts: Sequence[Features], pools: Sequence[str]) -> Features:
    if not parts:
        raise ValueError("embed_volumes got no volumes")
    return {pool: np.concatenate([part[pool] for part in parts]) for pool in pools}


def load_or_embed(
    encoder: AnyEncoder,
    volumes: Iterable[NDArray[Any]] | Callable[[int], Iterable[NDArray[Any]]],
    *,
    volumes_fingerprint: str,
    folder: Path,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    pools: Sequence[str] = POOLS,
    spacing: Sequence[float] | NDArray[Any] | None = None,
    layers: Sequence[int] | None = None,
    save_every_s: float = 30.0,
) -> Features:
    """Features of `volumes` for each pool; read from `folder` if this pair was embedded before.

    A file that is damaged, or lacks a pool, is made again. What a kill interrupted goes on behind
    the last volume that is on disk, in batches of the same volumes, so that the features are those
    of a call that was not interrupted.

    Args:
        encoder: whose features.
        volumes: as for `embed_volumes`; or makes those from a number on, so that what is there
            need not be read.
        volumes_fingerprint: stands for the volumes and their order.
        folder: local folder for the feature files; made if missing.
        batch_size: volumes in one pass.
        device: where to compute.
        pools: which; those of `POOLS` if left out.
        spacing: as for `embed_volumes`; read by encoders whose positions are lengths.
        layers: as for `embed_volumes`.
        save_every_s: seconds of work that a kill may cost.

    Raises:
        ValueError: as `embed_volumes`.
        OSError: the disk does not take the features.
    """
    wanted = list(pools)
    key = key_of(encoder, volumes_fingerprint, spacing)
    if layers is not None:
        key += "-layers" + "_".join(map(str, layers))
    path = folder / f"{key}.safetensors"
    if path.exists():
        try:
            found = load_file(path)
        except SafetensorError:
            found = {}
        if found.keys() >= set(wanted):
            return {pool: found[pool] for pool in wanted}
        pools = [*wanted, *(pool for pool in found if pool not in wanted)]
    parts = Parts(folder / f"{key}-batches-of-{batch_size}.parts", pools, save_every_s)
    kept: list[Features] = []
    with suppress(FileNotFoundError):  # another process made the file just now, and tidied up
        kept = list(read_parts(parts.chain()))
    done = sum(len(part[pools[0]]) for part in kept)
    parts.begin(done)
    rest = volumes(done) if callable(volumes) else islice(volumes, done, None)
    for part in _embed_rest(encoder, rest, done, batch_size, device, pools, spacing, layers):
        kept.append(part)
        done += len(part[pools[0]])
        with suppress(FileNotFoundError):  # as above
            parts.add(part, done)
    features = _joined(kept, pools)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda draft: save_file(features, draft), shared=True)
    parts.clear()
    return {pool: features[pool] for pool in wanted}


def _spacing_rows(spacing: Sequence[float] | NDArray[Any], first: int, count: int) -> Tensor:
    """Spacing of `count` volumes from number `first` on, (count, 3), float32."""
    rows = np.asarray(spacing, dtype=np.float32)
    found = np.tile(rows, (count, 1)) if rows.ndim == 1 else rows[first : first + count]
    if found.shape != (count, 3):
        raise ValueError(
            f"spacing {rows.shape} must be three numbers, or a row of them for each volume; there "
            f"are at least {first + count} volumes"
        )
    return torch.from_numpy(found)


def _batches(volumes: Iterable[NDArray[Any]], batch_size: int) -> Iterator[NDArray[Any]]:
    iterator = iter(volumes)
    while rows := [np.asarray(volume) for volume in islice(iterator, batch_size)]:
        shapes = dict.fromkeys(row.shape for row in rows)
        if len(shapes) > 1:
            raise ValueError(
                f"volumes of the shapes {', '.join(map(str, shapes))} do not fit into one batch; "
                "bring them to one shape, or use batch_size 1"
            )
        yield np.stack(rows)


def _tensor(volumes: NDArray[Any]) -> Tensor:
    """(B, C, Z, Y, X)."""
    if volumes.dtype == np.uint16:  # torch computes with few unsigned types
        volumes = volumes.astype(np.float32)
    batch = torch.from_numpy(np.ascontiguousarray(volumes))
    return batch if batch.ndim == 5 else batch.unsqueeze(1)
