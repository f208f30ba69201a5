"""Starting from weights that were trained before, such as converted ones of V-JEPA 2."""

from dataclasses import fields
from pathlib import Path

from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.weights import WeightsError

FREE = ("input_shape", "drop_path", "recompute", "attention", "input_mean", "input_std")
"""Settings that the weights do not depend on; the new run's stand above those of the file."""


def load_initial(folder: str | Path, config: EncoderConfig) -> Encoder:
    """An encoder of `config` with the weights in `folder`, in evaluation mode and on the CPU.

    Args:
        folder: as for `Encoder.from_pretrained`, a path or a URL.
        config: must be what is in the folder, except for the settings in `FREE`.

    Raises:
        WeightsError: the folder cannot be read, or a setting differs; it is named with both values.
    """
    found = Encoder.from_pretrained(folder)
    free = FREE if config.positions == "rotary" else FREE[1:]  # a table has a row for each place
    for one in fields(EncoderConfig):
        there, here = getattr(found.config, one.name), getattr(config, one.name)
        if one.name not in free and there != here:
            raise WeightsError(
                f"{folder}: was made with encoder.{one.name}={there}, and this run has {here}; "
                "make them equal"
            )
    encoder = Encoder(config)
    encoder.load_state_dict(found.state_dict())
    return encoder.eval()
