"""A probe that was fitted and chosen: it predicts, and is kept as numbers and JSON, not pickled."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from oct_vjepa.probes.answers import Floats, scores_from, shift_priors
from oct_vjepa.probes.neighbours import nearest_rows, vote
from oct_vjepa.saving import write_whole

FORMAT = 1
SETTINGS, NUMBERS = "probe.json", "probe.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedProbe:
    """The best candidate of a grid, and what became of the others."""

    kind: str
    """linear, knn or mlp."""
    target_kind: str
    names: tuple[str, ...]
    """Of the classes, the labels, or the quantity."""
    unit: str
    chosen: dict[str, Any]
    """Readout, settings, headline and loss on validation of the best candidate."""
    candidates: list[dict[str, Any]]
    """The same of all candidates, in the order in which equal ones are preferred."""
    balanced: bool
    """The fit weighed all classes alike."""
    arrays: dict[str, NDArray[Any]] = field(repr=False)
    """All numbers, float64 or int64. Of every kind: `mean` and `scale` (D,) of the features, and
    `priors`, shares of the classes or labels among the fit rows. linear: `weight` (outputs, D) and
    `bias` (outputs,). mlp: `weight1` (H, D), `bias1`, `weight2` (outputs, H), `bias2`, with exact
    GELU between. knn: `known` (N, D), features of the fit rows; `answers` and `weights`
    (N, outputs)."""

    def __post_init__(self) -> None:
        # As they are read from a file: a product of a transposed array may add in another order.
        whole = {name: np.ascontiguousarray(one) for name, one in self.arrays.items()}
        object.__setattr__(self, "arrays", whole)

    @property
    def readout(self) -> str:
        """Which of the readouts it was fitted on, such as "last/mean"."""
        return str(self.chosen["readout"])

    def predict(
        self, readouts: Mapping[str, NDArray[Any]], *, at_fit_priors: bool = False
    ) -> Floats:
        """Scores of each row, (M, K); their meaning is that of `Target`.

        Args:
            readouts: those of the rows; the chosen one must be among them.
            at_fit_priors: of a balanced fit, give the probabilities for classes as frequent as
                among the fit rows, which is what calibration is about. Without, classes are alike,
                so that the most probable class is that of the best balanced accuracy. Fits that are
                not balanced are at those priors in any case.

        Raises:
            ValueError: the readout is missing or has another width.
        """
        if self.readout not in readouts:
            raise ValueError(f"probe: it reads {self.readout!r}, not {sorted(readouts)}")
        features = np.asarray(readouts[self.readout], dtype=np.float64)
        width = len(self.arrays["mean"])
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(f"probe: features must be (N, {width}), not {features.shape}")
        scores = self._scores(features)
        if self.balanced and at_fit_priors:
            return shift_priors(self.target_kind, scores, self.arrays["priors"])
        return scores

    def _scores(self, features: Floats) -> Floats:
        arrays = self.arrays
        if self.kind == "knn":
            cosine, rows = nearest_rows(
                torch.from_numpy(arrays["known"]),
                torch.from_numpy(features),
                k=int(self.chosen["neighbours"]),
            )
            found = rows.numpy()
            return vote_scores(
                self.target_kind,
                cosine.numpy(),
                arrays["answers"][found],
                arrays["weights"][found],
                float(self.chosen["temperature"]),
            )
        outputs = hidden_outputs if self.kind == "mlp" else linear_outputs
        return scores_from(self.target_kind, outputs(arrays, features))

    def save(self, folder: str | Path) -> None:
        """Write probe.json and probe.safetensors to `folder`, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = asdict(self) | {"format": FORMAT}
        del settings["arrays"]
        text = json.dumps(settings, indent=1)
        write_whole(folder / NUMBERS, lambda path: save_file(self.arrays, path))
        write_whole(folder / SETTINGS, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: files missing, damaged, or of another format.
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            arrays = load_file(folder / NUMBERS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{folder}: no fitted probe: {error}") from error
        if not isinstance(settings, dict) or settings.pop("format", None) != FORMAT:
            raise ValueError(f"{folder}: {SETTINGS} is not of format {FORMAT}")
        try:
            settings["names"] = tuple(settings["names"])
            return cls(**settings, arrays=arrays)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder}: {SETTINGS} is not a probe's: {error}") from error


def linear_outputs(arrays: Mapping[str, NDArray[Any]], features_ND: Floats) -> Floats:
    """What a linear model with these arrays gives, (N, outputs)."""
    return (features_ND - arrays["mean"]) / arrays["scale"] @ arrays["weight"].T + arrays["bias"]


def hidden_outputs(arrays: Mapping[str, NDArray[Any]], features_ND: Floats) -> Floats:
    """What a model with one hidden layer and these arrays gives, (N, outputs)."""
    rows = (features_ND - arrays["mean"]) / arrays["scale"]
    hidden = functional.gelu(torch.from_numpy(rows @ arrays["weight1"].T + arrays["bias1"]))
    return hidden.numpy() @ arrays["weight2"].T + arrays["bias2"]


def vote_scores(
    kind: str, cosine_Mk: Floats, answers_MkO: Floats, weights_MkO: Floats, temperature: float
) -> Floats:
    """Scores from the neighbours of each row, the nearest counting most.

    Means of the answers, each with its weight; of survival the events per time at risk. Steps of an
    ordinal target are shares of neighbours above them.
    """
    cosine, weights = torch.from_numpy(cosine_Mk), torch.from_numpy(weights_MkO)
    answers = torch.from_numpy(answers_MkO)
    if kind == "survival":
        times, events = vote(cosine, answers, temperature).numpy().T
        return (events / np.maximum(times, 1e-300))[:, None]
    total = vote(cosine, weights, temperature).numpy()
    mean = vote(cosine, weights * answers, temperature).numpy()
    shares = np.where(total > 0, mean / np.where(total > 0, total, 1), 0.5)
    if kind == "ordinal":
        ends = np.ones((len(shares), 1)), np.zeros((len(shares), 1))
        return -np.diff(np.concatenate([ends[0], shares, ends[1]], axis=1), axis=1)
    return shares
