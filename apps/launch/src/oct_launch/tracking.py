"""Whom a run tells besides its own folder."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Who is told besides metrics.jsonl."""

    wandb: bool = False
    """Log to Weights & Biases; offline when WANDB_API_KEY is not set."""

    artifacts: bool = False
    """Send what a run leaves as artifacts at its end: a pretraining its encoder and its best
    checkpoint, else the last, some gigabytes; an evaluation its model. Needs tracking.wandb."""

    project: str = "oct-vjepa"
    """Weights & Biases project."""

    def __post_init__(self) -> None:
        if self.artifacts and not self.wandb:
            raise ValueError("tracking.artifacts (True) needs tracking.wandb=true")
