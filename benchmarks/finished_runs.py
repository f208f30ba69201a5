"""Finished runs of `apps/pretrain`, as the benchmarks that compare them read them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import oct_io
import torch
from oct_vjepa import Encoder
from omegaconf import OmegaConf

CURVES = ("loss", "target_std", "effective_rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """One finished pretraining run."""

    folder: Path
    seed: int
    data: oct_io.SourceConfig

    @property
    def encoder(self) -> Encoder:
        """What it trained."""
        return Encoder.from_pretrained(self.folder / "encoder")

    @property
    def untrained(self) -> Encoder:
        """What it began with."""
        config = self.encoder.config  # first: reading weights draws random ones, too
        torch.manual_seed(self.seed)
        return Encoder(config).eval()

    @property
    def dataset_fingerprint(self) -> str:
        """Of the volumes that it was given."""
        facts = json.loads((self.folder / "provenance.json").read_text(encoding="utf-8"))
        return str(facts["dataset_fingerprint"])

    @property
    def steps(self) -> int:
        """Optimiser steps it took."""
        return int(self._rows()[-1]["step"])

    def course(self) -> dict[str, float]:
        """Its steps, and first and last of what a curve shows."""
        rows = self._rows()
        seen: dict[str, float] = {"steps": self.steps}
        for name in CURVES:
            values = [row[name] for row in rows if row.get(name) is not None]
            if values:
                seen |= {f"{name}_first": round(values[0], 4), f"{name}_last": round(values[-1], 4)}
        return seen

    def _rows(self) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def read_run(folder: Path) -> FinishedRun:
    """The run in `folder`.

    Raises:
        SystemExit: there is none, or it is not finished.
    """
    if not (folder / "encoder").exists():
        raise SystemExit(f"{folder}: is no finished run, it has no encoder")
    settings = OmegaConf.load(folder / "config.yaml")
    data = OmegaConf.merge(OmegaConf.structured(oct_io.SourceConfig), settings.data)
    config = cast(oct_io.SourceConfig, OmegaConf.to_object(data))
    return FinishedRun(folder=folder, seed=int(settings.seed), data=config)
