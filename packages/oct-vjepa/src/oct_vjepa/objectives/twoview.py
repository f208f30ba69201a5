"""The predecessor's objective: two views, a small MLP, unit vectors; to load, run and compare.

Two settings of it have names. `predecessor_asis` is what it ran: the student sees every patch of
one view, the teacher is the student's random start and never moves, and the loss reads 60 % of the
patches. So no patch has to be predicted from others, and the features to be predicted are those of
a random network. `predecessor_fixed` is what it meant, and what `TwoViewConfig` is by itself: the
student sees the visible patches only, the teacher follows it, views stay aligned, and the predictor
knows where its target lies.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from oct_vjepa.masking.configuration import MaskingConfig, predecessor_masking
from oct_vjepa.masking.masks import Masks
from oct_vjepa.model.blocks import INIT_STD, initialise
from oct_vjepa.model.configuration import EncoderConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.objectives.configuration import TwoViewConfig
from oct_vjepa.objectives.losses import cosine_loss
from oct_vjepa.objectives.objective import JepaBatch, Taught
from oct_vjepa.objectives.tally import Tally
from oct_vjepa.objectives.views import draw_view


class TwoViewBatch(NamedTuple):
    """Two views that were made in the feed, and masks; one volume serves as well, see `loss`."""

    context_BCZYX: Tensor
    target_BCZYX: Tensor
    masks: tuple[Masks, ...]
    spacing_B3: Tensor | None = None


class MlpPredictor(nn.Module):
    """Linear, batch norm, GELU, linear, for each token by itself; the predecessor's layout.

    Statistics of the batch norm are over all tokens of the batch, so that losses of two half
    batches are not those of a whole one. Names of the state are `net.0`, `net.1` and `net.3`.

    Args:
        encoder: whose tokens come in and go out.
        positions: whether a vector is added for each place.
    """

    def __init__(self, encoder: EncoderConfig, *, positions: bool) -> None:
        super().__init__()
        width = encoder.width
        self.net = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, width)
        )
        self.positions: nn.Parameter | None = None
        initialise(self)
        if positions:
            self.positions = nn.Parameter(torch.empty(encoder.tokens, width))
            nn.init.trunc_normal_(self.positions, std=INIT_STD)

    def forward(self, tokens_BMD: Tensor, ids_BM: Tensor | None) -> Tensor:
        """Predicted features, (B, M, D), of the places `ids_BM`; None is all of them in order."""
        tokens_BMD = tokens_BMD.to(next(self.net.parameters()).dtype)
        if self.positions is not None:
            tokens_BMD = tokens_BMD + (self.positions if ids_BM is None else self.positions[ids_BM])
        return self.net(tokens_BMD.flatten(0, 1)).unflatten(0, tokens_BMD.shape[:2])


class TwoView(Taught):
    """Encoder, MLP and teacher with the predecessor's loss.

    Without masked context the prediction of a patch comes from the student's token of that patch.
    With it there is none, and the mean of the context tokens takes its place.

    Args:
        encoder: the student; trained in place.
        config: see `TwoViewConfig`.
        masking: the mask sets. None: those of the predecessor.

    Raises:
        ValueError: the masks do not fit the encoder's grid.
    """

    predictor: MlpPredictor
    coupled = True  # by the batch norm

    def __init__(
        self, encoder: Encoder, config: TwoViewConfig, masking: MaskingConfig | None = None
    ) -> None:
        masking = predecessor_masking() if masking is None else masking
        masking.check(encoder.config.grid)
        predictor = MlpPredictor(encoder.config, positions=config.positions)
        follows = None if config.teacher_frozen else config
        super().__init__(encoder, predictor, masking, follows=follows)
        self.config = config

    def loss(
        self,
        batch: Tensor | JepaBatch | TwoViewBatch,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device; nothing is read back.

        Args:
            batch: two views with their masks; or volumes, with or without masks, of which two views
                are drawn.
            generator: on the CPU; draws what `batch` lacks.

        Returns:
            As `Jepa.loss`. The loss is 2 (1 - cosine) / D, so small numbers say little by
            themselves; "loss_over_baseline" and "prediction_cosine" can be read.

        Raises:
            ValueError: volumes of another shape than the encoder was made for, masks for another
                number of sets, or no generator where something must be drawn.
        """
        views = self._views(batch, generator)
        spacing = views.spacing_B3
        target_BND = self.teacher(views.target_BCZYX, spacing_B3=spacing).to(torch.float32)
        tally = Tally()
        for one in views.masks:
            prediction = self.predict(views, one)
            target = gather_patches(target_BND, one.target_BM)
            tally.add(cosine_loss(prediction, target), prediction, target)
        unit_BND = nn.functional.normalize(target_BND, dim=-1)
        baseline = cosine_loss(unit_BND.mean(dim=(0, 1)).expand_as(unit_BND), unit_BND)
        return {"loss": tally.mean(), **tally.report(target_BND, baseline)}

    def predict(self, views: TwoViewBatch, masks: Masks) -> Tensor:
        """What is said of each target patch, (B, M, D)."""
        ids_BM, spacing = masks.target_BM, views.spacing_B3
        if self.config.context_masked:
            tokens = self.encoder(views.context_BCZYX, masks.context_BK, spacing_B3=spacing)
            seen = tokens.mean(dim=1, keepdim=True).expand(-1, ids_BM.shape[1], -1)
            return self.predictor(seen, ids_BM)
        # All tokens go through, as the batch norm counts them all; the loss reads the targets.
        tokens = self.encoder(views.context_BCZYX, spacing_B3=spacing)
        return gather_patches(self.predictor(tokens, None), ids_BM)

    def _views(
        self, batch: Tensor | JepaBatch | TwoViewBatch, generator: torch.Generator | None
    ) -> TwoViewBatch:
        if isinstance(batch, TwoViewBatch):
            self._check_shape(batch.target_BCZYX)
            one = self._unpack(JepaBatch(batch.context_BCZYX, batch.masks), generator)
            return batch._replace(masks=one.masks)
        if generator is None:
            raise ValueError("give loss() a TwoViewBatch, or a generator that draws the two views")
        one = self._unpack(batch, generator)
        encoder = self.encoder.config
        context, target = (
            draw_view(
                one.volume_BCZYX,
                self.config.views,
                generator,
                mean=encoder.input_mean,
                std=encoder.input_std,
            )
            for _ in range(2)
        )
        return TwoViewBatch(context, target, one.masks, one.spacing_B3)
