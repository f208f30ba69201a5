"""A learned pool trained on frozen tokens: the attentive probe, with early stopping.

V-JEPA 2 trains several and reports the best on the validation set itself
(evals/video_classification_frozen/eval.py), which is too kind to small data. Here a part of the
training participants decides when to stop, and the test participants are looked at once.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.attentive import AttentiveHead, CrossAttentionHead, TokenHead
from oct_vjepa.model.decay import decay_groups
from oct_vjepa.probes.linear import BOOTSTRAP, participant_folds, prepare_sides
from oct_vjepa.rules import COUNT, check_choices, check_numbers
from oct_vjepa.scores.metrics import Scores, average_units, score_units

KINDS = ("attentive", "cross_attention")


@dataclass(kw_only=True, slots=True)
class TokenProbeConfig:
    """Shape and training of the probe."""

    kind: str = "attentive"
    """attentive: V-JEPA 2's; cross_attention: a tenth of its size, for few labels."""

    heads: int = 4
    """Attention heads; V-JEPA 2 has 16 on encoders of width 1024 and more."""

    depth: int = 1
    """Blocks of the attentive probe; 4 in V-JEPA 2, which has a hundred times the labels."""

    inner: int = 64
    """Width of keys and values; cross_attention only."""

    learning_rate: float = 1e-3
    """V-JEPA 2 searches 1e-4 to 5e-3; this is its middle."""

    weight_decay: float = 0.1
    """V-JEPA 2 searches 0.01 to 0.8."""

    batch_size: int = 32
    """Volumes a step."""

    epochs: int = 60
    """Most passes over the training part."""

    patience: int = 10
    """Passes without a lower validation loss after which training stops."""

    def __post_init__(self) -> None:
        check_choices(self, "token_probe", kind=KINDS)
        counts = ("heads", "depth", "inner", "batch_size", "epochs", "patience")
        check_numbers(self, "token_probe", COUNT, *counts)
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                f"token_probe.learning_rate ({self.learning_rate}) must be positive and "
                f"weight_decay ({self.weight_decay}) not negative"
            )


@dataclass(kw_only=True, slots=True)
class TokenProbeResult(Scores):
    """How well a learned pool does on the test participants; intervals are 95 % bootstrap."""

    head: TokenHead = field(repr=False)
    """The trained head, at its best epoch."""
    best_epoch: int
    """Counted from 1."""
    validation_loss: float
    """Log loss of the validation participants at that epoch."""


def token_probe(
    tokens_train: NDArray[Any],
    y_train: NDArray[Any],
    tokens_test: NDArray[Any],
    y_test: NDArray[Any],
    *,
    groups_train: NDArray[Any] | None = None,
    groups_test: NDArray[Any] | None = None,
    config: TokenProbeConfig | None = None,
    seed: int,
    bootstrap: int = BOOTSTRAP,
    device: torch.device | str = "cpu",
) -> TokenProbeResult:
    """Train on most of the training participants, stop by the rest, score the test participants.

    Equal seeds give equal results on one machine. Every class weighs alike in the loss.

    Args:
        tokens_train: (N, T, D) of a frozen encoder; float16 will do.
        y_train: N labels, numbers or strings; two or more classes.
        tokens_test: (M, T, D).
        y_test: M labels; the same classes.
        groups_train: participant of each row; each row its own if left out.
        groups_test: likewise; none may be among the training rows.
        config: see `TokenProbeConfig`.
        seed: of the validation part, the first weights, the order and the bootstrap.
        bootstrap: number of bootstrap samples.
        device: where to train; tokens go there batch by batch.

    Raises:
        ValueError: as `probe`, or the heads do not divide the width.
    """
    config = TokenProbeConfig() if config is None else config
    sides = prepare_sides(tokens_train, y_train, tokens_test, y_test, groups_train, groups_test)
    fit, rest = participant_folds(tokens_train, sides.y, sides.groups, seed)[0]
    head = _make_head(config, tokens_train.shape[2], sides.classes, seed).to(device)
    epoch, loss = _train(head, tokens_train, sides.y, fit, rest, config, seed)
    chances = _predict(head, tokens_test, config).softmax(1).numpy()
    units = average_units(chances, sides.y_test, sides.groups_test)
    return TokenProbeResult(
        **score_units(units, sides.classes, seed=seed, bootstrap=bootstrap),
        head=head.cpu().eval(),
        best_epoch=epoch,
        validation_loss=loss,
    )


def _make_head(config: TokenProbeConfig, width: int, classes: list[str], seed: int) -> TokenHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.kind == "attentive":
            return AttentiveHead(
                width=width, classes=classes, heads=config.heads, depth=config.depth
            )
        return CrossAttentionHead(
            width=width, classes=classes, heads=config.heads, inner=config.inner
        )


def _train(
    head: TokenHead,
    tokens: NDArray[Any],
    y: NDArray[np.int64],
    fit: NDArray[np.int64],
    rest: NDArray[np.int64],
    config: TokenProbeConfig,
    seed: int,
) -> tuple[int, float]:
    """Train, put the best epoch's weights back, return its number and validation loss."""
    order = np.random.default_rng(seed)
    counts = np.bincount(y[fit], minlength=len(head.classes))
    weight = torch.from_numpy(len(fit) / (len(counts) * counts)).double()
    optimizer = torch.optim.AdamW(decay_groups(head, config.weight_decay), lr=config.learning_rate)
    best, best_epoch, state = np.inf, 0, copy.deepcopy(head.state_dict())
    for epoch in range(1, config.epochs + 1):
        head.train()
        for rows in np.array_split(order.permutation(fit), -(-len(fit) // config.batch_size)):
            logits = head(_rows(tokens, rows, head))
            label = torch.from_numpy(y[rows]).to(logits.device)
            loss = functional.cross_entropy(logits, label, weight.to(logits))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        logits = _predict(head, tokens[rest], config).double()
        now = float(functional.cross_entropy(logits, torch.from_numpy(y[rest]), weight))
        if now < best:
            best, best_epoch, state = now, epoch, copy.deepcopy(head.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    head.load_state_dict(state)
    return best_epoch, best


def _rows(tokens: NDArray[Any], rows: NDArray[np.int64] | slice, head: nn.Module) -> Tensor:
    device = next(head.parameters()).device
    return torch.from_numpy(np.asarray(tokens[rows], dtype=np.float32)).to(device)


@torch.no_grad()
def _predict(head: TokenHead, tokens: NDArray[Any], config: TokenProbeConfig) -> Tensor:
    head.eval()
    starts = range(0, len(tokens), config.batch_size)
    parts = [head(_rows(tokens, slice(one, one + config.batch_size), head)) for one in starts]
    return torch.cat(parts).float().cpu()
