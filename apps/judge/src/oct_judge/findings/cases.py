"""Cases of the test on which the encoder was surest, and which parts their answers hang on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from oct_launch import Stages
from oct_vjepa.evaluation.features import embed_batch
from oct_vjepa.evaluation.occlusion import Occlusion, occlude
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.fitted import FittedProbe
from oct_vjepa.trials.cases import Case, choose_cases
from oct_vjepa.trials.judging import Answer, Answers

from oct_judge.candidates import Cast
from oct_judge.question import FinetuneConfig
from oct_judge.study import Study

TINY = 1e-150  # its ratio to 1, turned over, is still a number
FROZEN_ONLY = "occlusion maps are made of frozen features alone (mode=linear, knn or mlp)"


def cases_of(
    config: FinetuneConfig, study: Study, cast: Cast, answers: Answers, stages: Stages
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Facts for results.json, and pictures for cases.npz: a B-scan and two maps of each case."""
    if not config.compare.maps:
        return {"why_not": "compare.maps=0"}, {}
    if any(one.probe is None for one in answers[0]):
        return {"why_not": FROZEN_ONLY}, {}
    told, arrays = [], dict[str, NDArray[Any]]()
    chosen = chosen_of(study, answers[0], config.compare.maps)
    for number, (answer, case) in enumerate(chosen):
        stages("covering volumes", number + 1, len(chosen))
        volume = cast.rows.volumes[case.row]
        spacing = np.asarray(cast.rows.spacings)[case.row]
        score = scorer(cast, answer, study, case, spacing)
        found = occlude(volume, cast.family.config.patch_size, score, batch=config.batch_size)
        plane = shown_plane(found, len(volume))
        told.append(
            {"right": case.right, "round": answer.round, "bscan": plane}
            | facts_of(study, answer, case, found)
        )
        arrays[f"bscan {number}"] = volume[plane]
        arrays[f"above {number}"] = volume.mean(axis=1).round().astype(np.uint8)
        arrays[f"front map {number}"] = found.front_YX.astype(np.float32)
        arrays[f"above map {number}"] = found.above_ZX.astype(np.float32)
        arrays[f"spacing {number}"] = np.asarray(spacing, np.float64)
    return {"cases": told}, arrays


def chosen_of(study: Study, rounds: list[Answer], count: int) -> list[tuple[Answer, Case]]:
    """Cases of all rounds of the first seed; their rows are those of the study."""
    rows = np.concatenate([one.test_rows for one in rounds])
    scores = np.concatenate([one.test_decided for one in rounds])
    owner = np.repeat(np.arange(len(rounds)), [len(one.test_rows) for one in rounds])
    found = choose_cases(scores, study.target.take(rows), study.panel.people[rows], count)
    return [(rounds[owner[one.row]], one._replace(row=int(rows[one.row]))) for one in found]


def scorer(
    cast: Cast, answer: Answer, study: Study, case: Case, spacing: NDArray[Any]
) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """Volumes to the score that a map is of: log-odds of what was called, a quantity, or a risk.

    Of a label that was denied it is the log-odds of its absence.
    """
    probe = answer.probe
    assert isinstance(probe, FittedProbe)
    encoder, embed = cast.family.of(answer.round, answer.seed), cast.embed
    blocks, pool = embed.readout.names(encoder.config.depth)[probe.readout]
    target = study.target
    sign = -1.0 if is_denied(target, score_of(answer, case), case) else 1.0
    by_length = encoder.config.position_unit == "length"

    def score(volumes: NDArray[Any]) -> NDArray[np.float64]:
        each = torch.from_numpy(np.tile(np.asarray(spacing, np.float32), (len(volumes), 1)))
        with embed.runtime.autocast():
            features = embed_batch(
                encoder,
                volumes,
                pools=[pool],
                spacing_B3=each if by_length else None,
                layers=blocks,
            )
        scores = probe.predict({probe.readout: features[pool]})
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
