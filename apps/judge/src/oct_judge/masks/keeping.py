"""A finished evaluation of masks becomes RUN/model: encoder, decoder, and a card.

As of answers the first of several seeds is kept, and of several rounds all, whose chances are
averaged.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import oct_xla
from oct_vjepa import Encoder
from oct_vjepa.finished.about import SEGMENTATION, About, MemberAbout
from oct_vjepa.finished.folder import write_about

from oct_judge.candidates import PRETRAINED, Embedder, Rows
from oct_judge.finished.keeping import (
    MODEL,
    drafting,
    keep_novelty,
    kind_of,
    made_for,
    repeated,
)
from oct_judge.masks.candidates import drawing_folder
from oct_judge.masks.card import write_mask_card
from oct_judge.masks.results import FoundMasks


def keep_mask_model(
    run_dir: Path,
    found: FoundMasks,
    runtime: oct_xla.Runtime,
    document: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Write RUN/model and return its place; an older one stays until the new one is whole.

    Args:
        run_dir: of the evaluation.
        found: what was asked and drawn.
        runtime: where novelty is computed.
        document: results.json.
        provenance: of the run.
    """
    config, study = found.config, found.study
    embed = Embedder(Path(config.features), runtime, config.readout, config.batch_size)
    order = "\n".join([study.volumes.fingerprint, *study.volumes.ids])
    fingerprint = hashlib.sha256(order.encode()).hexdigest()
    rows = Rows.of(study.volumes, fingerprint)
    with drafting(run_dir) as draft:
        about = About(
            question=document["question"]["name"],
            kind=SEGMENTATION,
            names=study.names,
            mode=config.mode,
            made_up=study.source.made_up,
            shape=study.volumes.shape,
            window=asdict(study.volumes.window) | kind_of(config.data.kind),
            made_for=made_for(study.rounds, study.volumes, config.data.flags),
            members=tuple(
                keep_drawn(draft, found, number, run_dir, embed, rows)
                for number in range(len(study.rounds))
            ),
            levels=tuple(config.training.decoder.levels),
            boundaries=study.boundaries,
            band=tuple(document["question"]["thickness"]),
            results=results_of(document),
            provenance=repeated(provenance, document),
        )
        write_about(draft, about, write_mask_card)
    return run_dir / MODEL


def keep_drawn(
    draft: Path, found: FoundMasks, number: int, run_dir: Path, embed: Embedder, rows: Rows
) -> MemberAbout:
    """Copy the encoder and decoder that training left behind in a round."""
    one = found.drawings[PRETRAINED][0][number]
    trained = drawing_folder(run_dir, PRETRAINED, one.seed, number)
    home = f"members/{number}"
    encoder = "encoder" if len(found.study.rounds) == 1 else f"{home}/encoder"
    shutil.copytree(trained / "head", draft / home)
    shutil.copytree(trained / "encoder", draft / encoder)
    features = embed.last(Encoder.from_pretrained(trained / "encoder"), rows)
    return MemberAbout(
        encoder=encoder,
        head=home,
        round=one.round,
        seed=one.seed,
        usual=keep_novelty(draft / home, found.study.rounds[number], features),
    )


def results_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the model repeats of results.json."""
    names = ("sentence", "headline", "test_touches", "split", "protocol", "seeds", "subgroups")
    rows = {one["name"]: one for one in document["candidates"]}
    return {name: document[name] for name in names} | {
        "card": rows[PRETRAINED]["card"],
        "beside": {
            name: {"card": one["card"], "gain": one["gain"]}
            for name, one in rows.items()
            if one["gain"]
        },
    }
