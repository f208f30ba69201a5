"""A probe that fits nothing: the classes of the most similar volumes.

Weighted k nearest neighbours by cosine, as DINO (Caron et al. 2021) evaluates features: each of the
k most similar training volumes votes for its class with exp(cosine / temperature).
"""

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 20  # DINO's k
TEMPERATURE = 0.07  # DINO's
_ROWS = 1024  # of the test side at once: bounds the memory for similarities


def neighbour_votes(
    features_ND: Tensor,
    labels_N: Tensor,
    query_MD: Tensor,
    *,
    classes: int,
    groups_N: Tensor | None = None,
    query_groups_M: Tensor | None = None,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Share of the votes for each class, (M, classes); rows of a query's own group do not vote.

    Features are standardised with `features_ND` first: else what all volumes share decides the
    cosine. Where a query has fewer than k rows of other groups, they all vote.

    Args:
        features_ND: of the volumes that vote.
        labels_N: their classes, from 0.
        query_MD: of the volumes that are asked about.
        classes: number of classes.
        groups_N: participant of each voter, as numbers; with `query_groups_M` or not at all.
        query_groups_M: participant of each query.
        k: how many vote.
        temperature: small means that the most similar decide.

    Raises:
        ValueError: a query for whom no row of another group is left, or a bad k or temperature.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(f"neighbours: k ({k}) and temperature ({temperature}) must be positive")
    best, rows = nearest_rows(
        features_ND, query_MD, k=k, groups_N=groups_N, query_groups_M=query_groups_M
    )
    hot_NC = functional.one_hot(labels_N, classes).to(best.dtype)
    return vote(best, hot_NC[rows], temperature)


def nearest_rows(
    features_ND: Tensor,
    query_MD: Tensor,
    *,
    k: int,
    groups_N: Tensor | None = None,
    query_groups_M: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and numbers of the k most similar rows of other groups, the best first, (M, k).

    Fewer than k where there are no more rows. Features are standardised with `features_ND`.

    Raises:
        ValueError: a query for whom no row of another group is left.
    """
    spread = features_ND.std(dim=0, correction=0)
    scale = torch.where(spread > 1e-12, spread, torch.ones_like(spread))
    known, asked = (
        functional.normalize((part - features_ND.mean(dim=0)) / scale, dim=1)
        for part in (features_ND, query_MD)
    )
    found = []
    for start in range(0, len(asked), _ROWS):
        cosine = asked[start : start + _ROWS] @ known.T
        if groups_N is not None and query_groups_M is not None:
            own = query_groups_M[start : start + _ROWS, None] == groups_N
            if own.all(dim=1).any():
                raise ValueError("neighbours: a volume has no row of another group to compare with")
            cosine = cosine.masked_fill(own, -torch.inf)
        found.append(cosine.topk(min(k, cosine.shape[1]), dim=1))
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def vote(cosine_Mk: Tensor, answers_MkO: Tensor, temperature: float) -> Tensor:
    """Mean answer of the neighbours, weighted by exp(cosine / temperature), (M, O)."""
    weight_Mk = ((cosine_Mk - cosine_Mk[:, :1]) / temperature).exp()
    return (weight_Mk.unsqueeze(-1) * answers_MkO).sum(dim=1) / weight_Mk.sum(1, keepdim=True)
