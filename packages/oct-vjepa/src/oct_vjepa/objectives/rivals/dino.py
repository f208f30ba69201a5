"""Views of one volume, or of two that belong together, fall into the same classes.

DINO (Caron et al. 2021, arXiv 2104.14294; main_dino.py and vision_transformer.py of
facebookresearch/dino). A teacher, the moving average of the student with its head, sees the two
large views; the student sees all views, and is asked what the teacher says of each other one. The
teacher's scores are centred, so that no class takes all, and sharpened, so that not all are alike.

It works on the mean token, as the encoder has no class token; small views are the context patches
of each mask set instead of small crops. Left out: the warm-up of the teacher's temperature, and the
still last layer of the first epoch. The centre moves once a step, after all its micro-batches.
"""

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.model.blocks import initialise
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.diagnostics import feature_spread
from oct_vjepa.objectives.losses import normalise_targets
from oct_vjepa.objectives.objective import JepaBatch, PairBatch, Taught
from oct_vjepa.objectives.rivals.configuration import DinoConfig
from oct_vjepa.objectives.rivals.crops import draw_pair, pooled
from oct_vjepa.objectives.teacher import follow


class DinoHead(nn.Module):
    """From the mean token of a volume to a score for each class.

    Args:
        width: of the mean token.
        config: hidden width, bottleneck and classes.
    """

    def __init__(self, width: int, config: DinoConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            *(nn.Linear(width, config.hidden), nn.GELU()),
            *(nn.Linear(config.hidden, config.hidden), nn.GELU()),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.prototypes = nn.Linear(config.bottleneck, config.prototypes, bias=False)
        initialise(self)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Cosines to the classes, (B, prototypes), float32."""
        unit = functional.normalize(self.mlp(pooled_BD).to(torch.float32), dim=-1)
        return functional.linear(unit, functional.normalize(self.prototypes.weight.float(), dim=-1))


class Dino(Taught):
    """Encoder and head with the loss that trains both, and a teacher of each.

    Args:
        encoder: the student; trained in place.
        config: see `DinoConfig`.
        masking: the mask sets; the context of each is a small view.

    Raises:
        ValueError: the masks do not fit the encoder's grid.
    """

    predictor: DinoHead
    center: Tensor

    def __init__(self, encoder: Encoder, config: DinoConfig, masking: MaskingConfig) -> None:
        masking.check(encoder.config.grid)
        head = DinoHead(encoder.config.width, config)
        super().__init__(encoder, head, masking, follows=config)
        self.config = config
        self.teacher_head = copy.deepcopy(head).requires_grad_(False)
        self.register_buffer("center", torch.zeros(config.prototypes))
        self._said: list[Tensor] = []  # mean of the teacher's scores, of each micro-batch of a step

    def loss(
        self,
        batch: Tensor | JepaBatch | PairBatch,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device; nothing is read back.

        Args:
            batch: volumes, with or without masks and partners.
            generator: on the CPU; draws the views, and masks if there are none.

        Returns:
            "loss" (differentiable); detached: "target_std", the spread of the teacher's normalised
            mean tokens, "teacher_entropy" in nats (0 or the log of `prototypes`: collapsed), and
            "baseline_loss", the loss of saying the same of every volume, with
            "loss_over_baseline".

        Raises:
            ValueError: volumes of another shape than the encoder was made for, masks for another
                number of sets, or no generator.
        """
        one = self._unpack(batch, generator)
        pair = draw_pair(one, batch, self.encoder.config, self.config.crops, generator)
        said = [self.predictor(pooled(self.encoder, view)) for view in pair]
        for index, masks in enumerate(one.masks):
            small = pooled(self.encoder, pair[index % 2], masks.context_BK)
            said.append(self.predictor(small))
        with torch.no_grad():
            tokens = [pooled(self.teacher.encoder, view) for view in pair]
            asked = self._answers([self.teacher_head(one_BD) for one_BD in tokens])
        logs = [(one_BP / self.config.student_temperature).log_softmax(dim=-1) for one_BP in said]
        losses = [
            -(asked[teacher] * logs[student]).sum(dim=-1).mean()
            for teacher in range(2)
            for student in range(len(logs))
            if student != teacher
        ]
        loss = torch.stack(losses).mean()
        return {"loss": loss, **self._report(loss.detach(), torch.cat(asked), torch.cat(tokens))}

    def _answers(self, scores: list[Tensor]) -> list[Tensor]:
        """The teacher's classes, centred and sharpened; in training kept for the next centre."""
        if self.training:
            self._said.append(torch.cat(scores).mean(dim=0))
        temperature = self.config.teacher_temperature
        return [((one_BP - self.center) / temperature).softmax(dim=-1) for one_BP in scores]

    @torch.no_grad()
    def _report(self, loss: Tensor, answer_BP: Tensor, tokens_BD: Tensor) -> dict[str, Tensor]:
        mean_P = answer_BP.mean(dim=0)
        baseline = torch.special.entr(mean_P).sum()
        return {
            "baseline_loss": baseline,
            "loss_over_baseline": loss / baseline.clamp_min(1e-12),
            "teacher_entropy": torch.special.entr(answer_BP).sum(dim=-1).mean(),
            "target_std": feature_spread(normalise_targets(tokens_BD)),
        }

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        """Move both teachers and the centre; see `Objective.after_step`."""
        numbers = super().after_step(step, steps, applied)
        follow(self.teacher_head, self.predictor, numbers["momentum"], applied)
        self._move_center(applied)
        return numbers

    @torch.no_grad()
    def _move_center(self, applied: Tensor | None) -> None:
        """Move the centre to what the teacher has said in this step, and forget that."""
        sum_P = sum(self._said, start=torch.zeros_like(self.center))
        count, self._said = torch.full_like(sum_P[:1], len(self._said)), []
        # On XLA a tensor is that of all devices. Elsewhere all processes meet here in every step,
        # also one that ran out of memory before it had anything to say.
        if dist.is_available() and dist.is_initialized() and sum_P.device.type != "xla":
            both = torch.cat([sum_P, count])
            dist.all_reduce(both)
            sum_P, count = both[:-1], both[-1:]
        moved_P = self.center.lerp(sum_P / count, 1 - self.config.center_momentum)
        # Not a weight of 0: what is not a number stays none.
        keeps = count == 0 if applied is None else (count == 0) | ~applied
        self.center.copy_(torch.where(keeps, self.center, moved_P))
