"""Where the volumes of a run come from: the set that it is asked about, and more beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import oct_io
from oct_io.catalog.seen import TRAINED
from oct_launch import Stages, check_positions, check_window, mistakes
from oct_vjepa import EncoderConfig
from settings import PretrainConfig


@dataclass(frozen=True, slots=True)
class DataSet:
    """One of the sets that a run sees.

    Attributes:
        name: of its part of a mixture.
        source: its volumes, and what is known of them.
        seen: numbers of those that the run sees.
        excluded_splits: parts of its split that are left out.
    """

    name: str
    source: oct_io.Source
    seen: Sequence[int]
    excluded_splits: Sequence[str]

    @property
    def people(self) -> list[str]:
        """Hashed participants that the run sees, sorted."""
        return self.source.participants(self.seen)


def check_sets(config: PretrainConfig) -> None:
    """Refuse sets that cannot go together, before any scan is read.

    Raises:
        ValueError: windows of other shapes than the encoder takes, two sets of one name or one
            cache, or a smaller window, which belongs to one set.
    """
    given = f"encoder.input_shape is {config.encoder.input_shape}; make them equal"
    check_window(config.data.window, config.encoder.input_shape, otherwise=given)
    caches = {config.data.cache: "data"}
    for name, one in config.more.items():
        try:
            check_window(one.window, config.encoder.input_shape, otherwise=given)
        except ValueError as error:
            raise ValueError(str(error).replace("data.window", f"more.{name}.window")) from error
        if name == config.data.name:
            raise ValueError(f"more.{name} has the name of data; give one of them another")
        if other := caches.get(one.cache):
            raise ValueError(
                f"more.{name}.cache ({one.cache}) is {other}.cache as well; a cache holds one set"
            )
        caches[one.cache] = f"more.{name}"
    if config.more and config.smaller_window:
        raise ValueError(
            f"smaller_window ({config.smaller_window}) is of one set; leave it out where there are"
            f" more ({', '.join(config.more)})"
        )


def gather(config: PretrainConfig, stages: Stages) -> list[DataSet]:
    """Open all sets; the first is that of `data`, which questions and pictures are of.

    Raises:
        Mistake: as `open_source`, everybody of a set is left out, or an encoder whose positions
            are lengths, and scans whose spacing nobody knows.
    """
    sets = []
    for name, one in {config.data.name: config.data, **config.more}.items():
        with mistakes(
            ValueError, oct_io.TreeError, where="" if one is config.data else f"more.{name}: "
        ):
            source = oct_io.open_source(one, stages)
            unit = config.encoder.position_unit
            check_positions(unit, source.volumes.shape, source.volumes.spacings)
            seen = source.outside(one.excluded_splits)
        sets.append(DataSet(name, source, seen, one.excluded_splits))
    return sets


def measure_intensity(sets: Sequence[DataSet], encoder: EncoderConfig) -> EncoderConfig:
    """The encoder with mean and spread of the voxels of all sets, each of them counted alike."""
    found = [one.source.measure_intensity(one.seen) for one in sets]
    mean, spread = found[0]
    if len(found) > 1:
        mean = sum(own for own, _ in found) / len(found)
        squares = [own_spread**2 + (own - mean) ** 2 for own, own_spread in found]
        spread = (sum(squares) / len(found)) ** 0.5
    return replace(encoder, input_mean=mean, input_std=spread)


def fingerprints(sets: Sequence[DataSet]) -> dict[str, str]:
    """What makes two runs see the same volumes, by a name that tells the set."""
    main, *more = sets
    named = {f"more.{one.name}": one.source.volumes.fingerprint for one in more}
    return {"data": main.source.volumes.fingerprint, **named}


def describe(sets: Sequence[DataSet]) -> dict[str, Any]:
    """What the run puts on record: of the first set as ever, of each other below `more`.

    Whoever takes part is among `participants_in_training`, whatever the set: who is tested later is
    compared with those.
    """
    main, *more = sets
    facts: dict[str, Any] = main.source.describe(main.seen, main.excluded_splits)
    facts[TRAINED] = all_people(sets)
    if more:
        facts["more"] = {
            one.name: one.source.describe(one.seen, one.excluded_splits) for one in more
        }
    return facts


def advice_of(sets: Sequence[DataSet]) -> list[str]:
    """What the scans of all sets suggest to set otherwise, by the names of each one's settings."""
    main, *more = sets
    said = list(main.source.advice)
    for one in more:
        place = f"more.{one.name}.mirror_left"
        said += [text.replace("data.mirror_left", place) for text in one.source.advice]
    return said


def all_people(sets: Sequence[DataSet]) -> list[str]:
    """Hashed participants of all sets, sorted; equal ids of two sets are one."""
    return sorted({person for one in sets for person in one.people})


def tell_sets(facts: Mapping[str, Any]) -> str:
    """A sentence of what else a run has seen, from what it put on record; "" for one set."""
    said = [
        f"{one['volumes_in_training']:,} of {name} ({len(one[TRAINED]):,} participants)"
        for name, one in facts.get("more", {}).items()
    ]
    return f"Beside them it saw volumes of other sets: {', '.join(said)}." if said else ""
