"""The encoder that is asked: the same for everybody, or one for each round and seed.

Folds test everybody, so that an encoder pretrained without labels on the same scans has seen those
it is tested on. `encoder=runs/dme-{round}-seed{seed}/encoder` asks in each round one that has not.
"""

import glob
import hashlib
import re
from dataclasses import dataclass, field, replace

from oct_launch import Mistake
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.model.weights import weights_fingerprint

from oct_judge.checkpoint import CheckpointConfig, open_encoder

MARKS = ("{round}", "{seed}")
_ANY = ("", -1)  # in place of round and seed: an encoder for all


@dataclass(slots=True)
class Family:
    """Encoders of one shape.

    Attributes:
        members: by name of the round ("" for every one) and seed (-1 for every one).
        places: where each was read from.
    """

    members: dict[tuple[str, int], Encoder]
    places: dict[tuple[str, int], str] = field(default_factory=dict)

    @classmethod
    def of_one(cls, encoder: Encoder, place: str = "") -> "Family":
        """The same encoder for everybody."""
        return cls({_ANY: encoder}, {_ANY: place})

    @property
    def first(self) -> Encoder:
        """Any of them, for what they have in common."""
        return next(iter(self.members.values()))

    @property
    def config(self) -> EncoderConfig:
        """Of all of them, but for what was measured on the volumes that each was trained on."""
        return self.first.config

    @property
    def is_one(self) -> bool:
        """Whether it is the same encoder for everybody."""
        return len(self.members) == 1

    def of(self, round_name: str, seed: int) -> Encoder:
        """The encoder that is asked in a round with a seed.

        Raises:
            Mistake: there is none for it.
        """
        return self.members[self._key(round_name, seed)]

    def place_of(self, round_name: str, seed: int) -> str:
        """Where it was read from."""
        return self.places.get(self._key(round_name, seed), "")

    def fingerprint(self) -> str:
        """Stands for the weights of all of them."""
        each = [weights_fingerprint(one) for _, one in sorted(self.members.items())]
        if len(each) == 1:
            return each[0]
        return hashlib.sha256(" ".join(each).encode()).hexdigest()

    def _key(self, round_name: str, seed: int) -> tuple[str, int]:
        """Which member it is.

        Raises:
            Mistake: none.
        """
        for key in ((round_name, seed), (round_name, _ANY[1]), (_ANY[0], seed), _ANY):
            if key in self.members:
                return key
        known = ", ".join(self.places[one] for one in sorted(self.members))
        raise Mistake(f"encoder: none for round {round_name} and seed {seed}; there are {known}")


def open_family(place: str, config: CheckpointConfig) -> tuple[Family, str]:
    """Read the encoder of a place, or all of a place with {round} and {seed} in it.

    Returns the report of a conversion too, else "".

    Raises:
        Mistake: nothing is there, or encoders of different shapes.
        WeightsError: as `open_encoder`.
    """
    if not any(mark in place for mark in MARKS):
        encoder, report = open_encoder(place, config)
        return Family.of_one(encoder, place), report
    family, reports = Family({}), []
    for key, path in sorted(find_members(place).items()):
        encoder, report = open_encoder(path, config)
        if family.members and _shape(encoder.config) != _shape(family.config):
            raise Mistake(f"encoder: the one in {path} has another shape than those beside it")
        family.members[key], family.places[key] = encoder, path
        reports += [report] if report else []
    return family, "\n".join(reports)


def _shape(config: EncoderConfig) -> EncoderConfig:
    """Without what was measured on the training volumes, which differ."""
    return replace(config, input_mean=0.0, input_std=1.0)


def find_members(place: str) -> dict[tuple[str, int], str]:
    """The files and folders that a place with {round} or {seed} in it stands for.

    Raises:
        Mistake: none, a URL, or a mark that stands there twice.
    """
    if "://" in place or any(place.count(mark) > 1 for mark in MARKS):
        raise Mistake(f"encoder ({place}): {' and '.join(MARKS)} once, on this machine")
    wild, shape = glob.escape(place), re.escape(place)
    for mark, pattern in zip(MARKS, ("(?P<round>[^/]+)", r"(?P<seed>\d+)"), strict=True):
        wild = wild.replace(mark, "*")
        shape = shape.replace(re.escape(mark), pattern)
    found = {}
    for path in glob.glob(wild):
        if match := re.fullmatch(shape, path):
            said = match.groupdict()
            found[said.get("round", _ANY[0]), int(said.get("seed", _ANY[1]))] = path
    if not found:
        raise Mistake(f"encoder ({place}): nothing there is named like that")
    return found
