"""What each reader of a foreign layout hands over, and how it becomes an encoder."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oct_vjepa.convert.adapt import adapt_patches, adapt_table
from oct_vjepa.convert.report import LoadReport
from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder

LAYOUTS = ("auto", "encoder", "predecessor", "vjepa2", "transformers")
PARTS = ("auto", "context", "target")


@dataclass(kw_only=True, slots=True)
class ConversionConfig:
    """What to take from a file, and what the encoder shall look like; None: as in the file."""

    layout: str = "auto"
    """"auto" looks at names; "encoder" (a folder of `save_pretrained`), "predecessor", "vjepa2"
    (torch.hub files, 2 and 2.1) or "transformers" (a folder)."""
    part: str = "auto"
    """"context" (the trained encoder), "target" (its moving average), or "auto": target, as
    V-JEPA 2's evaluations do; but context for the predecessor, whose target never moved."""
    input_shape: tuple[int, int, int] | None = None
    """Voxels along (Z, Y, X). Learned positions are resized to it."""
    source_shape: tuple[int, int, int] | None = None
    """Voxels that the file was made for, where it has learned positions and does not say."""
    patch_size: tuple[int, int, int] | None = None
    """Voxels of a patch; a multiple of the file's along each axis."""
    channels: int | None = None
    """Channels of a volume; several become one by summing."""
    heads: int | None = None
    """Attention heads, where the file does not say and the width is not one of V-JEPA 2's."""
    input_mean: float | None = None
    """Subtracted from each voxel. As in the file: 0 for the predecessor (each volume was
    standardised before), for V-JEPA 2 the mean of ImageNet on 0 to 255."""
    input_std: float | None = None
    """Divides each voxel; as `input_mean`."""

    def __post_init__(self) -> None:
        for name, allowed in (("layout", LAYOUTS), ("part", PARTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"convert.{name} ({getattr(self, name)!r}) is not one of {allowed}"
                )
        for name in ("input_shape", "source_shape", "patch_size"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, tuple(int(size) for size in value))

    def settings(self) -> dict[str, Any]:
        """The fields of `EncoderConfig` that are set."""
        names = ("input_shape", "patch_size", "channels", "input_mean", "input_std")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


class Foreign(NamedTuple):
    """Weights under our names, with the configuration they were trained with."""

    layout: str
    config: EncoderConfig
    state: dict[str, Tensor]
    unexpected: list[str]
    folded: dict[str, str]  # tensors that a reader changed, and how
    notes: list[str]


@dataclass(kw_only=True, slots=True)
class Renamed:
    """Tensors under our names, and what was not ours."""

    state: dict[str, Tensor] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)


def build(foreign: Foreign, wanted: EncoderConfig, source: str) -> tuple[Encoder, LoadReport]:
    """An encoder of the configuration `wanted` with the weights of `foreign`, and the report.

    Raises:
        WeightsError: too little was found, or something cannot be adapted.
    """
    encoder = Encoder(wanted)
    state = dict(foreign.state)
    done = dict(foreign.folded)
    if (name := "patches.proj.weight") in state:
        state[name], how = adapt_patches(state[name], wanted.channels, wanted.patch_size)
        done |= {name: how} if how else {}
    if (name := "positions.table") in state:
        state[name], how = adapt_table(state[name], foreign.config.grid, wanted.grid)
        done |= {name: how} if how else {}
    report = fill(encoder, state, done, source=source, layout=foreign.layout)
    report.unexpected += foreign.unexpected
    report.notes += foreign.notes
    report.check()
    return encoder.eval(), report


@torch.no_grad()
def fill(
    module: nn.Module,
    state: dict[str, Tensor],
    changed: dict[str, str],
    *,
    source: str,
    layout: str,
) -> LoadReport:
    """Copy what fits into `module`, in float32, and say what became of every name."""
    report = LoadReport(source=source, layout=layout)
    mine = module.state_dict()
    for name, value in mine.items():
        if name not in state:
            report.missing[name] = "not in the file"
        elif state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)} in the file, {tuple(value.shape)} wanted"
            report.missing[name] = shapes
        else:
            value.copy_(state[name])
            if name in changed:
                report.adapted[name] = changed[name]
            else:
                report.matched.append(name)
    report.unexpected = sorted(state.keys() - mine.keys())
    return report
