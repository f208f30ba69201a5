"""What is predicted, and how far off a prediction is."""

import torch
from torch import Tensor
from torch.nn import functional


def normalise_targets(features_BND: Tensor) -> Tensor:
    """Each token to mean 0 and variance 1 over its features, float32, (B, N, D).

    Without this the teacher could shrink its features and the loss with them (V-JEPA 2, train.py).
    """
    features = features_BND.to(torch.float32)
    return functional.layer_norm(features, features.shape[-1:])


def prediction_loss(prediction_BMD: Tensor, target_BMD: Tensor) -> Tensor:
    """Mean absolute difference, 0-dim, float32 (V-JEPA 2: loss_exp 1)."""
    return (prediction_BMD.to(torch.float32) - target_BMD).abs().mean()
