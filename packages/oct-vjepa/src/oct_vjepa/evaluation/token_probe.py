"""A learned pool trained on frozen tokens: the attentive probe, with early stopping.

V-JEPA 2 trains several and reports the best on the validation set itself
(evals/video_classification_frozen/eval.py), which is too kind to small data. Here validation
participants decide when to stop and which is the best, and the test participants are not looked at.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oct_vjepa.evaluation.kept_tokens import KeptTokens
from oct_vjepa.heads.attentive import AttentiveHead, CrossAttentionHead, TokenHead
from oct_vjepa.measures.target import Target
from oct_vjepa.model.decay import decay_groups
from oct_vjepa.probes.answers import Floats, answers_of, scores_from, weights_of
from oct_vjepa.probes.choice import best_of, validate_all
from oct_vjepa.probes.hidden import Rows, losses_of
from oct_vjepa.probes.protocol import Round, check_part
from oct_vjepa.rules import COUNT, check_choices, check_numbers

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

    blocks: tuple[int, ...] = ()
    """Places, from 0, of the blocks that it reads, of those whose tokens lie side by side; empty:
    all of them."""

    def __post_init__(self) -> None:
        check_choices(self, "token_probe", kind=KINDS)
        counts = ("heads", "depth", "inner", "batch_size", "epochs", "patience")
        check_numbers(self, "token_probe", COUNT, *counts)
        if min(self.blocks, default=0) < 0:
            raise ValueError(f"token_probe.blocks ({self.blocks}) must be numbers from 0")
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                f"token_probe.learning_rate ({self.learning_rate}) must be positive and "
                f"weight_decay ({self.weight_decay}) not negative"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedTokenProbe:
    """The best of several learned pools, and what became of the others."""

    head: TokenHead = field(repr=False)
    """At its best epoch, on the CPU; its outputs are log-odds, or the quantity."""
    target_kind: str
    chosen: dict[str, Any]
    """Settings, best epoch, headline and loss on validation of the best candidate."""
    candidates: list[dict[str, Any]]
    """The same of all candidates, as they were given."""
    parts: int = 1
    """Blocks whose tokens lie side by side in what was kept."""

    def predict(
        self, tokens: NDArray[Any], *, batch_size: int = 32, device: torch.device | str = "cpu"
    ) -> Floats:
        """Scores of each row, (N, K), as `Target` says; `tokens` are (N, T, D), as in the fit."""
        kept, rows = KeptTokens(tokens, self.parts), np.arange(len(tokens))
        ask = [(self.head.to(device), self.chosen["blocks"])]
        return scores_from(self.target_kind, _predict(ask, kept, batch_size, rows)[0].numpy())


def fit_token_probes(
    tokens: NDArray[Any],
    target: Target,
    groups: NDArray[Any],
    on: Round,
    candidates: Sequence[TokenProbeConfig],
    *,
    balanced: bool,
    seed: int,
    device: torch.device | str = "cpu",
    parts: int = 1,
) -> FittedTokenProbe:
    """Train all candidates on the fit rows, stop and choose by the validation rows.

    Tokens are read once a pass for all candidates, as V-JEPA 2 does with 20, and only those of a
    batch are in memory. The best has the greatest headline on validation participants, then the
    least log loss, then comes first.

    Args:
        tokens: (N, T, D) of a frozen encoder, all rows; float16 will do, and a file mapped to
            memory.
        target: nominal, ordinal (its order is not used), multilabel or regression.
        groups: (N,) participants.
        on: which rows fit and which choose; the test rows are not looked at.
        candidates: settings of each; all with one batch size.
        balanced: weigh all classes alike.
        seed: of first weights and order.
        device: where to train; tokens go there batch by batch.
        parts: blocks whose tokens lie side by side along D; candidates say which they read.

    Raises:
        ValueError: a target of survival, no candidates, several batch sizes, a class without a row
            to fit, or blocks that are not in the tokens.
    """
    if target.kind == "survival":
        raise ValueError("token_probe: it takes no survival target; fit_grid on pooled tokens does")
    if len({one.batch_size for one in candidates}) != 1:
        raise ValueError("token_probe: give one or more candidates, all with one batch_size")
    if target.kind == "ordinal":
        target = Target(kind="nominal", values=target.values, names=target.names)
    check_part(target.take(on.fit), groups[on.fit], "token_probe: fit")
    held, rows = target.take(on.validation), np.flatnonzero(on.validation)
    check_part(held, groups[rows], "token_probe: validation", all_of=False)
    asked, kept = (
        _Asked.of(target, np.flatnonzero(on.fit), rows, balanced),
        KeptTokens(tokens, parts),
    )
    trained = _train(kept, asked, candidates, seed, device)
    outputs = _predict([one.asking for one in trained], kept, candidates[0].batch_size, rows)
    scores = [scores_from(target.kind, one.numpy()) for one in outputs]
    found = validate_all(held, scores, groups[rows])
    told = [
        asdict(config)
        | {"best_epoch": one.best_epoch, "validation": score.headline, "loss": score.loss}
        for config, one, score in zip(candidates, trained, found, strict=True)
    ]
    best = best_of(found)
    return FittedTokenProbe(
        head=trained[best].head.cpu().eval(),
        target_kind=target.kind,
        chosen=told[best],
        candidates=told,
        parts=parts,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The question as a trainer takes it: rows by number, and their answers."""

    kind: str
    names: tuple[str, ...]
    fit: NDArray[np.int64]
    rest: NDArray[np.int64]
    answers: dict[int, tuple[NDArray[Any], NDArray[Any]]]  # of a row, with their weights
    centre: float
    unit: float  # of a quantity, which is learned standardised

    @classmethod
    def of(
        cls, target: Target, fit: NDArray[np.int64], rest: NDArray[np.int64], balanced: bool
    ) -> "_Asked":
        """From a target and numbers of rows."""
        both, counted = np.concatenate([fit, rest]), target.take(fit)
        answers = answers_of(target.take(both))
        weights = weights_of(target.take(both), balanced=balanced, counted=counted)
        centre, unit = 0.0, 1.0
        if target.kind == "regression":
            centre, unit = float(counted.values.mean()), float(counted.values.std()) or 1.0
            answers = (answers - centre) / unit
        of_row = dict(zip(both.tolist(), zip(answers, weights, strict=True), strict=True))
        return cls(
            kind=target.kind,
            names=target.names,
            fit=fit,
            rest=rest,
            answers=of_row,
            centre=centre,
            unit=unit,
        )

    def loss(self, outputs: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Mean loss of these rows, whose outputs are (N, outputs)."""
        answers, weights = (
            torch.from_numpy(np.stack([self.answers[row][part] for row in rows.tolist()]))
            for part in (0, 1)
        )
        known = Rows(outputs, answers.to(outputs), weights.to(outputs))
        return losses_of(self.kind, outputs[None], known)[0]


@dataclass(kw_only=True, slots=True)
class _Candidate:
    """One head in training, and the best that it has been."""

    head: TokenHead
    config: TokenProbeConfig
    optimizer: torch.optim.Optimizer
    state: dict[str, Tensor]
    best_epoch: int = 0
    loss: float = float("inf")

    @classmethod
    def of(
        cls,
        config: TokenProbeConfig,
        kept: KeptTokens,
        names: Sequence[str],
        seed: int,
        device: Any,
    ) -> "_Candidate":
        """At its first weights."""
        head = _make_head(config, kept, list(names), seed).to(device)
        groups = decay_groups(head, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        state = copy.deepcopy(head.state_dict())
        return cls(head=head, config=config, optimizer=optimizer, state=state)

    @property
    def asking(self) -> tuple[TokenHead, tuple[int, ...]]:
        """The head, and the blocks that it reads."""
        return self.head, self.config.blocks

    def step(self, tokens: Tensor, rows: NDArray[np.int64], asked: _Asked) -> None:
        """Learn from a batch."""
        self.head.train()
        loss = asked.loss(self.head(tokens), rows)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def look(self, epoch: int, loss: float) -> bool:
        """Keep the weights if they are the best; true while it may go on."""
        if loss < self.loss:
            self.loss, self.best_epoch = loss, epoch
            self.state = copy.deepcopy(self.head.state_dict())
        return epoch < self.config.epochs and epoch - self.best_epoch < self.config.patience

    def finish(self, asked: _Asked) -> None:
        """Put the best weights back; outputs in units of the quantity."""
        self.head.load_state_dict(self.state)
        with torch.no_grad():
            self.head.linear.weight.mul_(asked.unit)
            self.head.linear.bias.mul_(asked.unit).add_(asked.centre)


def _make_head(
    config: TokenProbeConfig, kept: KeptTokens, classes: list[str], seed: int
) -> TokenHead:
    width, one = kept.width(config.blocks), kept.width((0,))
    joined = {} if width == one else {"joined": one}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.kind == "attentive":
            return AttentiveHead(
                width=width, classes=classes, heads=config.heads, depth=config.depth, **joined
            )
        return CrossAttentionHead(
            width=width, classes=classes, heads=config.heads, inner=config.inner
        )


def _train(
    kept: KeptTokens,
    asked: _Asked,
    configs: Sequence[TokenProbeConfig],
    seed: int,
    device: torch.device | str,
) -> list[_Candidate]:
    """Train all candidates on the same batches, each up to its own best epoch."""
    order, size = np.random.default_rng(seed), configs[0].batch_size
    trained = [_Candidate.of(one, kept, asked.names, seed, device) for one in configs]
    going, epoch = trained, 0
    while going:
        epoch += 1
        shuffled = order.permutation(asked.fit)
        for rows in np.array_split(shuffled, -(-len(shuffled) // size)):
            batch = kept.read(rows, (one.config.blocks for one in going), device)
            for one in going:
                one.step(batch[one.config.blocks], rows, asked)
        held = _predict([one.asking for one in going], kept, size, asked.rest)
        going = [
            one
            for one, outputs in zip(going, held, strict=True)
            if one.look(epoch, float(asked.loss(outputs.double(), asked.rest)))
        ]
    for one in trained:
        one.finish(asked)
    return trained


@torch.no_grad()
def _predict(
    asking: Sequence[tuple[TokenHead, tuple[int, ...]]],
    kept: KeptTokens,
    size: int,
    rows: NDArray[np.int64],
) -> list[Tensor]:
    """Outputs of each head for the rows, on the CPU; each row is read once for all of them."""
    device = next(asking[0][0].parameters()).device
    found: list[list[Tensor]] = [[] for _ in asking]
    for head, _ in asking:
        head.eval()
    for at in range(0, len(rows), size):
        batch = kept.read(rows[at : at + size], (blocks for _, blocks in asking), device)
        for (head, blocks), parts in zip(asking, found, strict=True):
            parts.append(head(batch[blocks]).float().cpu())
    return [torch.cat(parts) for parts in found]
