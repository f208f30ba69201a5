"""Encoders of others beside the one that is asked, each named by `name=path`.

mine=runs/other/encoder                          a folder of ours
MAE=runs/mae-{round}-seed{seed}/encoder          one of ours for each round and seed
RETFound=vit_large_patch16_224@weights.pth       a model of timm and the file of its weights
MIRAGE=vit_base_patch32_384?img_size=512@m.pth   the same with settings of the model
theirs=package.module:factory                    what makes an object with embed and fingerprint
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from oct_launch import Mistake, mistakes
from oct_vjepa import Encoder, WeightsError
from oct_vjepa.evaluation.features import AnyEncoder
from oct_vjepa.evaluation.foreign import load_timm
from oct_vjepa.evaluation.sliced import SlicedEncoder, takes
from oct_vjepa.probes.protocol import Round
from oct_vjepa.trials.judging import Candidate, Readouts

from oct_judge.candidates import Embedder, Rows
from oct_judge.checkpoint import CheckpointConfig
from oct_judge.family import MARKS, Family, open_family
from oct_judge.question import NAMED_ENCODER

SHAPE = "compare.encoders ({spec}) must be name=folder, name=MODEL@file or name=module:factory"


@dataclass(frozen=True, slots=True)
class Named:
    """An encoder, or one for each round and seed, and what tables call it.

    Attributes:
        name: in `compare.encoders`.
        encoder: of others, for everybody; None where it is ours.
        family: ours.
    """

    name: str
    encoder: AnyEncoder | None = None
    family: Family | None = None

    def of(self, round_name: str, seed: int) -> AnyEncoder:
        """The one that is asked in a round with a seed.

        Raises:
            Mistake: there is none for it.
        """
        if self.family is None:
            assert self.encoder is not None  # one of the two
            return self.encoder
        return self.family.of(round_name, seed)


def open_encoder(spec: str, shape: Sequence[int]) -> Named:
    """The encoder that `name=path` says, for volumes of `shape`.

    One of ours that takes fewer B-scans than the volumes have goes through them stack by stack.

    Raises:
        Mistake: no such file, folder, model or factory, or one that does not take the volumes.
    """
    name, _, path = spec.partition("=")
    if not name or not path:
        raise Mistake(SHAPE.format(spec=spec))
    if Path(path).is_dir() or any(mark in path for mark in MARKS):
        return own(name, path, shape)
    model, at, file = path.partition("@")
    if at:
        return Named(name, from_timm(model, file))
    module, colon, factory = path.rpartition(":")
    if not colon or not factory.isidentifier():
        raise Mistake(f"{SHAPE.format(spec=spec)}; there is no folder {path}")
    return Named(name, made_by(module, factory))


def own(name: str, place: str, shape: Sequence[int]) -> Named:
    """Encoders of ours; those that take fewer B-scans go through volumes stack by stack.

    Raises:
        Mistake: none there, one that cannot be read, or that takes other rows and columns.
    """
    with mistakes(WeightsError, Mistake, where=f"compare.encoders ({name}): "):
        family, _ = open_family(place, CheckpointConfig())
    if not takes(family.config, shape):
        raise Mistake(
            f"compare.encoders: the encoder in {place} takes {family.config.input_shape} voxels, "
            f"the volumes have {tuple(shape)}; it may take fewer B-scans, a number that divides "
            "theirs, and else must take as many"
        )
    return Named(name, family=family)


def from_timm(model: str, file: str) -> AnyEncoder:
    """A model of timm with the weights of a file; `MODEL?key=value&key=value` sets it up.

    Raises:
        Mistake: no timm, no such model or file, or weights of another one.
    """
    name, _, said = model.partition("?")
    settings = dict(one.split("=", 1) for one in said.split("&") if "=" in one)
    numbers = {key: int(one) if one.isdecimal() else one for key, one in settings.items()}
    if not Path(file).is_file():
        raise Mistake(f"compare.encoders: there is no file {file}")
    with mistakes(WeightsError):
        encoder, _ = load_timm(name, weights=file, **cast(dict[str, Any], numbers))
    return encoder


def made_by(module: str, factory: str) -> AnyEncoder:
    """What `module.factory()` makes: an object with `embed(volumes)` and `fingerprint`.

    Raises:
        Mistake: no such module or factory, or it makes something else.
    """
    try:
        found = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise Mistake(f"compare.encoders ({module}:{factory}): {error}") from error
    if not hasattr(found, "embed") or not hasattr(found, "fingerprint"):
        raise Mistake(
            f"compare.encoders ({module}:{factory}) made a {type(found).__name__} without embed "
            "or fingerprint"
        )
    return cast(AnyEncoder, found)


def candidate(named: Named, embed: Embedder, rows: Rows) -> Candidate:
    """The encoder as a candidate; features are kept where those of the one that is asked are."""
    read: dict[str, Readouts] = {}

    def readouts(one: Round, seed: int) -> Readouts:
        place = named.family.place_of(one.name, seed) if named.family else ""
        if place not in read:
            read[place] = features_of(named.of(one.name, seed), embed, rows)
        return read[place]

    return Candidate(name=candidate_name(named), readouts=readouts)


def candidate_name(named: Named) -> str:
    """What the table calls it."""
    return f"{NAMED_ENCODER}{named.name}"


def features_of(encoder: AnyEncoder, embed: Embedder, rows: Rows) -> Readouts:
    """Readouts of all rows: of blocks and pools, or the one vector of who pools by itself."""
    if isinstance(encoder, Encoder | SlicedEncoder):
        return embed(encoder, rows)
    return {"own": embed.features(encoder, rows, ["mean"], None)["mean"]}
