"""Signs of collapse: numbers that say whether features still tell things apart.

A falling loss with a falling spread is collapse, not progress. None of these is an alarm alone: the
effective rank falls in healthy runs too. Watch the trend, and the spread with it.
"""

import torch
from torch import Tensor
from torch.nn import functional


def feature_spread(features_ND: Tensor) -> Tensor:
    """Standard deviation over rows, averaged over features, 0-dim; near 0 means collapse."""
    return _variance(features_ND).sqrt().mean()


def _variance(features_ND: Tensor) -> Tensor:
    """Variance of each feature over all rows, (D,), float32.

    In two passes: `torch.var` along the first axis takes some 15 times as long on a CPU.
    """
    rows = features_ND.to(torch.float32).flatten(0, -2)
    return (rows - rows.mean(dim=0)).square().mean(dim=0)


def split_spread(features_BND: Tensor, foreground_BN: Tensor) -> tuple[Tensor, Tensor]:
    """`feature_spread` of the foreground's tokens and of the others, each 0-dim.

    Most patches of a scan are background, so that the spread over all of them can look well while
    the features of what matters have become alike, or the other way round.

    Args:
        features_BND: one row a patch.
        foreground_BN: above 0 for patches of the foreground.
    """
    inside_BN = (foreground_BN > 0).to(torch.float32)
    return _weighted_spread(features_BND, inside_BN), _weighted_spread(features_BND, 1 - inside_BN)


def _weighted_spread(features_BND: Tensor, weight_BN: Tensor) -> Tensor:
    rows = features_BND.to(torch.float32).flatten(0, -2)
    share = (weight_BN / weight_BN.sum().clamp_min(1.0)).flatten().unsqueeze(-1)
    mean_D = (share * rows).sum(dim=0)
    return (share * (rows - mean_D).square()).sum(dim=0).sqrt().mean()


def dead_dimensions(features_ND: Tensor) -> Tensor:
    """Share of the features whose standard deviation is below a tenth of the mean one, 0-dim.

    Dimensional collapse (arXiv 2110.09348): some features stop to vary while others go on.
    """
    std_D = _variance(features_ND).sqrt()
    return (std_D <= 0.1 * std_D.mean()).float().mean()


def prediction_cosine(prediction_BMD: Tensor, target_BMD: Tensor) -> Tensor:
    """Mean cosine between each prediction and its target, 0-dim."""
    prediction, target = prediction_BMD.to(torch.float32), target_BMD.to(torch.float32)
    return functional.cosine_similarity(prediction, target, dim=-1).mean()


def variance_ratio(prediction_BMD: Tensor, target_BMD: Tensor) -> Tensor:
    """Variance of the predictions over that of the targets, 0-dim; near 0 means all alike."""
    prediction, target = _variance(prediction_BMD).mean(), _variance(target_BMD).mean()
    return prediction / target.clamp_min(1e-12)


def baseline_loss(target_BND: Tensor) -> Tensor:
    """L1 loss of always predicting the mean target, 0-dim; a loss near it has learned nothing."""
    target = target_BND.to(torch.float32).flatten(0, -2)
    return (target - target.mean(dim=0)).abs().mean()


def effective_rank(features_ND: Tensor) -> float:
    """Exponential of the entropy of the singular values' shares, for centred rows (RankMe).

    Lies between 1 and min(N - 1, D); 0 when all rows are equal. Runs on the CPU in float64: a
    decomposition does not lower well to a TPU, so call it when logging, not in the step.
    """
    features = features_ND.detach().cpu().to(torch.float64)
    values = torch.linalg.svdvals(features - features.mean(dim=0))
    total = values.sum()
    if total <= 1e-12 * max(features.abs().max().item(), 1e-300) * features.numel():
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def pairwise_cosine(features_ND: Tensor) -> Tensor:
    """Mean cosine over all pairs of different rows, 0-dim; near 1 means every volume looks alike.

    Raises:
        ValueError: fewer than two rows.
    """
    rows = features_ND.shape[0]
    if rows < 2:
        raise ValueError(f"pairwise_cosine needs at least two rows, not {rows}")
    unit = functional.normalize(features_ND.to(torch.float32), dim=-1)
    return (unit.sum(dim=0).square().sum() - rows) / (rows * (rows - 1))
