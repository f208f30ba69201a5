"""A finished evaluation of patches becomes RUN/model: encoder, regression, thresholds and a card.

As of answers the first of several seeds is kept, and of several rounds all, whose chances are
averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_vjepa.evaluation.patch_probe import LEAST
from oct_vjepa.finished.about import PATCHES, About, MemberAbout
from oct_vjepa.finished.folder import write_about
from oct_vjepa.finished.located import mean_of_patches
from oct_vjepa.heads.answer import Answer
from oct_vjepa.heads.linear import PatchHead
from oct_vjepa.probes.protocol import Round

from oct_judge.finished.card import details, lay_out, metrics_table, not_intended, takes
from oct_judge.finished.keeping import MODEL, drafting, keep_novelty, kind_of, made_for, repeated
from oct_judge.masks.card import caveats, data
from oct_judge.masks.keeping import results_of
from oct_judge.masks.patches import Patches
from oct_judge.masks.witnesses import Said, Tokens, Witnesses

SPECIFICITY = 0.99
"""Share of the patches without a class, of validation participants, that stay below its threshold:
of 100 patches one is marked where there is nothing."""


def keep_patch_model(
    run_dir: Path,
    cast: Witnesses,
    said: Sequence[Said],
    document: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Write RUN/model and return its place; an older one stays until the new one is whole.

    Args:
        run_dir: of the evaluation.
        cast: who was asked.
        said: what the encoder came to in each round, with the first seed.
        document: results.json.
        provenance: of the run.
    """
    config, study = cast.config, cast.patches.study
    with drafting(run_dir) as draft:
        kept = [keep_member(draft, cast, one, number) for number, one in enumerate(said)]
        if cast.family.is_one:
            cast.family.first.save_pretrained(draft / "encoder")
        about = About(
            question=document["question"]["name"],
            kind=PATCHES,
            names=tuple(cast.patches.names),
            mode=config.mode,
            made_up=study.source.made_up,
            shape=study.volumes.shape,
            window=asdict(study.volumes.window) | kind_of(config.data.kind),
            made_for=made_for(study.rounds, study.volumes, config.data.flags),
            members=tuple(member for member, _ in kept),
            cutoffs=mean_cutoffs(cast.patches.names, [cutoffs for _, cutoffs in kept]),
            specificity=SPECIFICITY,
            levels=tuple(cast.blocks()),
            results=results_of(document),
            provenance=repeated(provenance, document),
        )
        write_about(draft, about, write_patch_card)
    return run_dir / MODEL


def keep_member(
    draft: Path, cast: Witnesses, said: Said, number: int
) -> tuple[MemberAbout, NDArray[np.float64]]:
    """Save the regression of a round; the member, and its threshold for each class."""
    one, seed = cast.patches.study.rounds[number], cast.config.seed
    home = draft / "members" / str(number)
    head = PatchHead.from_regression(
        said.weights,
        said.bias,
        classes=cast.patches.names,
        grid=cast.patches.grid,
        around=cast.config.segment.around,
    )
    head.levels, head.answer = tuple(cast.blocks()), Answer(kind="multilabel")
    head.save_pretrained(home)
    place = "encoder"
    if not cast.family.is_one:
        place = f"members/{number}/encoder"
        cast.family.of(one.name, seed).save_pretrained(home / "encoder")
    tokens = cast.tokens(one, seed)
    member = MemberAbout(
        encoder=place,
        head=f"members/{number}",
        round=one.name,
        seed=seed,
        usual=keep_novelty(home, one, mean_of_patches(tokens)),
    )
    return member, thresholds_of(head, tokens, cast.patches, one)


@torch.no_grad()
def thresholds_of(
    head: PatchHead, tokens: Tokens, patches: Patches, one: Round
) -> NDArray[np.float64]:
    """For each class the chance that `SPECIFICITY` of the validation patches without it stay below.

    NaN where every known patch holds the class.
    """
    rows = np.flatnonzero(one.validation)
    odds = [head(torch.from_numpy(tokens[row : row + 1]).float()) for row in rows.tolist()]
    chances = torch.cat(odds).sigmoid().flatten(2).numpy()  # (rows, classes, patches)
    found = np.full(len(patches.names), np.nan)
    for number, present in enumerate(patches.present):
        clear = ~present[rows] & patches.known[rows]
        if clear.any():
            found[number] = np.quantile(chances[:, number][clear], SPECIFICITY)
    return found


def mean_cutoffs(names: Sequence[str], cutoffs: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """Class to the mean of its thresholds in all rounds; a class that lacks one has none."""
    means = np.mean(cutoffs, axis=0).tolist()
    return {name: mean for name, mean in zip(names, means, strict=True) if np.isfinite(mean)}


def write_patch_card(about: About) -> str:
    """The whole card, Markdown."""
    title = f"# {about.question}: mode={about.mode}, where it is in retinal OCT volumes"
    blocks = ", ".join(map(str, about.levels))
    sections: dict[str, list[str]] = {
        "Model details": [*details(about), f"- Reads the tokens of blocks {blocks}, frozen"],
        "Intended use": use(about),
        "Not intended": not_intended(about),
        "Data": data(about),
        "Metrics": [*metrics_table(about), "", *thresholds_text(about)],
        "Caveats": caveats(about),
    }
    return lay_out(about, title, sections)


def use(about: About) -> list[str]:
    """What it takes and gives."""
    return [
        *takes(about, "Looks through"),
        "",
        f"Each patch gets the chance that {LEAST:.0%} of it or more are of each class above. "
        "`uv run apps/finetune predict=FOLDER model=THIS` and "
        "`oct_vjepa.load_model(THIS).locate` use it.",
    ]


def thresholds_text(about: About) -> list[str]:
    """From which chance on a patch is counted."""
    pairs = ", ".join(f"{name} from {value:.4g}" for name, value in about.cutoffs.items())
    if not pairs:
        return [
            "No threshold is known: every patch of the validation participants holds the class."
        ]
    return [
        f"Counted as marked: {pairs}. {about.specificity:.0%} of the validation participants' "
        "patches without the class stay below."
    ]
