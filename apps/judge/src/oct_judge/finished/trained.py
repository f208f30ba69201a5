"""What training left behind in a round, opened again to score volumes."""

from pathlib import Path

import numpy as np
from oct_vjepa import Encoder
from oct_vjepa.finished.about import MemberAbout
from oct_vjepa.finished.member import Member
from oct_vjepa.heads.build import load_head
from oct_vjepa.probes.answers import priors_of
from oct_vjepa.trials.judging import Answer

from oct_judge.asking import trained_folder
from oct_judge.candidates import PRETRAINED
from oct_judge.results import Found


def open_trained(found: Found, answer: Answer, number: int, run_dir: Path) -> Member:
    """The encoder and head that gave an answer, before their temperature.

    Args:
        found: of a training mode.
        answer: of the encoder that was asked.
        number: of its round.
        run_dir: of the evaluation.
    """
    start = found.cast.family.of(answer.round, answer.seed)
    place = trained_folder(run_dir, PRETRAINED, start, answer.seed, number)
    device = found.cast.embed.runtime.device
    return Member(
        about=MemberAbout(encoder="encoder", head="head", priors=fit_priors(found, number)),
        kind=found.study.target.kind,
        encoder=Encoder.from_pretrained(place / "encoder", device=device),
        head=load_head(place / "head").to(device),
    )


def fit_priors(found: Found, number: int) -> tuple[float, ...]:
    """Shares of the classes among the fit rows of a round, if training took them for alike."""
    target = found.study.target
    if not target.is_counted or found.config.training.class_weights != "auto":
        return ()
    fit = np.flatnonzero(found.study.rounds[number].fit)
    return tuple(priors_of(target.take(fit)).tolist())
