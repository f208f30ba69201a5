"""How much of an encoder learns on a new task: learning rates by layer, and freezing schedules."""

import re
from typing import Any, Self

import torch
from torch import Tensor, nn

from oct_vjepa.heads.adapters import has_lora
from oct_vjepa.heads.configuration import FinetuningConfig
from oct_vjepa.model.decay import decays
from oct_vjepa.model.encoder import Encoder

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|level_norms)\.(\d+)\.")
_LATE = re.compile(r"(?:^|\.)norms?\.")  # the norm behind the last block


def layer_of(name: str, depth: int) -> int:
    """Layer of an encoder's parameter: 0 for patches and positions, i + 1 for block i.

    A norm that an earlier block is read through goes with that block. The last norm counts as layer
    depth + 1, with the head, as in BEiT's fine-tuning code.
    """
    found = _BLOCK.search(name)
    if found:
        return int(found.group(1)) + 1
    return depth + 1 if _LATE.search(name) else 0


def layer_groups(
    encoder: Encoder,
    head: nn.Module,
    *,
    weight_decay: float,
    layer_decay: float,
    encoder_lr_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Optimiser groups whose "lr_scale" falls by `layer_decay` from each layer to the one below.

    The head has lr_scale 1, block i `encoder_lr_scale * layer_decay ** (depth - i)`, the patch
    embedding `encoder_lr_scale * layer_decay ** (depth + 1)`. Biases, norms, queries, tokens and
    positions have no weight decay. Frozen parameters are left out.
    """
    depth = len(encoder.blocks)
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in (encoder, head):
        for name, weight in module.named_parameters():
            if not weight.requires_grad:
                continue
            scale = 1.0
            if module is encoder:
                scale = encoder_lr_scale * layer_decay ** (depth + 1 - layer_of(name, depth))
            decay = weight_decay if decays(name, weight) else 0.0
            parts.setdefault((scale, decay), []).append(weight)
    return [
        {"params": weights, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), weights in sorted(parts.items(), key=lambda item: item[0])
    ]


class FineTuned(nn.Module):
    """An encoder with a head on top, one of which learns or both; subclasses add the loss.

    The number of applied steps is part of the state, so that a run that resumes unfreezes where it
    left off.

    Args:
        encoder: trained in place; "lora" wants `add_lora` to have been called on it.
        head: always learns.
        config: see `FinetuningConfig`.

    Raises:
        ValueError: adapters without the mode "lora", or that mode without adapters.
    """

    applied_steps: Tensor

    def __init__(
        self, encoder: Encoder, head: nn.Module, config: FinetuningConfig | None = None
    ) -> None:
        super().__init__()
        self.config = FinetuningConfig() if config is None else config
        if has_lora(encoder) != (self.config.mode == "lora"):
            raise ValueError(
                f"finetuning.mode is {self.config.mode!r}: call add_lora(encoder) before and use "
                "the mode 'lora', or neither of them"
            )
        self.encoder, self.head = encoder, head
        self.register_buffer("applied_steps", torch.zeros((), dtype=torch.int64))
        self._steps: int | None = None  # the same number on the host, read from the device once
        self._open: int | None = None
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            _forget_steps
        )
        self.freeze()
        self._steps = None  # a checkpoint may be put back in place before the first step

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What the head makes of the encoder's tokens."""
        raise NotImplementedError

    def tokens(
        self,
        volume_BCZYX: Tensor,
        spacing_B3: Tensor | None = None,
        *,
        layers: tuple[int, ...] = (),
    ) -> Tensor:
        """Tokens (B, N, D), or those of several blocks joined along D.

        No graph is kept where no part of the encoder learns.
        """
        extra: dict[str, Any] = {} if spacing_B3 is None else {"spacing_B3": spacing_B3}
        if layers:
            extra["layers"] = layers
        learns = torch.is_grad_enabled() and any(
            weight.requires_grad for weight in self.encoder.parameters()
        )
        with torch.set_grad_enabled(learns):
            found = self.encoder(volume_BCZYX, **extra)
        return torch.cat(found, dim=-1) if layers else found

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        """Count an applied step; "gradual" reports how many layers learn, the rest nothing.

        Args:
            step: number of the optimiser step just taken, from 0.
            steps: planned number of steps.
            applied: 0-dim bool on the device; False: it was skipped, and nothing changes. "gradual"
                waits for it, as the host chooses the layers. None: it was not skipped.
        """
        if applied is not None and self.config.mode != "gradual":
            self.applied_steps.add_(applied)
            self._steps = None
            return {}
        if applied is not None and not applied:
            return {}
        count = self._count() + 1
        self.applied_steps.add_(1)  # not set to `count`: that would be a new constant in each graph
        self._steps = count
        return {"open_layers": float(self.freeze())} if self.config.mode == "gradual" else {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups of all that will ever learn, also of what is still frozen.

        An optimiser passes over a parameter without gradient, so a block that joins later starts
        then, with moments of its own.
        """
        if self.config.mode == "gradual":
            self.encoder.requires_grad_(True)
            self._steps = self._open = None  # `freeze` must look again
        return layer_groups(
            self.encoder,
            self.head,
            weight_decay=weight_decay,
            layer_decay=self.config.layer_decay,
            encoder_lr_scale=self.config.encoder_lr_scale,
        )

    def freeze(self) -> int:
        """Let learn what the schedule says for this step; returns how many layers do.

        Counts from the top: 0 is the head alone, depth + 1 is everything.
        """
        depth = len(self.encoder.blocks)
        config = self.config
        if config.mode == "lora":
            return depth + 1
        fixed = {"linear": 0, "partial": min(config.blocks, depth), "full": depth + 1}
        count = fixed.get(config.mode)
        if count is None:
            rounds = self._count() // config.unfreeze_every
            count = min(rounds * config.unfreeze_blocks, depth + 1)
        if count != self._open:
            self._open = count
            for name, weight in self.encoder.named_parameters():
                layer = min(layer_of(name, depth), depth)  # the last norm goes with the last block
                weight.requires_grad_(layer > depth - count)
            self.train(self.training)
        return count

    def train(self, mode: bool = True) -> Self:
        """Switch to training; an encoder that does not learn stays in evaluation mode."""
        super().train(mode)
        if self.config.mode == "linear":
            self.encoder.eval()
        return self

    def _count(self) -> int:
        if self._steps is None:
            self._steps = int(self.applied_steps)  # once a process: a checkpoint may have set it
        return self._steps


def _forget_steps(module: nn.Module, _: Any) -> None:
    if isinstance(module, FineTuned):
        module._steps = None
        module.freeze()
