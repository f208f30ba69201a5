"""Cases of the test on which the encoder was surest, and which parts their answers hang on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_launch import Stages
from oct_vjepa import Encoder
from oct_vjepa.evaluation.features import embed_batch
from oct_vjepa.evaluation.occlusion import Occlusion, occlude
from oct_vjepa.evaluation.sliced import SlicedEncoder, over_volumes
from oct_vjepa.finished.member import score_batch
from oct_vjepa.measures.target import Target
from oct_vjepa.trials.cases import Case, choose_cases
from oct_vjepa.trials.judging import Answer

from oct_judge.candidates import PRETRAINED
from oct_judge.findings.localizer import as_arrays, place_window, read_localizers
from oct_judge.finished.trained import open_trained
from oct_judge.results import Found
from oct_judge.study import Study

TINY = 1e-150  # its ratio to 1, turned over, is still a number


def cases_of(
    found: Found, run_dir: Path, stages: Stages
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Facts for results.json, and pictures for cases.npz: a B-scan and two maps of each case.

    Args:
        found: the answers.
        run_dir: of the evaluation; what was trained lies there.
        stages: told of progress.
    """
    config, study, cast = found.config, found.study, found.cast
    if not config.compare.maps:
        return {"why_not": "compare.maps=0"}, {}
    told, arrays = [], dict[str, NDArray[Any]]()
    rounds = found.answers[PRETRAINED][0]
    chosen = chosen_of(study, rounds, config.compare.maps)
    entries = {case.row: study.examples.volumes.entries[case.row] for _, case in chosen}
    scans = read_localizers(config.data, entries)
    for number, (turn, case) in enumerate(chosen):
        answer = rounds[turn]
        stages("covering volumes", number + 1, len(chosen))
        volume = cast.rows.volumes[case.row]
        spacing = np.asarray(cast.rows.spacings)[case.row]
        ask = asker(found, answer, turn, run_dir)
        score = scorer(ask, answer, study.target, case, spacing)
        seen = occlude(volume, cast.family.config.patch_size, score, batch=config.batch_size)
        plane = shown_plane(seen, len(volume))
        told.append(
            {"right": case.right, "round": answer.round, "bscan": plane}
            | facts_of(study, answer, case, seen)
        )
        arrays[f"bscan {number}"] = volume[plane]
        arrays[f"above {number}"] = volume.mean(axis=1).round().astype(np.uint8)
        arrays[f"front map {number}"] = seen.front_YX.astype(np.float32)
        arrays[f"above map {number}"] = seen.above_ZX.astype(np.float32)
        arrays[f"spacing {number}"] = np.asarray(spacing, np.float64)
        if case.row in scans:
            place = place_window(
                scans[case.row], entries[case.row], volume.shape, seen.above_ZX.shape, plane
            )
            arrays |= as_arrays(number, place)
    return {"cases": told}, arrays


def chosen_of(study: Study, rounds: list[Answer], count: int) -> list[tuple[int, Case]]:
    """Number of the round, and a case of it, of the first seed; rows are those of the study."""
    rows = np.concatenate([one.test_rows for one in rounds])
    scores = np.concatenate([one.test_decided for one in rounds])
    owner = np.repeat(np.arange(len(rounds)), [len(one.test_rows) for one in rounds])
    found = choose_cases(scores, study.target.take(rows), study.panel.people[rows], count)
    return [(int(owner[one.row]), one._replace(row=int(rows[one.row]))) for one in found]


Asking = Callable[[NDArray[Any], torch.Tensor | None], NDArray[np.float64]]
"""Volumes (B, Z, Y, X) and their spacing to scores in which classes weigh alike."""


def asker(found: Found, answer: Answer, number: int, run_dir: Path) -> Asking:
    """Whoever gave the answer of a round, for volumes that are not in the study."""
    embed, probe = found.cast.embed, answer.probe
    if probe is None:
        member = open_trained(found, answer, number, run_dir)

        def by_head(volumes: NDArray[Any], spacing_B3: torch.Tensor | None) -> NDArray[np.float64]:
            with embed.runtime.autocast():
                return score_batch([member], volumes, spacing_B3).even_NK

        return _knowing(member.encoder, by_head)
    own = found.cast.family.of(answer.round, answer.seed)
    encoder = over_volumes(own, found.study.rows.bscans)
    blocks, pool = embed.readout.names(encoder.config.depth)[probe.readout]

    def by_probe(volumes: NDArray[Any], spacing_B3: torch.Tensor | None) -> NDArray[np.float64]:
        with embed.runtime.autocast():
            features = embed_batch(
                encoder, volumes, pools=[pool], spacing_B3=spacing_B3, layers=blocks
            )
        return probe.predict({probe.readout: features[pool]})

    return _knowing(encoder, by_probe)


def _knowing(encoder: Encoder | SlicedEncoder, ask: Asking) -> Asking:
    """The same, told of spacing only if its encoder wants to know it."""
    by_length = encoder.config.position_unit == "length"
    return lambda volumes, spacing_B3: ask(volumes, spacing_B3 if by_length else None)


def scorer(
    ask: Asking, answer: Answer, target: Target, case: Case, spacing: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """Volumes to the score that a map is of: log-odds of what was called, a quantity, or a risk.

    Of a label that was denied it is the log-odds of its absence.
    """
    sign = -1.0 if is_denied(target, score_of(answer, case), case) else 1.0

    def score(volumes: NDArray[Any]) -> NDArray[np.float64]:
        each = torch.from_numpy(np.tile(np.asarray(spacing, np.float32), (len(volumes), 1)))
        scores = ask(volumes, each)
        if not target.is_counted:
            return scores[:, case.output]
        return sign * log_odds(scores, case.output, target)

    return score


def score_of(answer: Answer, case: Case) -> NDArray[np.float64]:
    """What the answer said of the row of a case, (K,)."""
    found: NDArray[np.float64] = answer.test_decided[answer.test_rows == case.row][0]
    return found


def is_denied(target: Target, score_K: NDArray[np.float64], case: Case) -> bool:
    """Whether the answer was that a label is not there."""
    return target.kind == "multilabel" and bool(score_K[case.output] < 0.5)


def log_odds(scores_NK: NDArray[np.float64], output: int, target: Target) -> NDArray[np.float64]:
    """0 where a thing is as likely as not; of what is certain to 16 digits it still tells more.

    What is not the thing is the sum of the other classes, and not 1 less it, which would be 0.
    """
    chance = scores_NK[:, output]
    others = np.delete(scores_NK, output, axis=1).sum(axis=1) if target.is_classes else 1 - chance
    odds: NDArray[np.float64] = np.log(np.maximum(chance, TINY) / np.maximum(others, TINY))
    return odds


def shown_plane(found: Occlusion, bscans: int) -> int:
    """The B-scan in the middle of the part that matters most."""
    part = int(np.abs(found.above_ZX).max(axis=1).argmax())
    return int((part + 0.5) * bscans / len(found.above_ZX))


def facts_of(study: Study, answer: Answer, case: Case, found: Occlusion) -> dict[str, Any]:
    """What was said, what is true, and how far the answer falls where it matters most."""
    target, row = study.target, case.row
    score = score_of(answer, case)
    drop = float(max(found.front_YX.max(), found.above_ZX.max()))
    told: dict[str, Any] = {"score": float(score[case.output]), "score_is": "predicted"}
    told["strongest"] = float(max(np.abs(found.front_YX).max(), np.abs(found.above_ZX).max()))
    if target.is_classes:
        told |= {"called": target.names[case.output], "true": target.names[target.values[row]]}
    elif target.kind == "multilabel":
        name = target.names[case.output]
        has = target.values[row, case.output] == 1
        denied = is_denied(target, score, case)
        told["score"] = abs(float(denied) - told["score"])  # of what was said, not of the label
        told |= {"called": f"{name}: {'no' if denied else 'yes'}"}
        told |= {"true": f"{name}: {'yes' if has else 'no'}"}
    elif target.kind == "regression":
        unit = f" {target.unit}".rstrip()
        told |= {"called": f"{score[0]:.1f}{unit}", "true": f"{target.values[row]:.1f}{unit}"}
    else:
        time = f"{target.values[row, 0]:.1f} {target.unit}".rstrip()
        told |= {"called": f"risk {score[0]:.2f}", "true": f"event after {time}"}
    if target.is_counted:
        covered = 1 / (1 + np.exp(drop - found.score))
        told |= {"score_is": "probability", "covered": float(covered)}
    else:
        told["covered"] = found.score - drop
    return told
