"""How every evaluation begins: the encoder, where to compute, and volumes that it takes."""

import oct_io
import oct_vjepa
import oct_xla
from oct_launch import Stages, check_positions, check_window, mistakes, refuse_url

from oct_judge.family import Family, open_family
from oct_judge.question import FinetuneConfig


def open_asked(config: FinetuneConfig) -> tuple[Family, oct_xla.Runtime]:
    """The encoder that is asked, or those of all rounds, and where to compute.

    Raises:
        Mistake: another window than the encoder's, a readout that it lacks, or no such device.
        WeightsError: no encoder there.
    """
    refuse_url("features", config.features)
    family, conversion = open_family(config.weights, config.checkpoint)
    if conversion:
        print(conversion)
    taken = family.config.input_shape
    with mistakes(ValueError):
        trained = f"the encoder in {config.weights} was trained on {taken}; choose its window"
        check_window(config.data.window, taken, otherwise=trained)
        config.readout.names(family.config.depth)
        return family, config.runtime.pick()


def open_volumes(
    config: FinetuneConfig, taken: oct_vjepa.EncoderConfig, stages: Stages
) -> oct_io.Source:
    """The volumes of the data set, whose spacing is known if an encoder wants to know it.

    Raises:
        TreeError: no data set there, or too much of it is refused.
        Mistake: positions in millimetres, and scans without.
    """
    source = oct_io.open_source(config.data, stages)
    for remark in source.remarks:
        stages.say(remark)
    with mistakes(ValueError):
        unit, spacings = taken.position_unit, source.volumes.spacings
        check_positions(unit, source.volumes.shape, spacings)
    return source
