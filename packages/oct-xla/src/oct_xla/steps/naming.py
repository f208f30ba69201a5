"""Names of a run's tensors in a checkpoint: `objective.<key>` and `optimizer.<parameter>.<key>`."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from oct_xla.errors import CheckpointError
from oct_xla.folder.saved import SavedTensors

OBJECTIVE, OPTIMIZER = "objective.", "optimizer."


def objective_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the objective's own state dict out of a checkpoint's tensors."""
    size = len(OBJECTIVE)
    return {name[size:]: t for name, t in tensors.items() if name.startswith(OBJECTIVE)}


def check_fits(own: Mapping[str, Tensor], tensors: SavedTensors, where: str) -> None:
    """Check that a checkpoint has the tensors of an objective, in their shapes.

    Args:
        own: state dict of the objective.
        tensors: of the checkpoint.
        where: it lies, for the error.

    Raises:
        CheckpointError: if names or shapes differ; a few are named.
    """
    saved = {name[len(OBJECTIVE) :] for name in tensors if name.startswith(OBJECTIVE)}
    missing, unknown = sorted(own.keys() - saved), sorted(saved - own.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{where}: made by another objective: it lacks {_some(missing)} and has"
            f" {_some(unknown)} more; use its own configuration or another run_dir"
        )
    for name, value in own.items():
        shape = tensors.unread(f"{OBJECTIVE}{name}").shape
        if value.shape != shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(shape)}, this objective needs"
                f" {tuple(value.shape)}; use its own configuration or another run_dir"
            )


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
