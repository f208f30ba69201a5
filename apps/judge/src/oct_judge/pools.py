"""Learned pools on the kept tokens of a frozen encoder: a grid, fitted together in one pass.

`mode=attentive` with `training.grid`. The encoder meets each volume once; every candidate is
trained on the same batches of its tokens, stops and is chosen by validation rows, and the best is
left behind as the loop would leave it.
"""

import shutil
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import oct_xla
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.features import TOKENS, embed_batch, key_of
from oct_vjepa.evaluation.token_probe import FittedTokenProbe, TokenProbeConfig, fit_token_probes
from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.configuration import LossConfig
from oct_vjepa.heads.supervised import Supervised
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.progress import watch_scores
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.protocol import Round
from oct_vjepa.saving import write_whole

from oct_judge.candidates import iter_volumes
from oct_judge.examples import Volumes
from oct_judge.learning import Ending, Place, finish, own_encoder, save
from oct_judge.recipe import TrainingConfig
from oct_judge.training import Trained, predict, rows_to_fit

Tokens = NDArray[np.float16]
SHOWN = ("kind", "depth", "learning_rate", "weight_decay", "best_epoch", "validation", "loss")
"""What is told of a candidate, beside the blocks that it reads."""
BYTES = 2  # of a number that is kept
MB = 1e6


def fit_pools(
    config: TrainingConfig,
    encoder: Encoder,
    volumes: Volumes,
    target: Target,
    people: NDArray[np.int64],
    round: Round,
    place: Place,
    features: Path,
) -> Trained:
    """Fit the grid on the rows to fit, take what is best on validation, score, and save.

    Scores are those of the encoder and the chosen head, as what is left behind gives them.

    Args:
        config: the recipe; `grid` is asked for.
        encoder: whose tokens; it stays as it is.
        volumes: N of them.
        target: N answers.
        people: participant of each row.
        round: which rows are for what.
        place: where, with which seed.
        features: folder where tokens are kept, 2 bytes each.

    Raises:
        ValueError: as `fit_token_probes`.
    """
    runtime, known = place.runtime, target.known
    size = config.plan(len(rows_to_fit(config, target, round)), runtime.devices).batch_size
    kept = config.grid.kept(encoder.config.depth)
    tokens = keep_tokens(encoder, volumes, place.data, features, size, runtime, kept)
    fitted = fit_token_probes(
        tokens,
        target,
        people,
        round._replace(fit=round.fit & known, validation=round.validation & known),
        candidates_of(config, encoder.config.depth),
        balanced=config.class_weights == "auto",
        seed=place.seed,
        device=runtime.device if runtime.device.type == "cuda" else "cpu",
        parts=len(kept) or 1,
    )
    objective = model_of(config, encoder, fitted, target, place.seed, kept)
    runtime.prepare(objective)
    ask = partial(predict, objective, volumes, size=size, runtime=runtime)
    scores_NK = np.full((len(target), len(target.names)), np.nan)
    asked = np.flatnonzero(round.validation | round.calibrating | round.test)
    scores_NK[asked] = finish(ask(asked))
    watched = np.flatnonzero(round.validation & known)
    save(objective, objective.head, encoder.config, place, lora=False)
    epoch = int(fitted.chosen["best_epoch"])
    return Trained(
        scores_NK,
        Ending("done", epoch, epoch, float(fitted.chosen["validation"])),
        HEADLINE[target.kind],
        watch_scores(scores_NK[watched], target.take(watched)),
        place.run_dir,
        chosen=shown(fitted.chosen, kept),
        candidates=tuple(shown(one, kept) for one in fitted.candidates),
    )


def candidates_of(config: TrainingConfig, depth: int) -> list[TokenProbeConfig]:
    """Every readout, pool, depth, learning rate and decay with every other, as they were given.

    Args:
        config: the recipe.
        depth: blocks of the encoder.
    """
    grid, head = config.grid, config.head
    places = {number: place for place, number in enumerate(grid.kept(depth))}
    tried = product(
        grid.read(depth) or [()],
        grid.kinds or [head.kind],
        grid.depths or [head.depth],
        grid.learning_rates or [config.lr_head],
        grid.weight_decays or [config.weight_decay],
    )
    made = [
        TokenProbeConfig(
            kind=kind,
            heads=head.heads,
            depth=layers if kind == "attentive" else 1,  # a cross-attention pool has one
            inner=head.inner,
            learning_rate=rate,
            weight_decay=decay,
            batch_size=config.batch_size,
            epochs=config.epochs,
            patience=config.patience or config.epochs,
            blocks=tuple(places[number] for number in blocks),
        )
        for blocks, kind, layers, rate, decay in tried
    ]
    return [one for number, one in enumerate(made) if one not in made[:number]]


def shown(candidate: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """What results.json says of a candidate: blocks by number, where several were asked for."""
    read = {"blocks": levels_of(candidate, kept)} if kept else {}
    return read | {name: candidate[name] for name in SHOWN}


def levels_of(candidate: dict[str, Any], kept: Sequence[int]) -> list[int]:
    """Numbers of the blocks that a candidate reads."""
    return [kept[place] for place in candidate["blocks"]]


def model_of(
    config: TrainingConfig,
    encoder: Encoder,
    fitted: FittedTokenProbe,
    target: Target,
    seed: int,
    kept: Sequence[int],
) -> Supervised:
    """The encoder, untouched, with the head that was chosen; its outputs mean what they say."""
    head = fitted.head
    head.answer = Answer(kind=target.kind, unit=target.unit)
    head.levels = tuple(levels_of(fitted.chosen, kept))
    loss = LossConfig(kind=target.kind)
    return Supervised(own_encoder(encoder, config, seed), head, loss, config.finetuning(1))


def keep_tokens(
    encoder: Encoder,
    volumes: Volumes,
    data: str,
    features: Path,
    size: int,
    runtime: oct_xla.Runtime,
    blocks: Sequence[int],
) -> Tokens:
    """Tokens, (N, T, D), of several blocks side by side, in a file that is read as it is needed.

    Args:
        encoder: whose.
        volumes: N of them.
        data: stands for the volumes and their order.
        features: folder of kept features.
        size: volumes of one pass.
        runtime: where to compute; each precision has a file of its own.
        blocks: numbers of those that are kept; none: the encoder's output.

    Raises:
        ValueError: the disk has no room for them.
    """
    key = key_of(encoder, data, volumes.spacings)
    read = f"-layers{'_'.join(map(str, blocks))}" if blocks else ""
    path = features / f"{key}{read}-{runtime.precision}.tokens.npy"
    if not path.exists():
        features.mkdir(parents=True, exist_ok=True)
        check_room(size_of(encoder.config, len(blocks)) * len(volumes), features)
        write = partial(_write_tokens, encoder, volumes, size, runtime, blocks)
        write_whole(path, write, shared=True)
    found: Tokens = np.load(path, mmap_mode="r")
    return found


def size_of(config: EncoderConfig, blocks: int) -> int:
    """Bytes of the kept tokens of a volume: of so many blocks, or with 0 of the output."""
    patches = int(np.prod(config.grid))
    return BYTES * patches * config.width * (blocks or 1)


def check_room(needed: int, folder: Path) -> None:
    """Refuse tokens for which the disk has no room.

    Raises:
        ValueError: says how much there is, in MB.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"training.grid keeps {needed / MB:,.0f} MB of tokens, and the disk of features= has "
            f"{free / MB:,.0f} MB free; name fewer training.grid.blocks, or another folder"
        )


def tell_kept(config: TrainingConfig, encoder: EncoderConfig, volumes: int) -> str:
    """One line: what the grid keeps of each encoder, and how many pools are fitted on it."""
    kept, pools = config.grid.kept(encoder.depth), len(candidates_of(config, encoder.depth))
    what = f"blocks {', '.join(map(str, kept))}" if kept else "the output"
    each = size_of(encoder, len(kept))
    return (
        f"training.grid: {pools} pools on the tokens of {what}, {each / MB:.3g} MB a volume, "
        f"{each * volumes / MB:,.3g} MB on disk for each encoder"
    )


def _write_tokens(
    encoder: Encoder,
    volumes: Volumes,
    size: int,
    runtime: oct_xla.Runtime,
    blocks: Sequence[int],
    draft: Path,
) -> None:
    layers = list(blocks) or None
    encoder.to(runtime.device).eval()
    written: np.memmap[Any, np.dtype[np.float16]] | None = None
    with runtime.autocast():
        for first in range(0, len(volumes), size):
            rows = list(range(first, min(first + size, len(volumes))))
            batch = np.stack(list(iter_volumes(volumes, rows)))
            spacing = torch.from_numpy(np.asarray(volumes.spacings[rows], np.float32))
            found = embed_batch(
                encoder, batch, pools=(), spacing_B3=spacing, layers=layers, tokens=True
            )[TOKENS]
            if written is None:
                shape = (len(volumes), *found.shape[1:])
                written = open_memmap(draft, mode="w+", dtype=np.float16, shape=shape)
            written[rows] = found
    assert written is not None  # there is a row to fit
    written.flush()
