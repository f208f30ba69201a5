"""The smaller volume that a run goes on with where memory runs out with one volume at a time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import oct_vjepa
from oct_io.space.windows import find_window
from oct_xla.errors import OutOfMemoryError
from oct_xla.steps.memory import read_note, write_note
from settings import PretrainConfig

NOTED = "smaller"
"""What the note in the run folder calls it: the window, what the run measured of its first volumes,
and their fingerprint."""


def shrink(config: PretrainConfig) -> tuple[PretrainConfig, dict[str, Any]]:
    """The settings with the smaller window, and what was noted, if the run has come to that.

    Raises:
        ValueError: the encoder does not take volumes of `smaller_window`.
        RunFolderError: the note is damaged.
        CheckpointError: the bucket that the run lies in does not answer.
    """
    if not config.smaller_window:
        return config, {}
    smaller = _with_window(config)
    noted: dict[str, Any] = read_note(config.run_dir).get(NOTED, {})
    if noted.get("window") != config.smaller_window:
        return config, {}
    mean, std = float(noted["input_mean"]), float(noted["input_std"])
    encoder = replace(smaller.encoder, input_mean=mean, input_std=std)
    return replace(smaller, measure_input=False, encoder=encoder), noted


def _with_window(config: PretrainConfig) -> PretrainConfig:
    name = config.smaller_window
    if config.encoder.positions != "rotary":
        raise ValueError(
            f"smaller_window ({name}) needs encoder.positions=rotary, which fit any shape, not"
            f" {config.encoder.positions}"
        )
    shape = find_window(name).require_fixed_shape()
    cache = f"{config.data.cache}-{name}" if config.data.cache else ""
    try:
        encoder = replace(config.encoder, input_shape=shape)
    except ValueError as error:
        raise ValueError(f"smaller_window ({name}): {error}") from error
    return replace(config, data=replace(config.data, window=name, cache=cache), encoder=encoder)


def next_start(
    config: PretrainConfig,
    run_dir: Path,
    encoder: oct_vjepa.EncoderConfig,
    data: str,
    error: OutOfMemoryError,
) -> OutOfMemoryError:
    """What to raise where a run is out of memory: `error`, or that the next start takes less.

    Args:
        config: of the run, as `shrink` gives it.
        run_dir: where the note goes.
        encoder: that ran out.
        data: fingerprint of its volumes.
        error: what the loop said.
    """
    name = config.smaller_window
    if error.again or error.evaluating or not name or config.data.window == name:
        return error
    measured = {"input_mean": encoder.input_mean, "input_std": encoder.input_std}
    noted: dict[str, Any] = {NOTED: {"window": name, "data": data, **measured}}
    if error.guessed:  # each size costs a start that dies: two of the smaller hold more than one
        noted["at_once"] = 1
    write_note(run_dir, guessed=error.guessed, **noted)
    found = "the last start died, perhaps out of memory," if error.guessed else "out of memory"
    return OutOfMemoryError(
        f"{found} with one volume at a time; the same command goes on with the smaller window"
        f" {name} (smaller_window), batch, steps and schedules stay",
        again=True,
    )
