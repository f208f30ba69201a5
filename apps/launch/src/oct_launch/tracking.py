"""Whom a run tells besides its own folder."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Who is told besides metrics.jsonl."""

    wandb: bool = False
    """Log to Weights & Biases; offline when WANDB_API_KEY is not set."""

    project: str = "oct-vjepa"
    """Weights & Biases project."""
