"""How far probabilities can be believed: calibration error, Brier score, log loss, (R,) each."""

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats, share

BINS = 15  # Guo et al. 2017, On calibration of modern neural networks
TINY = float(np.finfo(np.float64).eps)  # where scikit-learn cuts off in log_loss


def bin_of(chance_N: Floats, bins: int) -> NDArray[np.int64]:
    """The equal-width bin of each probability; a bin holds its upper edge."""
    return np.clip(np.ceil(chance_N * bins).astype(np.int64) - 1, 0, bins - 1)


def calibration_error(scores_NC: Floats, labels_N: NDArray[np.int64], weights_RN: Floats) -> Floats:
    """Distance between the top probability and how often it is right, by bins, weighed by rows."""
    top = scores_NC.max(axis=1)
    right = scores_NC.argmax(axis=1) == labels_N
    gaps = np.zeros((len(top), BINS))
    gaps[np.arange(len(top)), bin_of(top, BINS)] = top - right
    return share(np.abs(weights_RN @ gaps).sum(axis=1), weights_RN.sum(axis=1))


def brier(scores_NC: Floats, labels_N: NDArray[np.int64], weights_RN: Floats) -> Floats:
    """Mean squared error of the probabilities, summed over classes; of two, that of one class.

    As scikit-learn scales it: from 0 to 1 with two classes, from 0 to 2 with more.
    """
    true = np.eye(scores_NC.shape[1])[labels_N]
    loss = ((scores_NC - true) ** 2).sum(axis=1)
    if scores_NC.shape[1] == 2:
        loss = loss / 2
    return share(weights_RN @ loss, weights_RN.sum(axis=1))


def log_loss(scores_NC: Floats, labels_N: NDArray[np.int64], weights_RN: Floats) -> Floats:
    """Mean negative logarithm of the probability of the true class, in nats."""
    chance = scores_NC[np.arange(len(labels_N)), labels_N]
    loss = -np.log(np.clip(chance, TINY, 1.0))
    return share(weights_RN @ loss, weights_RN.sum(axis=1))
