"""Features of a data set, computed once for each encoder and kept on disk."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from oct_vjepa.encoder import Encoder
from oct_vjepa.pooling import POOLS
from oct_vjepa.probes import embed_volumes

Features = dict[str, NDArray[np.float32]]
"""Pool to (N, D), or (N, 2D) for `mean_std`."""


def weights_fingerprint(encoder: Encoder) -> str:
    """16 hex characters that stand for the configuration and every weight of an encoder."""
    digest = hashlib.sha256(json.dumps(asdict(encoder.config), sort_keys=True).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_or_embed(
    encoder: Encoder,
    volumes: Iterable[NDArray[Any]],
    *,
    volumes_fingerprint: str,
    folder: Path,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    pools: Sequence[str] = POOLS,
    spacing: Sequence[float] | NDArray[Any] | None = None,
    layers: Sequence[int] | None = None,
) -> Features:
    """Features of `volumes` for each pool; read from `folder` if this pair was embedded before.

    A file that is damaged, or lacks a pool, is made again.

    Args:
        encoder: whose features.
        volumes: as for `embed_volumes`.
        volumes_fingerprint: stands for the volumes and their order.
        folder: local folder for the feature files; made if missing.
        batch_size: volumes in one pass.
        device: where to compute.
        pools: which; those of `POOLS` if left out.
        spacing: as for `embed_volumes`; read by encoders whose positions are lengths.
        layers: as for `embed_volumes`.
    """
    wanted = list(pools)
    key = f"{weights_fingerprint(encoder)}-{volumes_fingerprint[:16]}"
    if spacing is not None and encoder.config.position_unit == "length":
        steps = np.ascontiguousarray(spacing, dtype=np.float32)
        key += f"-{hashlib.sha256(steps.tobytes()).hexdigest()[:8]}"
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
    features = embed_volumes(
        encoder,
        volumes,
        batch_size=batch_size,
        device=device,
        pools=pools,
        spacing=spacing,
        layers=layers,
    )
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{key}-{os.getpid()}.draft"
    save_file(features, draft)
    os.replace(draft, path)
    return {pool: features[pool] for pool in wanted}
