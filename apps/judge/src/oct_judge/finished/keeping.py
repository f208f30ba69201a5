"""A finished evaluation becomes RUN/model: encoder, what was fitted, thresholds, and a card.

Of several seeds the first is kept. Of several rounds all are: each was fitted on other
participants, nobody is left over to fit one on everybody, and their mean is steadier than any. Its
temperatures are those of each round's calibration; its promise comes from scores of participants
whom the member that scored them had not seen. Where `join` is fitted, what reads all volumes of a
participant is kept with each member, and answers for participants.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import oct_io
from numpy.typing import NDArray
from oct_vjepa import Encoder
from oct_vjepa.finished.about import About, JoinedAbout, MadeFor, MemberAbout, range_of
from oct_vjepa.finished.folder import write_about
from oct_vjepa.finished.member import learn_novelty, save_novelty
from oct_vjepa.measures.measure import SPECIFICITY, find_thresholds
from oct_vjepa.measures.units import Units
from oct_vjepa.probes.answers import priors_of
from oct_vjepa.probes.protocol import Round
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.conformal import fit_label_thresholds, fit_threshold, fit_width
from oct_vjepa.trials.judging import Answer
from oct_vjepa.trials.verdict import ALPHA, calibrate, promise_of, temperature_of

from oct_judge.asking import trained_folder
from oct_judge.candidates import PRETRAINED, RANDOM
from oct_judge.finished.card import write_card
from oct_judge.finished.trained import fit_priors
from oct_judge.question import JOINED
from oct_judge.results import Found, best_baseline
from oct_judge.rivals.answers import joined_name
from oct_judge.study import Study

Floats = NDArray[np.float64]
MODEL = "model"
SEEN = {"device": "device", "protocol": "protocol", "region": "region"}
NAMED = ("git_commit", "git_clean", "versions", "precision", "encoder", "dataset_fingerprint")


def keep_model(
    run_dir: Path, found: Found, document: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Path:
    """Write RUN/model and return its place; an older one stays until the new one is whole.

    Args:
        run_dir: of the evaluation.
        found: what was asked and answered.
        document: results.json.
        provenance: of the run.
    """
    with drafting(run_dir) as draft:
        write_about(draft, gather(draft, run_dir, found, document, provenance), write_card)
    return run_dir / MODEL


@contextmanager
def drafting(run_dir: Path) -> Iterator[Path]:
    """A folder that becomes RUN/model once all is in it; an older one stays until then."""
    draft = run_dir / f".{MODEL}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    yield draft
    shutil.rmtree(run_dir / MODEL, ignore_errors=True)
    draft.rename(run_dir / MODEL)


def gather(
    draft: Path,
    run_dir: Path,
    found: Found,
    document: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> About:
    """Put the encoder and what was fitted into the draft of a model; what model.json says."""
    study, answers = found.study, found.answers[PRETRAINED][0]
    how = found.config.join
    together = joined_name(PRETRAINED, how) if how in JOINED else PRETRAINED
    whole = found.answers[together][0]  # who answers for participants
    members = []
    for number, answer in enumerate(answers):
        home = draft / "members" / str(number)
        home.mkdir(parents=True)
        if answer.probe is not None:
            member = keep_probe(home, found, answer, number)
            if how in JOINED:
                member = replace(member, joined=keep_joined(home, found, whole[number], number))
            members.append(member)
        else:
            members.append(keep_trained(home, found, answer, number, run_dir))
    if answers[0].probe is not None and found.cast.family.is_one:
        found.cast.family.first.save_pretrained(draft / "encoder")
    return About(
        question=found.config.task.name,
        kind=study.target.kind,
        names=study.target.names,
        unit=study.target.unit,
        mode=found.config.mode,
        join=how if how in JOINED else study.panel.how,
        made_up=study.source.made_up,
        shape=study.source.volumes.shape,
        window=asdict(study.source.volumes.window) | kind_of(found.config.data.kind),
        made_for=made_for(study.rounds, study.examples.volumes, found.config.data.flags),
        members=tuple(members),
        alpha=ALPHA,
        threshold=thresholds_of(answers, whole, study),
        label_thresholds=label_thresholds_of(answers, whole, study),
        cutoffs=cutoffs_of(whole, study),
        specificity=SPECIFICITY,
        results=results_of(document) | joined_results(document, found, together),
        provenance=repeated(provenance, document),
    )


def repeated(provenance: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """What the model repeats of the run's provenance."""
    question = {"question_fingerprint": document["question"]["fingerprint"]}
    return {name: provenance.get(name) for name in NAMED} | question


def kind_of(kind: str) -> dict[str, str]:
    """What stands beside a window of volumes that are no OCT."""
    return {} if kind == "oct" else {"kind": kind}


def keep_probe(home: Path, found: Found, answer: Answer, number: int) -> MemberAbout:
    """Save a probe on frozen features; all probes share one encoder, or each brings its own."""
    probe, cast = answer.probe, found.cast
    assert probe is not None
    probe.save(home)
    place = "encoder"
    if not cast.family.is_one:
        place = f"members/{number}/encoder"
        cast.family.of(answer.round, answer.seed).save_pretrained(home / "encoder")
    features = cast.own(answer.round, answer.seed)[probe.readout]
    return MemberAbout(
        encoder=place,
        probe=f"members/{number}",
        readout=probe.readout,
        temperature=temperature_of(answer, found.study.target),
        round=answer.round,
        seed=answer.seed,
        usual=keep_novelty(home, found.study.rounds[number], features),
    )


def keep_joined(home: Path, found: Found, answer: Answer, number: int) -> JoinedAbout:
    """Save what a member reads all volumes of a participant with."""
    study, config = found.study, found.config
    place = home / "joined"
    fitted = answer.pool or answer.probe
    assert fitted is not None
    fitted.save(place)
    readout, priors = str(answer.chosen["readout"]), ()
    if answer.pool is not None:
        readout = str(answer.chosen["features"])
        if config.balanced and study.target.is_counted:
            fit = np.flatnonzero(study.rounds[number].fit)
            priors = tuple(priors_of(study.target.take(fit)).tolist())
    return JoinedAbout(
        folder=f"members/{number}/joined",
        readout=readout,
        temperature=temperature_of(answer, study.target),
        priors=priors,
    )


def keep_trained(
    home: Path, found: Found, answer: Answer, number: int, run_dir: Path
) -> MemberAbout:
    """Copy the encoder and head that training left behind."""
    study = found.study
    start = found.cast.family.of(answer.round, answer.seed)
    trained = trained_folder(run_dir, PRETRAINED, start, answer.seed, number)
    alone = len(study.rounds) == 1
    encoder = "encoder" if alone else f"members/{number}/encoder"
    model = home.parent.parent
    shutil.copytree(trained / "encoder", model / encoder)
    shutil.copytree(trained / "head", home, dirs_exist_ok=True)
    features = found.cast.embed.last(Encoder.from_pretrained(trained / "encoder"), found.cast.rows)
    return MemberAbout(
        encoder=encoder,
        head=f"members/{number}",
        temperature=temperature_of(answer, study.target),
        priors=fit_priors(found, number),
        round=answer.round,
        seed=answer.seed,
        usual=keep_novelty(home, study.rounds[number], features),
    )


def keep_novelty(home: Path, one: Round, features: NDArray[np.floating[Any]]) -> float | None:
    """Save what the fit rows of a round look like; the novelty that validation rows stay below."""
    novelty, usual = learn_novelty(features, one.fit, one.validation)
    if novelty is not None:
        save_novelty(novelty, home)
    return usual


def made_for(
    rounds: Sequence[Round], volumes: oct_io.CachedVolumes, left_out: Sequence[str]
) -> MadeFor:
    """What the rows of the fits were like; scans with a flag of `left_out` are not among them."""
    entries = volumes.entries.take(np.flatnonzero(np.any([one.fit for one in rounds], axis=0)))
    seen = {
        name: tuple(sorted(set(entries.coded(column).texts().tolist())))
        for name, column in SEEN.items()
    }
    return MadeFor(
        seen=seen,
        spacing=range_of(entries.triples("spacing")),
        scan_spacing=range_of(entries.triples("source_spacing")),
        left_out=tuple(left_out),
    )


def unseen_scores(answers: Sequence[Answer], study: Study) -> tuple[Floats, NDArray[np.int64]]:
    """Calibrated scores of rows that their scorer was not fitted on, and the rows.

    Of a single round those of calibration, so that the test stays a test; of several rounds those
    of the tests, of which each row has one (or the mean of several).
    """
    target = study.target
    if len(answers) == 1:
        only = answers[0]
        return calibrate(only, target, only.calibration), only.calibration_rows
    sums, times = np.zeros((len(target), answers[0].test.shape[1])), np.zeros(len(target))
    for one in answers:
        sums[one.test_rows] += calibrate(one, target, one.test)
        times[one.test_rows] += 1
    rows = np.flatnonzero(times)
    return sums[rows] / times[rows, None], rows


def thresholds_of(
    answers: Sequence[Answer], whole: Sequence[Answer], study: Study
) -> dict[str, float | None]:
    """Conformal thresholds for volumes and for participants; None where there are too few.

    Args:
        answers: who answers for volumes.
        whole: who answers for participants.
        study: the question.
    """
    kind = study.target.kind
    if kind not in ("nominal", "ordinal", "regression"):
        return {}
    found: dict[str, float | None] = {}
    for name, one in unseen_units(answers, whole, study).items():
        if kind == "regression":
            value = fit_width(one.scores_NC[:, 0], one.labels_N, ALPHA)
        else:
            value = fit_threshold(one.scores_NC, one.labels_N, ALPHA)
        found[name] = value if np.isfinite(value) else None
    return found


def label_thresholds_of(
    answers: Sequence[Answer], whole: Sequence[Answer], study: Study
) -> dict[str, tuple[float | None, ...]]:
    """The same of each of several labels; nothing for other questions."""
    if study.target.kind != "multilabel":
        return {}
    found = {}
    for name, one in unseen_units(answers, whole, study).items():
        limits = fit_label_thresholds(one.scores_NC, one.labels_N, ALPHA).tolist()
        found[name] = tuple(value if np.isfinite(value) else None for value in limits)
    return found


def unseen_units(
    answers: Sequence[Answer], whole: Sequence[Answer], study: Study
) -> dict[str, Units]:
    """Scores of those whom no model had seen, by volume and by participant."""
    scores, rows = unseen_scores(answers, study)
    known = study.target.known[rows]
    alone = Units(scores[known], study.target.values[rows][known], np.arange(int(known.sum())))
    return {"volume": alone, "participant": study.panel.join(*unseen_scores(whole, study))}


def cutoffs_of(answers: Sequence[Answer], study: Study) -> dict[str, float]:
    """Class or label to the calibrated score of a participant from which to call it."""
    if not study.target.is_counted:
        return {}
    units = study.panel.join(*unseen_scores(answers, study))
    found = find_thresholds(study.target.kind, units, specificity=SPECIFICITY)
    pairs = zip(study.target.names, found.tolist(), strict=True)
    return {name: value for name, value in pairs if np.isfinite(value)}


def joined_results(document: Mapping[str, Any], found: Found, together: str) -> dict[str, Any]:
    """What the run has measured of who answers for participants, if that is somebody else."""
    if together == PRETRAINED:
        return {}
    row = next(one for one in document["candidates"] if one["name"] == together)
    promise = promise_of(found.answers[together], found.study.panel)
    return {
        "joined": {"name": together, "card": row["card"], "chosen": row["chosen"]},
        "promise": as_plain(asdict(promise)) if promise else None,
    }


def results_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the model repeats of results.json."""
    rows = {one["name"]: one for one in document["candidates"]}
    own, best = rows[PRETRAINED], best_baseline(document)
    beside = [name for name in (RANDOM, best) if name in rows]
    names = ("sentence", "headline", "promise", "subgroups", "novelty", "test_touches", "split")
    return {name: document[name] for name in (*names, "protocol", "seeds")} | {
        "card": own["card"],
        "chosen": own["chosen"],
        "beside": {
            name: {"card": rows[name]["card"], "gain": rows[name]["gain"]} for name in beside
        },
    }
