"""Weights & Biases as a listener: offline without a key; a resume continues the run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from oct_xla.errors import OctXlaError
from oct_xla.journal import Row

MODES = ("online", "offline", "disabled")


class WandbSink:
    """Sends the rows of a run to Weights & Biases, or keeps them for `wandb sync`.

    Args:
        run_id: from `RunFolder.run_id`; the same id continues the same run.
        project: where the run belongs.
        name: shown for the run.
        folder: the run folder; files go to its `wandb/`.
        config: the settings of the run.
        mode: "online", "offline" or "disabled"; empty takes WANDB_MODE, else "online" if
            WANDB_API_KEY is set, else "offline", which contacts no host.

    Raises:
        OctXlaError: if wandb is not installed.
    """

    def __init__(
        self,
        *,
        run_id: str,
        project: str,
        name: str,
        folder: Path,
        config: Mapping[str, Any],
        mode: str = "",
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise OctXlaError("tracking: wandb is not installed; install oct-xla[wandb]") from error
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        mode = mode or pick_mode(os.environ)
        if mode not in MODES:
            raise ValueError(f"tracking.mode ({mode!r}) must be one of {', '.join(MODES)}")
        self._run = wandb.init(
            id=run_id,
            project=project,
            name=name,
            dir=str(folder),
            config=dict(config),
            mode=cast(Any, mode),
            resume="allow" if mode == "online" else None,
            settings=settings,
        )

    def write(self, row: Row) -> None:
        """Send one row at its step."""
        self._run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def pick_mode(environment: Mapping[str, str]) -> str:
    """Return WANDB_MODE if set, else "online" with an API key and "offline" without."""
    chosen = environment.get("WANDB_MODE", "")
    return chosen or ("online" if environment.get("WANDB_API_KEY") else "offline")
