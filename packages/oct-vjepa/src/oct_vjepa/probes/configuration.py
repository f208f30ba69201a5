"""What a grid of probes tries; nothing here needs torch."""

from dataclasses import dataclass

from oct_vjepa.rules import COUNT, check_numbers


@dataclass(kw_only=True, slots=True)
class GridConfig:
    """What is tried; every kind of probe reads its own part."""

    folds: int = 4
    """linear, knn: the fit participants choose too, each by a model of the other folds that has not
    seen them. Validation alone is a few participants of the rarer class, and a choice by them luck;
    0 or 1: validation alone."""

    strengths: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0, 10.0, 100.0)
    """linear: scikit-learn's C, of ridge 1 / alpha; large means little shrinkage."""

    neighbours: tuple[int, ...] = (5, 10, 20, 50)
    """knn: how many vote; DINO evaluates with 20."""

    temperatures: tuple[float, ...] = (0.03, 0.07, 0.2)
    """knn: small means that the most similar decide; DINO's is 0.07."""

    widths: tuple[int, ...] = (32, 128)
    """mlp: hidden features."""

    decays: tuple[float, ...] = (0.01, 0.3)
    """mlp: weight decay."""

    learning_rates: tuple[float, ...] = (3e-4, 3e-3)
    """mlp: of AdamW."""

    epochs: int = 100
    """mlp: most passes over the fit rows."""

    patience: int = 10
    """mlp: passes without a lower validation loss after which all candidates stop."""

    batch_size: int = 128
    """mlp: rows a step."""

    def __post_init__(self) -> None:
        check_numbers(self, "grid", COUNT, "epochs", "patience", "batch_size")
        if self.folds < 0:
            raise ValueError(f"grid.folds ({self.folds}) must be 2 or more, or 0 for none")
        for name in ("strengths", "neighbours", "temperatures", "widths", "learning_rates"):
            if not (values := getattr(self, name)) or min(values) <= 0:
                raise ValueError(f"grid.{name} ({values}) must be positive, one or more")
        if not self.decays or min(self.decays) < 0:
            raise ValueError(f"grid.decays ({self.decays}) must not be negative, one or more")
