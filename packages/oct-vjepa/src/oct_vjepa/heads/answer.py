"""What the outputs of a head mean: how they become probabilities, a quantity or a risk."""

from dataclasses import dataclass

from torch import Tensor

from oct_vjepa.heads.configuration import KINDS
from oct_vjepa.rules import POSITIVE, check_choices, check_numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The meaning of a head's outputs; it is saved with the head."""

    kind: str = "nominal"
    """One of `KINDS`."""

    unit: str = ""
    """Of the quantity or the time."""

    mean: float = 0.0
    """The quantity that output 0 stands for; regression only."""

    scale: float = 1.0
    """How much of the quantity an output of 1 adds; regression only."""

    def __post_init__(self) -> None:
        check_choices(self, "answer", kind=KINDS)
        check_numbers(self, "answer", POSITIVE, "scale")

    def scores(self, outputs_BK: Tensor) -> Tensor:
        """What the outputs say, (B, K), in float32.

        nominal, ordinal: the probability of each class; multilabel: of each label by itself;
        regression: the quantity in its unit; survival: a risk, the higher the sooner.
        """
        outputs = outputs_BK.float()
        if self.kind in ("nominal", "ordinal"):
            return outputs.softmax(dim=1)
        if self.kind == "multilabel":
            return outputs.sigmoid()
        return outputs * self.scale + self.mean if self.kind == "regression" else outputs
