"""How every evaluation begins: encoder, device, run folder, volumes, and a study of them."""

from collections.abc import Callable
from typing import TypeVar

import oct_io
import oct_vjepa
import oct_xla
from oct_io import TreeError
from oct_io.space.windows import find_window
from oct_launch import Launch, Mistake, Stages, check_positions, check_window, mistakes, refuse_url
from oct_vjepa.evaluation.sliced import takes

from oct_judge.checking import check_levels, check_settings
from oct_judge.family import Family, open_family
from oct_judge.question import FROZEN, PATCHES, FinetuneConfig
from oct_judge.rivals.encoders import Named, open_encoder
from oct_judge.study import Tested, check_test_set

Subject = TypeVar("Subject", bound=Tested)
Evaluate = Callable[[FinetuneConfig, Launch, Family, oct_xla.Runtime, oct_xla.RunFolder], int]


def in_run_folder(config: FinetuneConfig, launch: Launch, evaluate: Evaluate) -> int:
    """Open the encoder, claim the folder of the run, and evaluate there; returns the exit code.

    Of several processes each trains its share, and answers for itself; the first alone writes down
    what has come of it.

    Raises:
        Mistake: as `open_asked`, or a folder that is in use.
        WeightsError: no encoder there.
    """
    family, runtime = open_asked(config)
    with launch.claim_run_folder("it", may_change=("*",), rank=runtime.rank) as folder:
        return evaluate(config, launch, family, runtime, folder)


def open_tested(
    config: FinetuneConfig,
    family: Family,
    study_of: Callable[[FinetuneConfig, oct_io.Source], Subject],
    stages: Stages,
) -> Subject:
    """Open the volumes and study them; nobody is tested whom an encoder was trained on.

    Args:
        config: of the evaluation.
        family: the encoders that are asked.
        study_of: finds who has answers, and who is tested.
        stages: told of progress.

    Raises:
        TreeError: no data set there, too much of it is refused, or the encoder has seen who is
            tested.
        Mistake: scans or participants that the encoder or the protocol do not take.
    """
    study = study_of(config, open_volumes(config, family.config, stages))
    stages.say(study.describe())
    if not config.allow_seen:
        check_test_set(config, study, family)
    return study


def open_rivals(config: FinetuneConfig, study: Tested) -> list[Named]:
    """Open `compare.encoders`, once for all that they are asked.

    Raises:
        Mistake: one that is not there, does not take the volumes, or has seen who is tested.
    """
    rivals = [open_encoder(one, study.source.volumes.shape) for one in config.compare.encoders]
    if not config.allow_seen:
        for one in rivals:
            if one.family is not None:
                with mistakes(TreeError, where=f"compare.encoders ({one.name}): "):
                    check_test_set(config, study, one.family)
    return rivals


def open_token_rivals(
    config: FinetuneConfig, study: Tested, asked: oct_vjepa.EncoderConfig
) -> list[Named]:
    """Open `compare.encoders` for questions that masks answer, which read tokens.

    Args:
        config: of the evaluation.
        study: the question.
        asked: of the encoder that is asked.

    Raises:
        Mistake: as `open_rivals`, or one of others, of another shape, that lacks a block, or whose
            patches are not those that are asked for.
    """
    rivals = open_rivals(config, study)
    for one in rivals:
        said = f"compare.encoders ({one.name}): "
        if one.family is None:
            raise Mistake(f"{said}mode={config.mode} reads tokens, which encoders of ours have")
        own = one.family.config
        if own.input_shape != asked.input_shape:
            raise Mistake(f"{said}takes {own.input_shape} voxels, the other {asked.input_shape}")
        if config.mode == PATCHES and own.grid != asked.grid:
            raise Mistake(
                f"{said}has {own.grid} patches where the other has {asked.grid}: it would be asked "
                "another question"
            )
        with mistakes(Mistake, where=said):
            check_levels(config, own.depth)
    return rivals


def open_asked(config: FinetuneConfig) -> tuple[Family, oct_xla.Runtime]:
    """The encoder that is asked, or those of all rounds, and where to compute.

    Raises:
        Mistake: another window than the encoder's, a readout or setting that it does not bear, or
            no such device.
        WeightsError: no encoder there.
    """
    refuse_url("features", config.features)
    family, conversion = open_family(config.weights, config.checkpoint)
    if conversion:
        print(conversion)
    with mistakes(ValueError):
        check_volumes(config, family.config)
        config.readout.names(family.config.depth)
        check_settings(config, family.config)
        return family, config.runtime.pick()


def check_volumes(config: FinetuneConfig, encoder: oct_vjepa.EncoderConfig) -> None:
    """Refuse a window whose volumes the encoder does not take, before any scan is read.

    A probe on frozen features lets it take them stack by stack, if stacks of its size fill them.

    Raises:
        ValueError: how to put it right.
    """
    taken, frozen = encoder.input_shape, config.mode in FROZEN
    if frozen and takes(encoder, find_window(config.data.window).shape):
        return
    modes = "" if frozen else f" with mode={', '.join(FROZEN)}"
    trained = (
        f"the encoder in {config.weights} was trained on {taken}; choose its window, or{modes} one "
        "of several times its B-scans, whose features are averaged"
    )
    check_window(config.data.window, taken, otherwise=trained)


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
    (bscans, *_), stack = source.volumes.shape, taken.input_shape[0]
    if bscans > stack:
        stages.say(f"encoder: takes {stack} of {bscans} B-scans at a time, features are averaged")
    return source
