"""What training left behind in a round, opened again to score volumes."""

from pathlib import Path

import numpy as np
from oct_vjepa import Encoder
from oct_vjepa.finished.about import MemberAbout
from oct_vjepa.finished.member import Member
from oct_vjepa.heads.build import load_head
from oct_vjepa.heads.supervised import VolumeNetwork
from oct_vjepa.trials.judging import Answer
from safetensors.torch import load_file

from oct_judge.asking import trained_folder, untrained
from oct_judge.candidates import PRETRAINED, RANDOM
from oct_judge.results import Found
from oct_judge.rivals.training import NETWORK_FILE, make_objective, network_folder
from oct_judge.training import rows_to_fit, shares_in_fit


def open_trained(
    found: Found, answer: Answer, number: int, run_dir: Path, who: str = PRETRAINED
) -> Member:
    """The encoder and head that gave an answer, before their temperature.

    Args:
        found: of a training mode.
        answer: of the encoder that was asked, or of its random init.
        number: of its round.
        run_dir: of the evaluation.
        who: of these two it was.
    """
    if who == RANDOM:
        start = untrained(found.cast, answer.round, answer.seed)
    else:
        start = found.cast.family.of(answer.round, answer.seed)
    place = trained_folder(run_dir, who, start, answer.seed, number)
    device = found.cast.embed.runtime.device
    return Member(
        about=MemberAbout(encoder="encoder", head="head", priors=fit_priors(found, number)),
        kind=found.study.target.kind,
        encoder=Encoder.from_pretrained(place / "encoder", device=device),
        head=load_head(place / "head").to(device),
    )


def open_network(
    found: Found, name: str, answer: Answer, number: int, run_dir: Path
) -> VolumeNetwork:
    """A network of `compare.networks` as its training in a round has left it.

    Args:
        found: of the evaluation.
        name: of the network.
        answer: that it gave.
        number: of the round.
        run_dir: of the evaluation.
    """
    study, training = found.study, found.config.training
    fit = rows_to_fit(training, study.target, study.rounds[number])
    answers, volumes = study.target.take(fit), study.examples.volumes
    network = make_objective(training, name, volumes, answers, fit, answer.seed)
    place = network_folder(run_dir, name, answer.seed, number)
    network.network.load_state_dict(load_file(place / NETWORK_FILE))
    return network.to(found.cast.embed.runtime.device).eval()


def fit_priors(found: Found, number: int) -> tuple[float, ...]:
    """Shares to which what training says in a round is brought, if it weighed classes otherwise."""
    fit = np.flatnonzero(found.study.rounds[number].fit)
    shares = shares_in_fit(found.config.training, found.study.target.take(fit))
    return () if shares is None else tuple(shares.tolist())
