"""The page that a pretraining run leaves behind."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import oct_vjepa
import torch
from gathering import tell_sets
from numpy.typing import NDArray
from oct_io import Source
from oct_judge.closing import remarks_of_all, rows_of_all, sentence_of_all
from oct_judge.results import interval_of
from oct_report import (
    Curve,
    Page,
    Score,
    begin_page,
    draw_features,
    draw_masks,
    end_page,
    plot_curves,
    plot_scores,
    sized,
)
from oct_vjepa.evaluation.maps import principal_colours
from oct_vjepa.objectives.collapse import collapse_alarms
from oct_vjepa.objectives.objective import PairBatch
from samples import PretrainSamples

CURVES = (
    ("loss", "Loss", "not a measure of quality"),
    ("target_std", "Target spread", "towards 0: collapse"),
    ("effective_rank", "Effective rank", "of mean teacher tokens"),
    ("prediction_cosine", "Prediction cosine", "prediction against target"),
    ("grad_norm", "Gradient norm", "before clipping"),
    ("volumes_per_s", "Volumes per second", "whole loop"),
)
ONLINE = "probe_linear_auroc_"
"""How the keys of the online probe begin; the label column follows."""


def write_report(
    run_dir: Path,
    source: Source,
    samples: PretrainSamples,
    encoders: Mapping[str, oct_vjepa.Encoder],
    probes: Sequence[Mapping[str, Any]],
    *,
    method: str,
) -> Path:
    """Write report.html from what the run folder holds, and return its path.

    Args:
        run_dir: with metrics.jsonl, provenance.json and config.yaml.
        source: the volumes of the run.
        samples: what the feed gave, for the masks.
        encoders: name to encoder, the trained one first.
        probes: what was asked of the encoder; may be empty.
        method: what the run trained, in the words of a reader.
    """
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    facts = json.loads((run_dir / "provenance.json").read_text())
    page = begin_page(
        f"Pretraining run {run_dir.name}",
        f"{method} on {len(samples)} volumes, {int(rows[-1]['step'])} optimiser steps on "
        f"{facts['runtime']} ({facts['device']}), {facts['precision']}.",
        made_up=source.made_up,
    )
    if probes:
        page.headline(sentence_of_all(probes))
        page.text(" ".join(remarks_of_all(probes)))
        page.tiles(answers_of_all(probes))
    page.tiles(_ends(rows))
    if said := tell_sets(facts):
        page.text(said)
    for remark in (*source.remarks, *source.advice):
        page.text(f"{remark[:1].upper()}{remark[1:]}.")
    _add_probes(page, probes)
    page.section("Curves", "How to read them: docs/reading-the-curves.md.")
    alarms = collapse_alarms(rows)
    if alarms:
        page.note("This run looks collapsed: " + "; ".join(alarms) + ".")
    else:
        page.text("The collapse guard saw no sign of collapse.")
    page.figure(plot_curves(_curves(rows)), "Curves over the optimiser steps.", plot=True)
    _add_pictures(page, samples, encoders)
    page.section("Provenance", folded=True)
    page.table(("what", "value"), [(key, _short(value)) for key, value in facts.items()])
    return end_page(page, run_dir, "the run")


def answers_of_all(probes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tiles: the score of the trained encoder for each question that was asked."""
    tiles = {}
    for document in probes:
        own = interval_of(document["candidates"][0]["card"]["metrics"][document["headline"]])
        tiles[f"AUROC {document['question']['name']}"] = f"{own.value:.2f}"
    return tiles


def _ends(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    rates = [row["volumes_per_s"] for row in rows if "volumes_per_s" in row]
    return {
        "loss at the end": f"{rows[-1]['loss']:.3f}",
        "target spread at the end": f"{rows[-1]['target_std']:.3f}",
        "volumes per second, median": f"{np.median(rates):.0f}",
    }


def _add_probes(page: Page, probes: Sequence[Mapping[str, Any]]) -> None:
    page.section("What the frozen features know")
    if not probes:
        page.text("No labels were named (probe.columns), so nothing was probed.")
        return
    first = probes[0]["candidates"][0]
    page.text(
        f"A linear probe on frozen features, {first['card']['participants']} test participants, "
        "95 % bootstrap intervals over participants; which blocks are read out, how tokens are "
        "pooled, and how strongly the probe is held back was chosen on validation participants. "
        "Beside it the same network untrained, and measurements of the scan that nobody learned."
    )
    scores = [
        Score(document["question"]["name"], one["name"], "", *metrics[document["headline"]])
        for document in probes
        for one in document["candidates"]
        for metrics in [one["card"]["metrics"]]
    ]
    page.figure(plot_scores(scores, label="AUROC", chance=0.5), "AUROC of each.", plot=True)
    headings, lines = rows_of_all(probes)
    page.table(headings, lines, best=list(_best_rows(probes)))
    page.text("The same question with more rivals, calibration, subgroups and maps: apps/finetune.")


def _best_rows(probes: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Number of the row with the greatest score of each question."""
    first = 0
    for document in probes:
        candidates = document["candidates"]
        scores = [one["card"]["metrics"][document["headline"]][0] for one in candidates]
        yield first + int(np.nanargmax(np.array(scores, np.float64)))
        first += len(candidates)


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    curves = []
    for key, title, hint in (*CURVES, *_online_probes(rows)):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            curves.append(Curve(title, steps, values, hint))
    return curves


def _online_probes(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Key, title and hint of the online probe of each label column."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(ONLINE))
    hint = "ranks checkpoints, is no result"
    return [(key, f"Online AUROC: {key[len(ONLINE) :]}", hint) for key in keys]


def _add_pictures(
    page: Page,
    samples: PretrainSamples,
    encoders: Mapping[str, oct_vjepa.Encoder],
) -> None:
    batch = samples(0, 0)
    volume_ZYX = batch.volume_BCZYX[0]
    config = next(iter(encoders.values())).config
    _, row_mm, column_mm = samples.spacing_mm(0)
    z = volume_ZYX.shape[0] // 2
    bscan = sized(volume_ZYX[z].numpy(), row_mm=row_mm, column_mm=column_mm)
    plane = z // config.patch_size[0]
    page.section(
        "What was masked",
        "Blue patches are targets: the context encoder never sees them. Patches that are neither "
        "context nor target are left out of that mask; depth is stretched.",
    )
    hidden = [_plane_of(one.target_BM, config.grid, plane) for one in batch.masks]
    titles = [
        f"mask {number + 1}: {int(m.mean() * 100)} % hidden" for number, m in enumerate(hidden)
    ]
    page.figure(draw_masks(bscan, hidden, titles), "The middle B-scan of a volume and its masks.")
    page.section(
        "What the features look like",
        "The first three principal components of the patch tokens of this volume, as red, green "
        "and blue. Patches of one colour are alike to the encoder.",
    )
    maps = [(name, _colours(encoder, batch, plane)) for name, encoder in encoders.items()]
    page.figure(draw_features(bscan, maps), "The same B-scan, and a PCA map of its tokens.")


def _plane_of(ids_M: torch.Tensor, grid: tuple[int, int, int], plane: int) -> NDArray[np.bool_]:
    hidden = np.zeros(grid[0] * grid[1] * grid[2], dtype=bool)
    hidden[ids_M.numpy()] = True
    return hidden.reshape(grid)[plane]


def _colours(
    encoder: oct_vjepa.Encoder, sample: oct_vjepa.JepaBatch | PairBatch, plane: int
) -> NDArray[np.float64]:
    spacing_B3 = None if sample.spacing_B3 is None else sample.spacing_B3[None]
    with torch.no_grad():
        tokens_ND = encoder(sample.volume_BCZYX[None], spacing_B3=spacing_B3)[0]
    grid = encoder.config.grid
    return principal_colours(tokens_ND).reshape(*grid, 3)[plane].numpy()


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 6:
        return f"{len(value)} entries, in provenance.json"
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
