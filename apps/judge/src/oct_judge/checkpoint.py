"""The encoder that is asked: a folder of ours, or a checkpoint of others, converted first."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch, which a misspelt setting need not wait for
    import oct_vjepa

OURS = "encoder"
SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".bin")
"""How a URL ends that is a file; a place on this machine is looked at."""
LAYOUTS = ("auto", OURS, "predecessor", "vjepa2", "transformers")
PARTS = ("auto", "context", "target")


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """What to take from a checkpoint of others, as `oct-vjepa convert` does; null: as it says."""

    layout: str = "auto"
    """auto looks at names; predecessor, vjepa2 (files) or transformers (a folder)."""

    part: str = "auto"
    """context (the trained encoder) or target (its moving average)."""

    input_shape: tuple[int, int, int] | None = None
    """Voxels along (Z, Y, X), those of data.window; learned positions are resized to it."""

    source_shape: tuple[int, int, int] | None = None
    """Voxels that the file was made for, where it has learned positions and does not say."""

    patch_size: tuple[int, int, int] | None = None
    """Voxels of a patch; a multiple of the file's along each axis."""

    channels: int | None = None
    """1 sums the channels of the file."""

    heads: int | None = None
    """Attention heads, where the file does not say."""

    input_mean: float | None = None
    """Subtracted from each voxel, 0 to 255. The predecessor's volumes were standardised each by
    itself; give it the mean of the data."""

    input_std: float | None = None
    """Divides each voxel; likewise."""

    def __post_init__(self) -> None:
        for name, allowed in (("layout", LAYOUTS), ("part", PARTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"checkpoint.{name} ({getattr(self, name)}) must be one of {', '.join(allowed)}"
                )


def open_encoder(place: str, config: CheckpointConfig) -> "tuple[oct_vjepa.Encoder, str]":
    """Read an encoder; of a checkpoint of others the report of its conversion too, else "".

    Nothing in a checkpoint is run.

    Raises:
        WeightsError: unreadable, or of no layout that we know.
    """
    import oct_vjepa

    if config.layout in ("auto", OURS) and is_ours(place):
        return oct_vjepa.Encoder.from_pretrained(place), ""
    from oct_vjepa.convert import ConversionConfig, read_encoder

    encoder, report = read_encoder(place, ConversionConfig(**asdict(config)))
    return encoder, str(report)


def is_ours(place: str) -> bool:
    """Whether `place` is to be read as a folder that `save_pretrained` wrote.

    What is not there counts as one, too: the folder is what its error speaks of.
    """
    if "://" in place:
        return not place.rstrip("/").endswith(SUFFIXES)
    path = Path(place)
    if path.is_file():
        return False
    from oct_vjepa.convert import transformers

    return not (path.is_dir() and transformers.matches(path))
