"""What a sweep asks of evaluations: what a job reads, its headline, and the leaderboard at last."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from oct_launch import Job, Mistake
from omegaconf import DictConfig, OmegaConf


def headline(run_dir: Path) -> dict[str, str]:
    """The headline metric of the encoder and what it gains over random init, with intervals."""
    from oct_vjepa.measures.units import Interval
    from oct_vjepa.scores.words import word

    document = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    metric, rows = document["headline"], {one["name"]: one for one in document["candidates"]}
    own = _interval(rows["pretrained"]["card"]["metrics"][metric])
    told = {"question": document["question"]["name"], word(metric): Interval(*own).text()}
    gain = rows.get("random init", {}).get("gain")
    if gain:
        told["over random init"] = Interval(*_interval(gain["difference"])).text("+")
    return told


def _interval(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if one is None else one for one in values]


def encoder_of_run(run_dir: Path) -> str:
    """Fingerprint of the encoder that a finished run has asked."""
    document = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    return str(document["entry"]["fingerprint"])


def encoder_of_settings(settings: DictConfig) -> str:
    """Fingerprint of the encoder that these settings ask; "" if it cannot be read."""
    checkpoint = json.dumps(OmegaConf.to_container(settings.checkpoint), sort_keys=True)
    return _fingerprint(str(settings.weights), checkpoint)


@cache
def _fingerprint(place: str, checkpoint: str) -> str:
    from oct_vjepa import WeightsError

    from oct_judge.checkpoint import CheckpointConfig
    from oct_judge.family import open_family

    try:
        return open_family(place, CheckpointConfig(**json.loads(checkpoint)))[0].fingerprint()
    except (Mistake, WeightsError, ValueError):
        return ""  # the job will be run, and will say why


def write_leaderboards(place: Path, jobs: Sequence[Job]) -> None:
    """Write leaderboard.csv and .html of a sweep, or one of each question where it asks several.

    Raises:
        Mistake: the runs of a question had not the same test participants.
    """
    from oct_vjepa.boards.page import NAME, sentence_of, write_board
    from oct_vjepa.boards.runs import BoardError, Run, read_run
    from oct_vjepa.boards.standings import make_board

    failed = [
        (job.name, f"exit code {job.exit_code}{f': {job.reason}' if job.reason else ''}")
        for job in jobs
        if job.exit_code
    ]
    try:
        questions: dict[tuple[str, str], list[Run]] = {}
        for job in jobs:
            if job.exit_code != 0:
                continue
            run = read_run(Path(job.run_dir))
            asked = str(run.question["name"]), str(run.question["kind"])
            questions.setdefault(asked, []).append(run)
        names = [name for name, _ in questions]
        for (question, kind), runs in questions.items():
            board = make_board(runs, failed=failed)
            alike = names.count(question) > 1  # masks are asked of voxels and of patches
            name = f"{NAME}-{question}{f'-{kind}' if alike else ''}"
            name = NAME if len(questions) == 1 else name
            print(sentence_of(board))
            print(f"leaderboard: {', '.join(map(str, write_board(board, place, name)))}")
    except BoardError as error:
        raise Mistake(f"no leaderboard: {error}") from error
