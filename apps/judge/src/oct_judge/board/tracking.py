"""Results sent to Weights & Biases, from where `oct-vjepa leaderboard wandb:...` takes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import oct_xla

from oct_judge.question import FinetuneConfig

FILES = ("results.json", "predictions.parquet")


def send_results(
    config: FinetuneConfig, folder: oct_xla.RunFolder, document: Mapping[str, Any], model: Path
) -> None:
    """Send the two files, the encoder's metrics as a row, and the model if it is asked for.

    Nothing without tracking.wandb.

    Raises:
        OctXlaError: wandb does not start.
    """
    if not config.tracking.wandb:
        return
    sink = oct_xla.WandbSink(
        run_id=folder.run_id,
        project=config.tracking.project,
        name=config.name,
        folder=folder.path,
        config={"question": document["question"], **document["entry"]},
    )
    own = document["candidates"][0]["card"]["metrics"]
    known = {name: value[0] for name, value in own.items() if value[0] is not None}
    sink.write({"step": 0, **known})
    sink.keep([folder.path / name for name in FILES])
    if config.tracking.artifacts:
        sink.keep_folder(model, "model")
    sink.close()
