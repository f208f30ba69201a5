"""What may have a name: an encoder, masks, an objective, each as settings with their sources."""

from dataclasses import dataclass, field, replace

from oct_vjepa.masking.configuration import MaskingConfig, MaskSetConfig
from oct_vjepa.model.configuration import EncoderConfig, PredictorConfig, encoder_config
from oct_vjepa.objectives.configuration import ObjectiveConfig
from oct_vjepa.objectives.rivals.configuration import MaeConfig
from oct_vjepa.presets.sources import Given, Settings, values


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedEncoder:
    """An encoder by name."""

    name: str
    """What `encoder=` on a command line takes."""
    about: str
    """For whom; the first sentence is for a list."""
    size: Given
    """Key of `oct_vjepa.model.configuration.SIZES`."""
    settings: Settings
    """Further fields of `EncoderConfig`."""

    def but(self, **changed: Given) -> "NamedEncoder":
        """The same with some other values."""
        return replace(self, settings={**self.settings, **changed})

    def config(self) -> EncoderConfig:
        """Its configuration."""
        return encoder_config(self.size.value, **values(self.settings))


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedMasking:
    """Mask sets by name."""

    name: str
    """What `masking=` on a command line takes."""
    about: str
    """For whom; the first sentence is for a list."""
    sets: tuple[Settings, ...]
    """Fields of each `MaskSetConfig`."""

    def config(self) -> MaskingConfig:
        """Their configuration."""
        return MaskingConfig(sets=[MaskSetConfig(**values(one)) for one in self.sets])


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedObjective:
    """An objective by name."""

    name: str
    """What `objective=` on a command line takes."""
    about: str
    """For whom; the first sentence is for a list."""
    kind: type[ObjectiveConfig]
    """Says which objective."""
    masking: NamedMasking
    """Masks it was made for; `objective=` alone on the command line of the app takes them."""
    settings: Settings = field(default_factory=dict)
    """Fields of its configuration besides the predictor."""
    predictor: Settings = field(default_factory=dict)
    """Fields of its predictor, or of MAE's decoder; empty: as the configuration has it."""

    def but(self, **changed: Given) -> "NamedObjective":
        """The same with some other values."""
        return replace(self, settings={**self.settings, **changed})

    def with_predictor(self, predictor: Settings) -> "NamedObjective":
        """The same with another predictor."""
        return replace(self, predictor=predictor)

    def config(self) -> ObjectiveConfig:
        """Its configuration."""
        given = values(self.settings)
        if self.predictor:
            part = "decoder" if issubclass(self.kind, MaeConfig) else "predictor"
            given[part] = PredictorConfig(**values(self.predictor))
        return self.kind(**given)
