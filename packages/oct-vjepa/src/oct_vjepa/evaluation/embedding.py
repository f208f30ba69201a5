"""Features of many volumes in one file, made in batches; what was done survives a kill.

Finished batches lie in a folder beside the result, `OUT.parts`, until all are there. The same call
again goes on behind the last of them. Batches are cut at the same rows each time, so that the
result does not depend on how often the work was interrupted.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oct_vjepa.evaluation.features import TOKENS, Features, embed_batch
from oct_vjepa.evaluation.parts import Parts, read_parts, row_shape, rows_in
from oct_vjepa.evaluation.sources import SourceError, VolumeSource
from oct_vjepa.evaluation.tables import Column, check_format, format_of, read_about, write_table
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.pooling import check_pools
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.rules import COUNT, NOT_NEGATIVE, check_numbers
from oct_vjepa.saving import write_whole

_PLAN = "plan.json"


class EmbeddingError(Exception):
    """Work that cannot go on; the text is one line that says what to do."""


@dataclass(kw_only=True, slots=True)
class EmbeddingConfig:
    """What is kept of each volume, and how the work is cut."""

    pools: list[str] = field(default_factory=lambda: ["mean"])
    """How the tokens become vectors; a column each."""

    tokens: bool = False
    """Keep all tokens too; needs volumes of one shape, and 4 bytes x N x D for each."""

    layers: list[int] = field(default_factory=list)
    """Blocks, from 0 and ascending, that are pooled each by itself and put side by side; none: the
    last alone. What is small and local may stand in earlier blocks and be gone from the last."""

    batch_size: int = 8
    """Volumes in one pass."""

    format: str = ""
    """parquet or safetensors; empty: by the suffix of the file."""

    device: str = "cpu"
    """Where to compute, as torch names it."""

    save_every_s: float = 10.0
    """Seconds of work that a kill may cost."""

    def __post_init__(self) -> None:
        check_pools(self.pools, "embedding.pools")
        if not self.pools and not self.tokens:
            raise ValueError("embedding.pools is empty and tokens is off: nothing to keep")
        if len(set(self.pools)) < len(self.pools):
            raise ValueError(f"embedding.pools ({self.pools}) names one twice")
        check_numbers(self, "embedding", COUNT, "batch_size")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"embedding.device ({self.device!r}) is not one of torch's") from error
        check_numbers(self, "embedding", NOT_NEGATIVE, "save_every_s")


def embed_source(
    encoder: Encoder,
    source: VolumeSource,
    out: str | Path,
    config: EmbeddingConfig | None = None,
    *,
    restart: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> bool:
    """Write the features of every volume to `out`; goes on where an earlier call was stopped.

    Args:
        encoder: whose features; moved to the device and put in evaluation mode.
        source: the volumes.
        out: the file; read it with `oct_vjepa.evaluation.tables.read_embeddings`.
        config: see `EmbeddingConfig`.
        restart: throw away what is there, finished or not, and start at the first volume.
        report: called with the volumes done and those in all, at the start and after each batch.

    Returns:
        False if `out` was there already, made by the same job.

    Raises:
        EmbeddingError: `out` or its parts are of another job, a volume that cannot be embedded, ids
            that are not all different, or a device that is not there.
        TableError: Parquet without pyarrow.
        ValueError: an unknown format.
    """
    config = EmbeddingConfig() if config is None else config
    job = _Job(_placed(encoder, config.device).eval(), source, Path(out), config)
    if restart:
        job.clear()
    if not job.begin():
        return False
    done = job.done()
    if report is not None:
        report(done, len(source))
    for stop in job.run(done):
        if report is not None:
            report(stop, len(source))
    job.finish()
    return True


class _Job:
    """One file to be made, of parts."""

    def __init__(
        self, encoder: Encoder, source: VolumeSource, out: Path, config: EmbeddingConfig
    ) -> None:
        self.encoder, self.source, self.out, self.config = encoder, source, out, config
        self.format = format_of(out, config.format)
        check_format(self.format)
        self.folder = out.with_name(f"{out.name}.parts")
        self.parts = Parts(self.folder, self._names(), config.save_every_s)
        self.token_shape: tuple[int, ...] | None = None  # all rows of a table have one
        self.ids = [str(one) for one in source.ids]
        if len(self.ids) != len(source) or not self.ids:
            raise EmbeddingError(f"{len(source)} volumes have {len(self.ids)} ids; give one each")
        if len(set(self.ids)) < len(self.ids):
            twice = next(one for one in self.ids if self.ids.count(one) > 1)
            raise EmbeddingError(f"ids: {twice!r} is there twice; all must be different")
        self.plan = {
            "encoder": weights_fingerprint(encoder),
            "ids": hashlib.sha256("\n".join(self.ids).encode()).hexdigest(),
            "volumes": str(getattr(source, "fingerprint", "")),
            "pools": list(config.pools),
            "tokens": config.tokens,
            **({"layers": list(config.layers)} if config.layers else {}),
            "batch_size": config.batch_size,  # a batch's size can change the last bit of a feature
        }

    def clear(self) -> None:
        """Remove the result and the parts."""
        self.out.unlink(missing_ok=True)
        self.parts.clear()

    def begin(self) -> bool:
        """Make the folder of parts, or check that it is this job's; false if all is done."""
        if self.out.exists():
            if read_about(self.out, self.format).get("plan") == self.plan:
                self.parts.clear()  # killed while tidying up
                return False
            raise EmbeddingError(
                f"{self.out}: is there, from another encoder, other volumes or other settings; "
                "use --restart to replace it, or another name"
            )
        path = self.folder / _PLAN
        if path.exists():
            if json.loads(path.read_text()) != self.plan:
                raise EmbeddingError(
                    f"{self.folder}: holds parts of another encoder, other volumes or other "
                    "settings; use --restart to throw them away"
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda draft: draft.write_text(json.dumps(self.plan)))
        return True

    def done(self) -> int:
        """Volumes whose features are on disk."""
        chain = self.parts.chain()
        if chain and self.config.tokens:
            self.token_shape = row_shape(chain[0][2], TOKENS)
        self.parts.begin(rows_in(chain))
        return rows_in(chain)

    def run(self, start: int) -> Iterator[int]:
        """Embed from row `start` on; gives the number of volumes done after each batch."""
        for at in range(start, len(self.ids), self.config.batch_size):
            stop = min(at + self.config.batch_size, len(self.ids))
            self.parts.add(self._embed(at, stop), stop, last=stop == len(self.ids))
            yield stop

    def finish(self) -> None:
        """Join the parts, then remove them."""
        chain = self.parts.chain()
        columns = [Column(name, row_shape(chain[0][2], name)) for name in self._names()]
        about = {"plan": self.plan, "columns": {one.name: list(one.shape) for one in columns}}
        blocks = read_parts(chain)
        write_table(
            self.out, self.format, ids=self.ids, columns=columns, blocks=blocks, about=about
        )
        self.parts.clear()

    def _names(self) -> list[str]:
        return [*self.config.pools, *([TOKENS] if self.config.tokens else [])]

    def _embed(self, start: int, stop: int) -> Features:
        """Features of the rows from `start` to before `stop`; volumes of one shape go together."""
        volumes = [self._read(number) for number in range(start, stop)]
        rows: dict[str, list[Any]] = {name: [None] * len(volumes) for name in self._names()}
        for shape in dict.fromkeys(volume.shape for volume in volumes):
            members = [place for place, one in enumerate(volumes) if one.shape == shape]
            batch = np.stack([volumes[place] for place in members])
            for name, values in self._features(batch, [start + one for one in members]).items():
                for place, value in zip(members, values, strict=True):
                    rows[name][place] = value
        for place, tokens in enumerate(rows.get(TOKENS, [])):
            if self.token_shape is None:
                self.token_shape = tokens.shape
            if tokens.shape != self.token_shape:
                raise EmbeddingError(
                    f"{self.ids[start + place]}: has {tokens.shape[0]} tokens, volumes before it "
                    f"{self.token_shape[0]}; leave --tokens out or bring them to one shape"
                )
        return {name: np.stack(values) for name, values in rows.items()}

    def _read(self, number: int) -> NDArray[Any]:
        try:
            volume = np.asarray(self.source[number])
        except SourceError as error:
            raise EmbeddingError(str(error)) from error
        except Exception as error:  # foreign code: whatever it raises is about this volume
            raise EmbeddingError(f"{self.ids[number]}: cannot be read ({error})") from error
        if volume.ndim not in (3, 4) or volume.dtype.kind not in "uif":
            raise EmbeddingError(
                f"{self.ids[number]}: is {volume.dtype} {volume.shape}, not numbers of (Z, Y, X) "
                "or (C, Z, Y, X)"
            )
        return volume if volume.ndim == 4 else volume[None]

    def _features(self, batch: NDArray[Any], numbers: list[int]) -> Features:
        try:
            found = embed_batch(
                self.encoder,
                batch,
                pools=self.config.pools,
                spacing_B3=self._spacing(numbers),
                layers=self.config.layers or None,
                tokens=self.config.tokens,
            )
        except ValueError as error:
            raise EmbeddingError(f"{self.ids[numbers[0]]}: {error}") from error
        for values in found.values():
            bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if bad.any():
                name = self.ids[numbers[int(bad.argmax())]]
                raise EmbeddingError(f"{name}: its features are not finite; are its voxels?")
        return found

    def _spacing(self, numbers: list[int]) -> Tensor | None:
        """(B, 3) for an encoder whose positions are lengths; others get none."""
        if getattr(self.encoder.config, "position_unit", "index") != "length":
            return None
        given = getattr(self.source, "spacings", None)
        if given is None:
            given = getattr(self.source, "spacing", None)
        if given is None:
            raise EmbeddingError(
                "the encoder's positions are lengths, but the source has no `spacing` (z, y, x)"
            )
        spacing = np.asarray(given, dtype=np.float32)
        rows = np.tile(spacing, (len(numbers), 1)) if spacing.ndim == 1 else spacing[numbers]
        return torch.from_numpy(rows)


def _placed(encoder: Encoder, device: str) -> Encoder:
    try:
        return encoder.to(device)
    except (AssertionError, RuntimeError) as error:  # a torch without the device asserts
        reason = str(error).partition("\n")[0]
        raise EmbeddingError(f"embedding.device ({device!r}) is not there: {reason}") from error
