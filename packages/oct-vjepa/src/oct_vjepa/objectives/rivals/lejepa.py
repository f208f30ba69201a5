"""Views that agree, and embeddings that look like a Gaussian: no teacher, no momentum.

LeJEPA (Balestriero and LeCun 2025, arXiv 2511.08544; MINIMAL.md, README and
lejepa/univariate/epps_pulley.py of rbalestr-lab/lejepa). A view's mean token goes through an MLP to
an embedding; all views of a volume shall lie near the mean of its large ones, and the embeddings of
each view over the batch shall be an isotropic Gaussian (SIGReg): along random directions their
characteristic function is compared with that of a normal distribution, the test of Epps and Pulley.

Large views are two crops of each volume, small ones the context patches of each mask set: the
reference crops six, patches that are dropped cost as little and keep XLA's shapes. The projector is
that of MINIMAL.md, two hidden layers with ReLU, but with layer norms for its batch norms, whose
statistics differ by process; the Gaussian term, too, looks at the volumes of one process, where the
reference adds over all. MINIMAL.md compares with the mean of all views, its own being alike.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.diagnostics import feature_spread
from oct_vjepa.objectives.objective import JepaBatch, Objective, PairBatch
from oct_vjepa.objectives.rivals.configuration import LeJepaConfig
from oct_vjepa.objectives.rivals.crops import View, draw_pair, pooled

KNOTS, LAST_KNOT = 17, 3.0  # epps_pulley.py: n_points and t_max


class LeJepa(Objective):
    """Encoder and projector with the loss that trains both.

    Args:
        encoder: the student; trained in place.
        config: see `LeJepaConfig`.
        masking: the mask sets; the context of each is a small view.

    Raises:
        ValueError: the masks do not fit the encoder's grid.
    """

    coupled = True  # the Gaussian term grows with the volumes that it sees

    def __init__(self, encoder: Encoder, config: LeJepaConfig, masking: MaskingConfig) -> None:
        masking.check(encoder.config.grid)
        hidden = config.hidden
        projector = nn.Sequential(
            *(nn.Linear(encoder.config.width, hidden), nn.LayerNorm(hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU()),
            nn.Linear(hidden, config.embedding),
        )
        super().__init__(encoder, projector, masking)
        self.config = config
        self.reset_projector()

    def reset_projector(self) -> None:
        """Draw the projector as torch does; the small weights of a ViT would begin collapsed."""
        for part in self.predictor.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()

    def loss(
        self,
        batch: Tensor | JepaBatch | PairBatch,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device; nothing is read back.

        Args:
            batch: volumes, with or without masks and partners.
            generator: on the CPU; draws the views, the directions, and masks if there are none.

        Returns:
            "loss" (differentiable); detached: "agreement_loss", "gaussian_loss", and "target_std",
            the spread of the embeddings, which the second pulls to 1.

        Raises:
            ValueError: volumes of another shape than the encoder was made for, masks for another
                number of sets, or no generator.
        """
        one = self._unpack(batch, generator)
        pair = draw_pair(one, batch, self.encoder.config, self.config.crops, generator)
        large = [self.embed(view) for view in pair]
        small = [
            self.embed(pair[index % 2], masks.context_BK) for index, masks in enumerate(one.masks)
        ]
        every_VBE = torch.stack([*large, *small])
        agreement = (every_VBE - torch.stack(large).mean(dim=0)).square().mean()
        directions = torch.randn(self.config.embedding, self.config.directions, generator=generator)
        gaussian = gaussian_loss(every_VBE, functional.normalize(directions, dim=0).to(every_VBE))
        weight = self.config.regulariser_weight
        return {
            "loss": weight * gaussian + (1 - weight) * agreement,
            "agreement_loss": agreement.detach(),
            "gaussian_loss": gaussian.detach(),
            "target_std": feature_spread(every_VBE[0].detach()),
        }

    def embed(self, view: View, ids_BK: Tensor | None = None) -> Tensor:
        """Embeddings of a view, (B, E), float32."""
        return self.predictor(pooled(self.encoder, view, ids_BK)).to(torch.float32)


def gaussian_loss(embedding_VBE: Tensor, directions_EM: Tensor) -> Tensor:
    """How far each view's embeddings are from a standard Gaussian, mean over directions, 0-dim.

    B times the integral of |c(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), where c is the mean of
    exp(i t s) over the batch and s an embedding along a direction; from 0 on, doubled, as both
    sides are alike.
    """
    knots = torch.linspace(0.0, LAST_KNOT, KNOTS, device=embedding_VBE.device)
    weights = torch.full_like(knots, 2 * LAST_KNOT / (KNOTS - 1))
    weights[0] = weights[-1] = LAST_KNOT / (KNOTS - 1)
    normal = (-knots.square() / 2).exp()
    phase_VBMT = (embedding_VBE @ directions_EM).unsqueeze(-1) * knots
    error = (phase_VBMT.cos().mean(dim=1) - normal).square() + phase_VBMT.sin().mean(dim=1).square()
    return (error @ (weights * normal)).mean() * embedding_VBE.shape[1]
