"""Can lesions that are only an order of parts be learned at all? By a small network with labels.

    python benchmarks/phantom_learnable.py

Trains three layers of convolutions on single B-scans, averaged over B-scans above and below the
fovea, for `inverted`, `misplaced` and `texture` at once, on the training participants of
`data=phantom_arranged` with 1,200 participants. AUROC is that of the test participants after the
last epoch; nothing is chosen by it. A minute of one core. Phantom, all of it.
"""

import time
from typing import NamedTuple

import numpy as np
import oct_io
import torch
from numpy.typing import NDArray
from oct_vjepa.measures.units import Units
from oct_vjepa.scores.scorecard import score_card
from torch import Tensor, nn
from writing import write_results

LABELS = ("inverted", "misplaced", "texture")
SOURCE = oct_io.SourceConfig(
    name="phantom_arranged",
    root="runs/data/phantom_arranged",
    window="tiny",
    cache="runs/data/phantom_arranged-cache-tiny",
    phantom=oct_io.PhantomTree(  # configs/data/phantom_arranged.yaml, but fewer participants
        participants=1200,
        seed=3,
        eyes=("R",),
        split_fractions=(0.5, 0.1, 0.4),
        arrangements=LABELS,
        gain_sd_db=1.5,
        roll_off_sd_db_per_mm=1.0,
    ),
)
EPOCHS, BATCH, RATE = 16, 32, 6e-3


class Eyes(NamedTuple):
    """One volume a participant."""

    volumes: Tensor  # (N, Z, Y, X), zero mean and unit spread each
    labels: Tensor  # (N, len(LABELS))
    held_out: NDArray[np.bool_]


class Network(nn.Module):
    """Convolutions on B-scans, the mean over each half of them, one output a label."""

    def __init__(self) -> None:
        super().__init__()
        sides = ((1, 12, 5, (2, 2)), (12, 24, 3, (2, 1)), (24, 32, 3, (1, 2)))
        layers: list[nn.Module] = []
        for inputs, outputs, size, stride in sides:
            convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2)
            layers += [convolution, nn.ReLU(), nn.BatchNorm2d(outputs)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(64, len(LABELS))

    def forward(self, volumes: Tensor) -> Tensor:
        """Log-odds of each label, (N, labels)."""
        count, bscans, rows, columns = volumes.shape
        flat: Tensor = self.layers(volumes.reshape(count * bscans, 1, rows, columns))
        halves = flat.mean((2, 3)).reshape(count, 2, bscans // 2, -1).mean(2)
        found: Tensor = self.head(halves.flatten(1))
        return found


def read_eyes() -> Eyes:
    """Draw and cache what is not there yet, and read all of it."""
    source = oct_io.open_source(SOURCE)
    asked = [source.labelled(name) for name in LABELS]
    volumes = np.stack([np.asarray(one) for one in asked[0].volumes]).astype(np.float32)
    volumes -= volumes.mean((1, 2, 3), keepdims=True)
    volumes /= volumes.std((1, 2, 3), keepdims=True)
    labels = np.stack([one.labels for one in asked], axis=1).astype(np.float32)
    return Eyes(torch.from_numpy(volumes), torch.from_numpy(labels), asked[0].held_out)


def train(network: Network, eyes: Eyes, rng: np.random.Generator) -> None:
    """Train on those that are not held out: shifted and with noise, not mirrored (`inverted`)."""
    rows = np.flatnonzero(~eyes.held_out)
    steps = len(rows) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), RATE / 2, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    network.train()
    for epoch in range(EPOCHS):
        losses, order = [], rng.permutation(rows)
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = eyes.volumes[chosen]
            shift = int(rng.integers(-6, 7)), int(rng.integers(-8, 9))
            batch = batch.roll(shift, (2, 3))
            batch = batch + 0.2 * float(rng.random()) * torch.randn_like(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(
                network(batch), eyes.labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)


@torch.no_grad()
def score(network: Network, eyes: Eyes) -> dict[str, list[float]]:
    """AUROC of each label on the test participants, with its 95 % interval."""
    network.eval()
    rows = np.flatnonzero(eyes.held_out)
    odds = torch.cat([network(eyes.volumes[part]) for part in np.array_split(rows, 8)])
    found = {}
    for column, name in enumerate(LABELS):
        yes = torch.sigmoid(odds[:, column]).double().numpy()
        labels = eyes.labels[rows, column].numpy().astype(np.int64)
        units = Units(np.stack([1 - yes, yes], axis=1), labels, rows)
        card = score_card([[units]], "nominal", ["no", "yes"], seed=0)
        found[name] = [round(value, 3) for value in card.headline]
    return found


def main() -> None:
    """Train, score, print and write down."""
    torch.manual_seed(0)
    eyes, network = read_eyes(), Network()
    start = time.process_time()
    train(network, eyes, np.random.default_rng(0))
    facts = {
        "phantom": True,
        "participants": {
            "train": int((~eyes.held_out).sum()),
            "test": int(eyes.held_out.sum()),
        },
        "cpu_s": round(time.process_time() - start),
        "auroc": score(network, eyes),
    }
    print(facts["auroc"])
    write_results("phantom_learnable", ("oct-io", "torch", "numpy"), facts)


if __name__ == "__main__":
    main()
