"""Who else is told: people, by a bar or lines; Weights & Biases, offline without a key."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oct_xla.errors import OctXlaError
from oct_xla.folder.journal import Row, say

MODES = ("online", "offline", "disabled")
ANSWER_S = 20.0  # a host that is there answers in two


class ProgressSink:
    """Shows step, loss, volumes a second and time left.

    Args:
        steps: of the whole run.
        step: finished at the start.
        console: where to write; standard error by default, so that output can be piped.
    """

    def __init__(self, steps: int, step: int = 0, console: Console | None = None) -> None:
        self._console = Console(file=sys.stderr) if console is None else console
        self._steps, self._first = steps, step
        self._started_s: float | None = None
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("train", total=steps, completed=step, text="")
        if self._console.is_terminal:
            self._bar.start()

    def write(self, row: Row) -> None:
        """Show one row."""
        loss = f"loss {row['loss']:.4g}" if "loss" in row else "the start"
        text = f"{loss}  {row['volumes_per_s']:.3g} volumes/s"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=row["step"], text=text)
            return
        left = self._time_left(row)
        line = f"step {row['step']:.0f}/{self._steps}  {text}  {left}"
        self._console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def _time_left(self, row: Row) -> str:
        if self._started_s is None:
            self._started_s, self._first = row["seconds"], int(row["step"])
            return "time left unknown"
        pace = (row["seconds"] - self._started_s) / max(row["step"] - self._first, 1)
        return f"{pace * (self._steps - row['step']):.0f} s left"


class WandbSink:
    """Sends the rows of a run to Weights & Biases, or keeps them for `wandb sync`.

    Args:
        run_id: from `RunFolder.run_id`; the same id continues the same run.
        project: where the run belongs.
        name: shown for the run.
        folder: the run folder; files go to its `wandb/`.
        config: the settings of the run.
        mode: "online", "offline" or "disabled"; empty takes WANDB_MODE, else "online" if
            WANDB_API_KEY is set, else "offline", which contacts no host. Where the host does not
            answer, an online run is kept offline, and a line says so.

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
            init_timeout=ANSWER_S,
        )
        self._run_id, self._wandb = run_id, wandb
        mode = mode or pick_mode(os.environ)
        if mode not in MODES:
            raise ValueError(f"tracking.mode ({mode!r}) must be one of {', '.join(MODES)}")

        def start(mode: str) -> Any:
            return wandb.init(
                id=run_id,
                project=project,
                name=name,
                dir=str(folder),
                config=dict(config),
                mode=cast(Any, mode),
                resume="allow" if mode == "online" else None,
                settings=settings,
            )

        try:
            self._run = start(mode)
        except (wandb.Error, OSError) as error:
            if mode != "online":
                raise OctXlaError(f"tracking: wandb does not start: {error}") from error
            reason = " ".join(str(error).split())[:200]
            say(f"tracking: no answer ({reason}); kept offline in {folder}, see `wandb sync`")
            wandb.teardown()  # its service else holds the run id
            self._run = start("offline")

    def write(self, row: Row) -> None:
        """Send one row at its step."""
        self._run.log(dict(row), step=int(row["step"]))

    def keep(self, files: Sequence[Path]) -> None:
        """Send files as they are now, under their bare names."""
        place = Path(self._run.dir)
        for path in files:
            copy = place / path.name  # else a link, which breaks when the run folder is moved
            shutil.copyfile(path, copy)
            self._run.save(str(copy), base_path=str(place), policy="now")

    def keep_folder(self, folder: Path, kind: str) -> None:
        """Send a folder as an artifact, the next version of RUN_ID-KIND; that it fails is told.

        Its files must stay as they are until the run is closed, and offline until `wandb sync`.
        """
        artifact = self._wandb.Artifact(f"{self._run_id}-{kind}", kind)
        try:
            # "immutable" makes no copy of some gigabytes.
            artifact.add_dir(str(folder.resolve()), policy="immutable")
            self._run.log_artifact(artifact)
        except (self._wandb.Error, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            say(f"tracking: {folder} is not sent: {reason}; wandb artifact put sends it")

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def pick_mode(environment: Mapping[str, str]) -> str:
    """Return WANDB_MODE if set, else "online" with an API key and "offline" without."""
    chosen = environment.get("WANDB_MODE", "")
    return chosen or ("online" if environment.get("WANDB_API_KEY") else "offline")
