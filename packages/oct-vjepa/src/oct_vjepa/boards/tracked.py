"""Finished evaluations that lie in a Weights & Biases project, brought to a folder here."""

import importlib
from pathlib import Path
from typing import Any

from oct_vjepa.boards.runs import PREDICTIONS, RESULTS, BoardError

SCHEME = "wandb:"


def fetch_project(project: str, folder: Path) -> list[tuple[Path, str]]:
    """Bring the files of a project's evaluations; returns their folders and the runs' names.

    Runs without results, such as those of pretraining, are passed over.

    Args:
        project: ENTITY/PROJECT.
        folder: where to, a folder a run.

    Raises:
        BoardError: wandb is missing, does not answer, or the project has no evaluation.
    """
    if project.count("/") != 1 or not all(project.split("/")):
        raise BoardError(f"{SCHEME}{project}: must be {SCHEME}ENTITY/PROJECT")
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise BoardError(f"{SCHEME}{project}: wandb is not installed: pip install wandb") from error
    found = []
    try:
        for run in wandb.Api().runs(project):
            if _bring(run, folder / run.id):
                found.append((folder / run.id, f"{SCHEME}{project}/{run.id} ({run.name})"))
    except Exception as error:  # wandb has errors of its own, requests' and those of its service
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BoardError(f"{SCHEME}{project}: cannot be read ({reason[:200]})") from error
    if not found:
        raise BoardError(
            f"{SCHEME}{project}: no run has {RESULTS} and {PREDICTIONS}; finetune sends them with "
            "tracking=wandb"
        )
    return found


def _bring(run: Any, folder: Path) -> bool:
    """Download both files of a run; False if it lacks one."""
    wanted = (RESULTS, PREDICTIONS)
    files = {one.name: one for one in run.files(names=list(wanted))}
    if not all(name in files for name in wanted):
        return False
    for name in wanted:
        files[name].download(root=str(folder), replace=True)
    return True
